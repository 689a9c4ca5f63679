"""Bytes of a calendar month, in local time. Pure but for the machine's time zone."""

import time
from dataclasses import dataclass, replace
from typing import Self

import msgspec

from talkoot.dht.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Month:
    """What a node has sent and received in one month."""

    name: str
    """Such as 2026-11: later ones compare as greater."""
    sent: int = 0
    received: int = 0

    @property
    def used(self) -> int:
        """Both together, as providers count."""
        return self.sent + self.received

    def add(self, sent: int, received: int, now: float) -> "Month":
        """So much more at `now`, which may begin another month. A clock that was set back begins none."""
        name = month_of(now)
        month = Month(name) if name > self.name else self
        return replace(month, sent=month.sent + sent, received=month.received + received)

    def encode(self) -> bytes:
        """As a file."""
        return msgspec.json.encode({"month": self.name, "sent": self.sent, "received": self.received})

    @classmethod
    def decode(cls, data: bytes, now: float) -> Self:
        """From a file; one of a month that is over, or has not come yet, is as good as none. Raises
        ConfigError for what no node wrote."""
        try:
            kept = msgspec.json.decode(data, type=_Kept)
        except msgspec.DecodeError as error:
            raise ConfigError(f"it is damaged ({error})") from error
        this = month_of(now)
        return cls(this, kept.sent, kept.received) if kept.month == this else cls(this)


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    month: str
    sent: int
    received: int

    def __post_init__(self) -> None:
        if min(self.sent, self.received) < 0 or max(self.sent, self.received) >= 2**63:
            raise ValueError("bytes must be 0 or more, below 2**63")


def month_of(now: float) -> str:
    """The month of a time, here."""
    return time.strftime("%Y-%m", time.localtime(now))


def next_month(now: float) -> float:
    """When the next month begins, here."""
    local = time.localtime(now)
    return time.mktime((local.tm_year, local.tm_mon + 1, 1, 0, 0, 0, 0, 0, -1))
