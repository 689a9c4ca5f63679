"""Keeps the hold `schedule` as the clock and the settings have it."""

import logging
import time
from collections.abc import Callable

from talkoot.peer.guest.holds import Holds
from talkoot.peer.guest.schedule import Schedule
from talkoot.peer.guest.settings import Current, GuestSettings

log = logging.getLogger("talkoot.node")


class Timetable:
    """Of one node. `look` now and then: the clock may be set, and the computer may sleep."""

    def __init__(self, holds: Holds, settings: Current, unix: Callable[[], float] = time.time) -> None:
        """`unix` gives Unix time."""
        self._holds = holds
        self._unix = unix
        self._schedule = Schedule(())
        self._computed_s = 0.0
        self._until: float | None = None
        settings.follow(self._follow)

    def _follow(self, settings: GuestSettings) -> None:
        self._schedule = Schedule(settings.schedule, settings.timezone)
        self._until = None
        self.look()

    def look(self) -> None:
        """Put the hold or lift it. Quick."""
        now = self._unix()
        if self._schedule.is_open(now):
            self._holds.lift("schedule")
            return
        if self._until is None or not self._computed_s <= now < self._until:
            self._until = self._schedule.changes_at(now)
        self._computed_s = now
        self._holds.put("schedule", "outside the hours of the schedule", until=self._until)
