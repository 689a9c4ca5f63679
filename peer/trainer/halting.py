"""How a trainer ends within seconds although a step takes longer, with all that its finished steps have left.

Parameters, moments and counters change at the end of a step only. Between two micro-batches the step is given
up by an exception. Where a single micro-batch takes too long for that, the daemon sends `NUDGE`: a thread
saves while the gradient is still being computed, and ends the process.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from talkoot.peer.trainer import protocol
from talkoot.peer.trainer.link import Link

NUDGE = signal.SIGUSR1

GRACE_S = 1.5
"""How long a step in progress may go on once the trainer was told to stop: most end by themselves."""


class Halted(Exception):  # noqa: N818 - reads well where it is caught
    """What was being computed is given up; nothing has changed."""


class Halting:
    """Of one worker, which holds on to its state but in the scope of `unchanged`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._told_at: float | None = None
        self._state = threading.Lock()
        self._state.acquire()

    def look(self, *, stepping: bool) -> None:
        """Raises Halted when the next command is to stop, in a step only after a while."""
        if not isinstance(self._link.peek(), protocol.StopRequest):
            return
        now = time.monotonic()
        self._told_at = self._told_at or now
        if not stepping or now - self._told_at >= GRACE_S:
            raise Halted

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """In this scope nothing of the state changes, so it may be saved by another thread."""
        self._state.release()
        try:
            yield
        finally:
            self._state.acquire()

    @contextmanager
    def changed(self) -> Iterator[None]:
        """In the scope of `unchanged`: here it does change."""
        with self._state:
            yield

    def obey_nudges(self, save: Callable[[], None]) -> None:
        """From now on the process saves and ends when it is nudged in the scope of `unchanged`. Elsewhere the
        worker is about to see for itself that it is to stop. Call after `block_nudges`."""
        threading.Thread(target=self._wait, args=(save,), daemon=True, name="halting").start()

    def _wait(self, save: Callable[[], None]) -> None:
        signal.sigwait({NUDGE})
        with self._state:
            save()
            os._exit(0)


def block_nudges() -> None:
    """Call before any thread is started: they inherit it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {NUDGE})
