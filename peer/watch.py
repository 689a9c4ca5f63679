"""Watching ourselves: is the event loop blocked, how much memory do our processes take, how much disk?"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from talkoot.peer import logs
from talkoot.peer.logs import RateLimited
from talkoot.peer.metrics import Metrics

HEARTBEAT_S = 0.02
"""Time between two heartbeats on the loop."""

MAX_CALLBACK_CPU_S = 0.05
"""CPU time that no callback may exceed."""

MEMORY_INTERVAL_S = 5.0
"""Time between two looks at the memory."""

DISK_INTERVAL_S = 30.0
"""Time between two looks at the disk."""

_log = logs.get("talkoot.watch")


class LoopWatch:
    """Measures lag and CPU time of the loop that runs it.

    All callbacks between two heartbeats together use `cpu` seconds of the thread, so one alone uses at most
    that. CPU time, unlike lag, does not grow because other programs keep the machine busy.
    """

    def __init__(
        self, metrics: Metrics, *, interval_s: float = HEARTBEAT_S, log: RateLimited | None = None
    ) -> None:
        self._lag = metrics.event_loop_lag
        self._cpu = metrics.event_loop_callback_cpu
        self._interval_s = interval_s
        self._log = log or RateLimited(_log)
        self.max_lag_s = 0.0
        """Longest lag so far."""
        self.max_cpu_s = 0.0
        """Most CPU time between two heartbeats so far."""
        self.heartbeats = 0

    async def run(self) -> None:
        """Beat until cancelled."""
        loop = asyncio.get_running_loop()
        self._wait(loop)
        try:
            await loop.create_future()
        finally:
            self._timer.cancel()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        # A timer costs half of what a task that sleeps does.
        self._due, self._cpu_before = time.monotonic() + self._interval_s, time.thread_time()
        self._timer = loop.call_later(self._interval_s, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        lag_s, cpu_s = time.monotonic() - self._due, time.thread_time() - self._cpu_before
        self._wait(loop)
        self.beat(lag_s=lag_s, cpu_s=cpu_s)

    def beat(self, *, lag_s: float, cpu_s: float) -> None:
        """Record one heartbeat: how late it was, and the CPU time since the one before."""
        self.heartbeats += 1
        self._lag.observe(max(0.0, lag_s))
        self._cpu.observe(cpu_s)
        self.max_lag_s = max(self.max_lag_s, lag_s)
        self.max_cpu_s = max(self.max_cpu_s, cpu_s)
        if cpu_s > MAX_CALLBACK_CPU_S:
            self._log.warning("the event loop was busy", cpu_ms=round(cpu_s * 1e3), lag_ms=round(lag_s * 1e3))


class MemoryWatch:
    """Samples the resident memory of the daemon and of the processes that it started."""

    def __init__(
        self,
        metrics: Metrics,
        children: Callable[[], Mapping[str, int | None]] = dict,
        *,
        interval_s: float = MEMORY_INTERVAL_S,
    ) -> None:
        """`children` gives the process id of each part (of `metrics.PARTS`) that runs now."""
        self._gauges = metrics.memory
        self._children = children
        self._interval_s = interval_s
        self.resident: dict[str, int] = {}
        """Bytes by part, as of the last sample; 0 where the process is gone."""

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(self._interval_s)

    def sample(self) -> None:
        """Look once; takes well under a millisecond."""
        self.resident["daemon"] = resident_bytes()
        for part, pid in self._children().items():
            self.resident[part] = _resident(pid)
        for part, num_bytes in self.resident.items():
            self._gauges[part].set(num_bytes)


class DiskWatch:
    """Samples how much room the state directory takes and has."""

    def __init__(
        self,
        metrics: Metrics,
        folder: Path,
        *,
        limit: Callable[[], int] = lambda: 0,
        interval_s: float = DISK_INTERVAL_S,
    ) -> None:
        """`limit` gives the bytes that it may take up; 0: what there is."""
        self._metrics = metrics
        self._limit = limit
        self._folder = folder
        self._interval_s = interval_s
        self.used: int | None = None
        """Bytes, as of the last sample."""

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            await asyncio.to_thread(self.sample)
            await asyncio.sleep(self._interval_s)

    def sample(self) -> None:
        """Look once, at each file. In a thread."""
        self.used = used = used_bytes(self._folder)
        with suppress(OSError):
            room = used + shutil.disk_usage(self._folder).free
            self._metrics.disk_limit.set(min(room, self._limit() or room))
            self._metrics.disk_used.set(used)


def used_bytes(folder: Path) -> int:
    """Bytes of the disk that the files in a folder take up; those that vanish meanwhile are not counted."""
    used = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            used += 512 * path.lstat().st_blocks
    return used


def resident_bytes() -> int:
    """Resident memory of this process; 0 while it cannot be told, for want of descriptors."""
    return _resident(os.getpid())


def _resident(pid: int | None) -> int:
    if pid is None:
        return 0
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.Error, OSError):
        return 0
