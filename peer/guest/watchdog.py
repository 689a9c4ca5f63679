"""Sees to it that a daemon that stands still does not stay so: a thread that looks every second.

`restarting` does what follows. A loop that is stuck in machine code which keeps the interpreter's lock stops
this thread as well: then it is the supervisor's watchdog that finds it (`notify`).
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from talkoot.peer.guest import restarting
from talkoot.peer.guest.notify import Notifier
from talkoot.peer.guest.standstill import Standstill
from talkoot.peer.guest.workers import Workers, helpers_ticks, progress_of

LOOK_S = 1.0
"""Between two looks, and two turns."""


class Watchdog:
    """Of one daemon. `begin` on its event loop, then `run` there; the thread ends with the process."""

    def __init__(
        self,
        logs: Path,
        *,
        notifier: Notifier,
        state: Callable[[], str],
        leaving: Callable[[], bool],
        end: Callable[..., None] = restarting.end,
    ) -> None:
        """`state`: what the supervisor shows of us. `leaving`: whether we were told to stop."""
        self._logs = logs
        self._notifier = notifier
        self._state = state
        self._leaving = leaving
        self._end = end
        self._workers = Workers()
        self._turns: int | None = None

    def begin(self) -> None:
        """Before the loop has used a worker thread."""
        asyncio.get_running_loop().set_default_executor(self._workers)
        Thread(target=self._watch, name="watchdog", daemon=True).start()

    async def run(self) -> None:
        """Turn with the loop, and tell the supervisor; until cancelled."""
        told = False
        self._turns = 0
        try:
            while True:
                self._turns += 1
                self._notifier.alive()
                self._notifier.status(self._state())
                if self._leaving() and not told:
                    told = True
                    self._notifier.stopping()
                await asyncio.sleep(LOOK_S)
        finally:
            self._turns = None  # the loop ends in order; it may still hang on a thread

    def _watch(self) -> None:
        standstill = Standstill()
        while True:
            time.sleep(LOOK_S)
            jobs = [(job, progress_of(job.thread)) for job in self._workers.jobs]
            reason = standstill.look(self._turns, jobs, helpers_ticks())
            if reason is not None:
                self._end(reason, self._logs, again=not self._notifier.present and not self._leaving())
                return
