"""The list of banned peers on disk: whom, why, whose decision, until when. Bounded and written atomically."""

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import key_of_peer_id, peer_id_of
from talkoot.peer.penalties import OPERATOR
from talkoot.peer.small_files import read_small, write_small

MAX_BANS = 1000
"""Most bans that are kept. When there are more, those of our own scores that end first are dropped."""

MAX_REASON_CHARS = 80
"""Longest reason."""

MAX_BAN_S = 100 * 366 * 86400.0
"""Longest ban that ends at all."""


class Ban(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One banned peer."""

    peer: Annotated[str, Meta(max_length=64)]
    """Its PeerID."""
    reason: Annotated[str, Meta(max_length=MAX_REASON_CHARS)]
    by: Annotated[str, Meta(max_length=16)]
    """`operator` or `score`."""
    since: float
    """Unix time."""
    until: float | None
    """Unix time; None: until it is lifted."""

    def over(self, now: float) -> bool:
        """Whether it has ended."""
        return self.until is not None and self.until <= now


_Bans = Annotated[list[Ban], Meta(max_length=MAX_BANS)]


class BanList:
    """Bans by key. `load` and `save` block; the rest is in memory. `now` is Unix time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bans: dict[bytes, Ban] = {}

    @classmethod
    def load(cls, path: Path) -> "BanList":
        """What the file holds; no file: nobody. Raises ConfigError where it cannot be read or is damaged."""
        made = cls(path)
        data = read_small(path)
        if data is not None:
            try:
                bans = msgspec.json.decode(data, type=_Bans)
                made._bans = {key_of_peer_id(ban.peer): ban for ban in bans}
            except (ValueError, RecursionError) as error:
                raise ConfigError(
                    f"{path} is damaged: correct it, or move it away to go on without its bans ({error})"
                ) from error
        return made

    def save(self) -> None:
        """Write the file. Raises ConfigError."""
        self.write(self.encode())

    def write(self, data: bytes) -> None:
        """Write what `encode` gave; for a thread, while the list may change. Raises ConfigError."""
        write_small(self._path, data)

    def encode(self) -> bytes:
        """The file's content: JSON, one ban a line."""
        lines = b",\n".join(msgspec.json.encode(ban) for ban in self._bans.values())
        return b"[\n" + lines + b"\n]\n"

    def add(self, peer: bytes, *, reason: str, by: str, for_s: float | None, now: float) -> Ban:
        """Ban a peer, in place of an earlier ban. Raises ValueError for a reason or a time out of bounds, and
        where the operator has filled the list."""
        reason = " ".join(reason.split())
        if len(reason) > MAX_REASON_CHARS or not reason.isprintable():
            raise ValueError(f"a reason has at most {MAX_REASON_CHARS} characters, all of them printable")
        if for_s is not None and not 0 < for_s <= MAX_BAN_S:
            raise ValueError("a ban lasts for more than no time, and at most a hundred years")
        until = None if for_s is None else now + for_s
        self._make_room(peer, by, now)
        ban = Ban(peer=peer_id_of(peer), reason=reason, by=by, since=now, until=until)
        self._bans[peer] = ban
        return ban

    def lift(self, peer: bytes) -> bool:
        """Whether there was a ban to lift."""
        return self._bans.pop(peer, None) is not None

    def of(self, peer: bytes, now: float) -> Ban | None:
        """The ban of a peer, if it has not ended."""
        ban = self._bans.get(peer)
        return None if ban is None or ban.over(now) else ban

    def current(self, now: float) -> dict[bytes, Ban]:
        """All bans that have not ended."""
        return {peer: ban for peer, ban in self._bans.items() if not ban.over(now)}

    def expire(self, now: float) -> bool:
        """Drop those that have ended; whether there were any."""
        before = len(self._bans)
        self._bans = self.current(now)
        return len(self._bans) != before

    def _make_room(self, peer: bytes, by: str, now: float) -> None:
        self.expire(now)
        if peer in self._bans or len(self._bans) < MAX_BANS:
            return
        ours = [key for key, ban in self._bans.items() if ban.by != OPERATOR]
        if not ours:
            if by == OPERATOR:
                raise ValueError(f"{MAX_BANS} peers are banned already: lift a ban first")
            raise ValueError("no room for another ban")
        del self._bans[min(ours, key=lambda key: self._bans[key].until or math.inf)]


def as_json(ban: Ban) -> dict[str, Any]:
    """A ban in the API."""
    return {"reason": ban.reason, "by": ban.by, "since": ban.since, "until": ban.until}


def banned_as_json(bans: BanList, now: float) -> list[dict[str, Any]]:
    """The peers of `talkoot peers` where no daemon runs: what is on disk."""
    nothing = dict.fromkeys(("public_name", "role", "round", "connected", "voter", "score", "watch"))
    return [
        {"peer_id": ban.peer, "state": "banned", **nothing, "score_reason": "", "ban": as_json(ban)}
        for _, ban in sorted(bans.current(now).items())
    ]
