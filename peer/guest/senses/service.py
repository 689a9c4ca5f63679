"""Looks again and again at what would have the node give way, and puts and lifts its holds."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from talkoot.peer import clock
from talkoot.peer.guest.holds import Holds
from talkoot.peer.guest.senses.bus import Bus
from talkoot.peer.guest.senses.desktop import GameMode, Metered, UserActive
from talkoot.peer.guest.senses.machine import Machine, Sights
from talkoot.peer.guest.settings import Current, GuestSettings
from talkoot.peer.guest.timetable import Timetable
from talkoot.peer.guest.words import Reason
from talkoot.peer.guest.yielding import Found, Sight, Unknown, Yielding

log = logging.getLogger("talkoot.senses")

POLL_S = 1.5
"""Between two looks. A reason is up within that, and the time of a look."""

SLOW_POLLS = 4
"""Battery, network and temperature are looked at once in so many looks."""

MAX_SAID = 100
"""What cannot be told is said once, as long as it is not always something else."""


class Senses:
    """Of one node. `run` it as a task."""

    def __init__(
        self,
        holds: Holds,
        settings: Current,
        device: Callable[[], str],
        *,
        gpu_file: Path | None = None,
        system: Bus | None = None,
        session: Bus | None = None,
        poll_s: float = POLL_S,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        """`device` that is trained on, as torch names it, or `auto`. `gpu_file`: see `FileReadings`.
        `on_look` is called after each look."""
        self._on_look = on_look
        self._settings = settings
        self._device = device
        self._poll_s = poll_s
        self._timetable = Timetable(holds, settings)
        self._yielding = Yielding(holds)
        self._machine = Machine(gpu_file)
        self._buses = system or Bus("system"), session or Bus("session")
        self._game_mode = GameMode(self._buses[1])
        self._user_active = UserActive(self._buses[0])
        self._metered = Metered(self._buses[0])
        self._sights: Sights = {}
        self._said: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()
        """The settings were, since the last look."""
        settings.follow(lambda _settings: self._changed.set())

    def report(self) -> dict[str, str]:
        """For each sensor that is asked `clear`, what it found, or `unknown: ` and why."""
        return {title: _words(sight) for title, (_, sight) in sorted(self._sights.items())}

    async def run(self) -> None:
        """Look until cancelled."""
        # A thread of its own: the common ones may all be busy with tensors for seconds.
        thread = ThreadPoolExecutor(1, "senses")
        number = 0
        try:
            while True:
                fresh = self._changed.is_set()
                self._changed.clear()
                number = 0 if fresh else (number + 1) % SLOW_POLLS
                await self._look(thread, slow=number == 0, fresh=fresh)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s if self._settings.now.gives_way else None):
                        await self._changed.wait()
        finally:
            thread.shutdown(wait=False)
            for bus in self._buses:
                await bus.close()

    async def _look(self, thread: ThreadPoolExecutor, *, slow: bool, fresh: bool) -> None:
        settings = self._settings.now
        self._timetable.look()
        look = partial(self._machine.look, settings, self._device(), slow=slow)
        if not settings.gives_way:
            self._sights = {}
            self._give_way(settings, fresh=fresh)
            return
        try:
            seen = await asyncio.get_running_loop().run_in_executor(thread, look)
        except OSError as error:  # no descriptors left, say: as it was before
            log.debug("nothing could be looked at: %s", error)
            return
        seen |= await self._look_at_desktop(settings, slow=slow)
        self._sights = seen if slow else self._sights | seen
        self._say_unknown()
        self._give_way(settings, fresh=fresh)
        self._on_look()

    async def _look_at_desktop(self, settings: GuestSettings, *, slow: bool) -> Sights:
        seen: Sights = {}
        if settings.games:
            seen[GameMode.title] = GameMode.reason, await self._game_mode.look()
        if settings.user_active:
            seen[UserActive.title] = UserActive.reason, await self._user_active.look(settings)
        if settings.metered and slow:
            seen[Metered.title] = Metered.reason, await self._metered.look()
        return seen

    def _say_unknown(self) -> None:
        """Once each."""
        unknown = {
            (title, sight.why) for title, (_, sight) in self._sights.items() if isinstance(sight, Unknown)
        }
        if news := sorted(unknown - self._said):
            log.info("not told by this computer: %s", "; ".join(f"{title} ({why})" for title, why in news))
        if len(self._said) < MAX_SAID:
            self._said |= unknown

    def _give_way(self, settings: GuestSettings, *, fresh: bool) -> None:
        """`fresh`: what only old settings had found is lifted without waiting."""
        found: dict[Reason, Found] = {}
        for reason, sight in self._sights.values():
            if isinstance(sight, Found):
                found.setdefault(reason, sight)
        if fresh:
            for reason in self._yielding.up - found.keys():
                self._yielding.drop(reason)
        self._yielding.look(found, now=clock.now(), unix_s=time.time(), quiet_s=settings.quiet_s)


def _words(sight: Sight) -> str:
    if isinstance(sight, Unknown):
        return f"unknown: {sight.why}"
    return sight.detail if sight is not None else "clear"
