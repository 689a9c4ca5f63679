"""The worker threads of the daemon, and what each of them is doing: `Workers` is the loop's executor.

How far a job is shows in what the operating system counts of its thread, so that no job has to report.
Linux only; elsewhere nothing is known of them.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

HELPERS = "ThreadPoolExecutor"
"""Names of threads that jobs start for themselves begin so: what they do counts for every job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One call in a worker thread."""

    number: int
    """In the order in which they began."""
    name: str
    """Of what was called."""
    thread: int
    """Number of its thread in the operating system."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What the operating system counts of a thread; it only grows."""

    ticks: int
    """CPU time."""
    transferred: int
    """Bytes read and written."""
    waits_for_disk: bool


class Workers(ThreadPoolExecutor):
    """As the executor that asyncio would make; `jobs` are those that run."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="worker")
        self._numbers = count()
        self._running: dict[int, Job] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As every executor does."""
        return super().submit(partial(self._run, partial(fn, *args, **kwargs)))

    def _run(self, call: Callable[[], T]) -> T:
        thread = threading.get_native_id()
        self._running[thread] = Job(number=next(self._numbers), name=_name_of(call), thread=thread)
        try:
            return call()
        finally:
            del self._running[thread]

    @property
    def jobs(self) -> list[Job]:
        """Those that run, in the order in which they began. For any thread."""
        return sorted(self._running.copy().values(), key=lambda job: job.number)


def _name_of(call: Any) -> str:
    """Of what is called at last: inside of partials, and of the context that asyncio wraps around."""
    while isinstance(call, partial):
        inner = call.args[0] if getattr(call.func, "__name__", "") == "run" and call.args else call.func
        call = inner
    return getattr(call, "__qualname__", type(call).__name__)


def progress_of(thread: int) -> Progress | None:
    """What is known of a thread of this process; None: nothing."""
    task = f"/proc/self/task/{thread}"
    try:
        with open(f"{task}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    moved = 0
    with suppress(OSError), open(f"{task}/io", encoding="ascii") as file:
        moved = sum(int(line.partition(":")[2]) for line in file if line[:5] in ("rchar", "wchar"))
    ticks = int(fields[11]) + int(fields[12])
    return Progress(ticks=ticks, transferred=moved, waits_for_disk=fields[0] == "D")


def helpers_ticks() -> int:
    """CPU time of the threads that jobs have started for themselves and that live."""
    threads = [each.native_id for each in threading.enumerate() if each.name.startswith(HELPERS)]
    return sum(found.ticks for each in threads if each and (found := progress_of(each)) is not None)


def ticks_per_second() -> int:
    """Of `Progress.ticks`."""
    return os.sysconf("SC_CLK_TCK")
