"""When the daemon itself counts as standing still: its loop does not turn, or a worker thread hangs. Pure.

It counts looks, not seconds: while everything was stopped (a suspended computer, Ctrl-Z, a machine with no
CPU time to spare) nobody looked, and nobody is to blame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from talkoot.peer.guest.workers import Job, Progress

LOOP_LOOKS = 30
"""So many looks, a second apart, without a turn of the event loop."""

JOB_LOOKS = 40
"""So many looks at which a worker thread has neither computed nor read nor written anything."""

TICKS = 1
"""CPU time that a hanging thread may use: one that polls does so, and is rounded up."""


@dataclass(slots=True)
class _Seen:
    ticks: int
    transferred: int
    looks: int = 0


class Standstill:
    """`look` once a second, from a thread of its own."""

    def __init__(self, *, loop_looks: int = LOOP_LOOKS, job_looks: int = JOB_LOOKS) -> None:
        self._loop_looks, self._job_looks = loop_looks, job_looks
        self._turns = -1
        self._still = 0
        self._jobs: dict[int, _Seen] = {}

    def look(
        self, turns: int | None, jobs: Sequence[tuple[Job, Progress | None]], helpers: int
    ) -> str | None:
        """Why it stands still, or None.

        `turns`: a number that grows as long as the loop turns; None: there is none. `jobs`: those that run,
        in the order in which they began, and what is known of their threads. `helpers`: CPU time of the
        threads that they have started.
        """
        self._still = self._still + 1 if turns is not None and turns == self._turns else 0
        self._turns = -1 if turns is None else turns
        hanging = self._hanging(jobs, helpers)
        if self._still >= self._loop_looks:
            return f"the event loop has not turned for {self._still} s"
        return hanging

    def _hanging(self, jobs: Sequence[tuple[Job, Progress | None]], helpers: int) -> str | None:
        """A job may wait for those that began before it, and for the threads that it has started."""
        seen: dict[int, _Seen] = {}
        worst: str | None = None
        ticks, transferred, waits = helpers, 0, False
        for job, progress in jobs:
            if progress is None:
                continue
            ticks, transferred = ticks + progress.ticks, transferred + progress.transferred
            waits = waits or progress.waits_for_disk
            last = self._jobs.get(job.number)
            moves = last is None or abs(ticks - last.ticks) > TICKS or transferred != last.transferred
            if last is None or moves or waits:
                seen[job.number] = _Seen(ticks, transferred)
                continue
            last.looks += 1
            seen[job.number] = last
            if last.looks >= self._job_looks and worst is None:
                worst = f"a worker thread hangs in {job.name} for {last.looks} s"
        self._jobs = seen
        return worst
