"""What keeps a node from training at present. Several reasons may hold at a time; one is shown. Pure."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from talkoot.peer.guest.words import BETWEEN, COSTLY, LOADED, REASONS, SILENT, Reason


@dataclass(frozen=True, slots=True)
class Hold:
    """One reason."""

    reason: Reason
    detail: str = ""
    """What exactly it is, for people: "Blender runs", "83 of 80 °C"."""
    until: float | None = None
    """Unix time at which it ends by itself; None: not known."""

    @property
    def words(self) -> str:
        """The detail; without one, until when it holds."""
        return self.detail or (f"until {local_time(self.until)}" if self.until is not None else "")


def local_time(at: float) -> str:
    """A Unix time on this computer's clock: `18:00`, with weekday or date where it is not within a day."""
    left_s = at - time.time()
    form = "%H:%M" if left_s < 20 * 3600 else "%a %H:%M" if left_s < 6 * 86400 else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(at))


class Holds:
    """Who finds a reason puts it up and takes it down again; the node follows."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called after each change, of a detail as well."""
        self._on_change = on_change
        self._holds: dict[Reason, Hold] = {}

    def put(self, reason: Reason, detail: str = "", *, until: float | None = None) -> None:
        """It holds from now on; again: in other words."""
        hold = Hold(reason, detail, until)
        if self._holds.get(reason) != hold:
            self._holds[reason] = hold
            self._on_change()

    def lift(self, reason: Reason) -> None:
        """It holds no longer."""
        if self._holds.pop(reason, None) is not None:
            self._on_change()

    def __contains__(self, reason: Reason) -> bool:
        return reason in self._holds

    @property
    def all(self) -> tuple[Hold, ...]:
        """Those that hold, the one to be shown first."""
        return tuple(self._holds[reason] for reason in REASONS if reason in self._holds)

    @property
    def shown(self) -> Hold | None:
        """The first of them."""
        return next(iter(self.all), None)

    @property
    def silent(self) -> bool:
        """Whether one of them leaves no traffic of rounds either."""
        return not SILENT.isdisjoint(self._holds)

    @property
    def costly(self) -> bool:
        """Whether one of them leaves no traffic for others at all."""
        return not COSTLY.isdisjoint(self._holds)

    @property
    def unloads(self) -> bool:
        """Whether one of them ends the trainer's process."""
        return not self._holds.keys() <= LOADED

    @property
    def rests(self) -> bool:
        """Whether one of them keeps the node from rounds."""
        return not self._holds.keys() <= BETWEEN
