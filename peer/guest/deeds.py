"""What a node did, summed up over all of its starts, for the person whose computer it is. Pure.

One small file in the state directory; nobody else is told.
"""

import math
import time
from typing import Any

import msgspec

from talkoot.peer.history import RoundRecord

MAX_BYTES = 64 * 1024
"""Longest file that is read."""

LAST_ROUNDS = 10
"""Rounds that are listed."""

MAX_MONTHS = 36
"""Months that are kept."""

MAX_REASONS = 32
"""Reasons that are told apart."""

JOULES_PER_KWH = 3.6e6


class Month(msgspec.Struct, forbid_unknown_fields=True):
    """Bytes of what nodes say to each other, in one month of local time."""

    sent: int = 0
    received: int = 0


class Round(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One round, and what became of our part in it."""

    round: int
    at_s: float
    """Unix time at which it was committed here."""
    outcome: str
    """`counted`, or why not."""
    seconds: float | None = None
    """From closing it to its commit; None: it was fetched."""


class Deeds(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The file. Joules are of the whole device while the trainer ran."""

    format: int = 1
    since_s: float
    """Unix time of the first entry."""
    saved_s: float = 0.0
    """Unix time of the last one."""
    steps: int = 0
    tokens: int = 0
    worked_s: float = 0.0
    """Time in which the trainer worked."""
    measured_s: float = 0.0
    """Of that, with the energy known."""
    joules: float = 0.0
    energy_price: float = 0.0
    """Of a kilowatt-hour, as it was set last; 0: not known."""
    currency: str = ""
    counted: int = 0
    not_counted: dict[str, int] = msgspec.field(default_factory=dict)
    """Rounds by reason."""
    months: dict[str, Month] = msgspec.field(default_factory=dict)
    """By `2026-11`."""
    last_rounds: list[Round] = msgspec.field(default_factory=list)
    """Newest last."""

    @property
    def energy(self) -> float | None:
        """Joules; None where nothing ever told."""
        return self.joules if self.measured_s > 0 else None

    @property
    def cost(self) -> float | None:
        """None where the energy or the price is not known."""
        known = self.measured_s > 0 and self.energy_price > 0
        return self.joules / JOULES_PER_KWH * self.energy_price if known else None

    def add_round(self, record: RoundRecord, me: str, now: float) -> None:
        """A round is committed; one that is known already is not counted again. `me` is our peer id."""
        if self.last_rounds and record.round <= self.last_rounds[-1].round:
            return
        outcome = outcome_of(record, me)
        if outcome == "counted":
            self.counted += 1
        else:
            known = outcome if outcome in self.not_counted or len(self.not_counted) < MAX_REASONS else "other"
            self.not_counted[known] = self.not_counted.get(known, 0) + 1
        self.last_rounds.append(Round(record.round, now, outcome, record.seconds))
        del self.last_rounds[:-LAST_ROUNDS]

    def add_traffic(self, sent: int, received: int, now: float) -> None:
        """So many bytes more."""
        if not sent and not received:
            return
        name = time.strftime("%Y-%m", time.localtime(now))
        month = self.months.setdefault(name, Month())
        month.sent += sent
        month.received += received
        for old in sorted(self.months)[:-MAX_MONTHS]:
            del self.months[old]

    def add_work(self, seconds: float, joules: float | None) -> None:
        """The trainer worked so long, which took so much energy, if that is known."""
        self.worked_s += seconds
        if joules is not None and math.isfinite(joules):
            self.measured_s += seconds
            self.joules += joules


def outcome_of(record: RoundRecord, me: str) -> str:
    """What became of the part of the peer `me`, whose record it is."""
    if record.own:
        return "counted"
    if record.own is None:
        return "nothing sent" if record.seconds is not None else "not there"
    reasons = {item["peer_id"]: item["reason"] for item in record.left_out}
    return reasons.get(me, "late")


def read(data: bytes) -> Deeds:
    """What `write` made. Raises ValueError for what it did not."""
    try:
        deeds = msgspec.json.decode(data, type=Deeds)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if deeds.format != 1:
        raise ValueError(f"format {deeds.format}")
    return deeds


def write(deeds: Deeds) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(deeds), indent=1)


class Since:
    """How much a total that begins at 0 now and then grew since it was last looked at."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def more(self, name: str, total: float) -> float:
        """Of the total called `name`."""
        seen = self._seen.get(name, 0)
        self._seen[name] = total
        return total - seen if total >= seen else total
