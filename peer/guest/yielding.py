"""When a node gives way, and when it goes on: at once, and after a quiet time. Pure.

Sensors say what they see; three values: something, nothing, or that they cannot tell, and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from talkoot.peer.guest.holds import Holds
from talkoot.peer.guest.words import Reason


@dataclass(frozen=True, slots=True)
class Found:
    """There is a reason to give way."""

    subject: str
    """Who or what it is. While it stays the same, nothing new is said."""
    detail: str
    """In words for people, figures included, as of when it was first seen."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """This machine does not tell."""

    why: str


Sight = Found | Unknown | None
"""What a sensor sees; None: it looked, and there is nothing."""


@dataclass(slots=True)
class _Up:
    """A reason that holds."""

    subject: str
    detail: str
    over_s: float | None = None
    """When it was first not found any more."""


class Yielding:
    """Puts a reason up when it is found and lifts it when it was not found for a while."""

    def __init__(self, holds: Holds) -> None:
        self._holds = holds
        self._up: dict[Reason, _Up] = {}

    @property
    def up(self) -> frozenset[Reason]:
        """What holds, also what is only waited for."""
        return frozenset(self._up)

    def look(self, found: Mapping[Reason, Found], *, now: float, unix_s: float, quiet_s: float) -> None:
        """What is found now; `now` is a clock that never jumps, `unix_s` the one that people read."""
        for reason, what in found.items():
            up = self._up.get(reason)
            if up is None or up.subject != what.subject:
                up = self._up[reason] = _Up(what.subject, what.detail)
            up.over_s = None
            self._holds.put(reason, up.detail)
        for reason in [*self._up]:
            if reason not in found:
                self._fade(reason, self._up[reason], now, unix_s, quiet_s)

    def _fade(self, reason: Reason, up: _Up, now: float, unix_s: float, quiet_s: float) -> None:
        if up.over_s is None:
            up.over_s = now
            self._holds.put(reason, f"{up.detail}, until a moment ago", until=unix_s + quiet_s)
        if now - up.over_s >= quiet_s:
            self.drop(reason)

    def drop(self, reason: Reason) -> None:
        """Nobody asks for it any more: lifted at once."""
        if self._up.pop(reason, None) is not None:
            self._holds.lift(reason)


class Band:
    """A figure that is too high from `limit` on, and well again only below `release`."""

    def __init__(self) -> None:
        self._over = False

    def over(self, figure: float, *, limit: float, release: float) -> bool:
        """Whether it is too high; `release` <= `limit`."""
        self._over = figure >= (release if self._over else limit)
        return self._over


FIRST_REST_S = 60.0
MAX_REST_S = 3600.0
"""How long a node rests that took too much, the first time and at most."""

FORGIVEN_S = 1200.0
"""After so long without it the next time is the first again."""


class Rest:
    """What came from the node itself comes again when it goes on: so it rests, twice as long each time."""

    def __init__(self) -> None:
        self._until = 0.0
        self._last_s = 0.0

    def needed(self, too_much: bool, now: float) -> bool:
        """Whether to rest at `now`. While it rests, `too_much` is not asked."""
        if now < self._until:
            return True
        if not too_much:
            return False
        again = self._last_s > 0 and now - self._until < FORGIVEN_S
        self._last_s = min(2 * self._last_s, MAX_REST_S) if again else FIRST_REST_S
        self._until = now + self._last_s
        return True
