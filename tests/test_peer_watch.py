"""The watch sees a blocked loop, tells CPU from waiting, and samples memory."""

import asyncio
import subprocess
import sys
import time

import structlog
from structlog.testing import capture_logs

from talkoot.peer.logs import RateLimited
from talkoot.peer.metrics import Metrics
from talkoot.peer.watch import MAX_CALLBACK_CPU_S, LoopWatch, MemoryWatch


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def burn(cpu_s: float) -> None:
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass


class HeardWatch(LoopWatch):
    """Can be waited for."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics, interval_s=0.001)
        self.heard = asyncio.Event()

    def beat(self, *, lag_s: float, cpu_s: float) -> None:
        super().beat(lag_s=lag_s, cpu_s=cpu_s)
        self.heard.set()

    async def next_beats(self, number: int) -> None:
        for _ in range(number):
            self.heard.clear()
            await self.heard.wait()


def watched(*callbacks: float) -> tuple[LoopWatch, Metrics]:
    """Run callbacks that burn CPU on a watched loop, each followed by two heartbeats."""
    metrics = Metrics()
    watch = HeardWatch(metrics)

    async def main() -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(watch.run())
            await watch.next_beats(2)
            for cpu_s in callbacks:
                burn(cpu_s)
                await watch.next_beats(2)
            task.cancel()

    asyncio.run(main())
    return watch, metrics


def test_a_busy_callback_is_seen() -> None:
    with capture_logs() as lines:
        watch, metrics = watched(0.06, 0.06)
    assert watch.max_cpu_s >= 0.06
    assert watch.max_lag_s >= 0.055
    fast = value(metrics, "talkoot_event_loop_callback_cpu_seconds_bucket", le="0.05")
    every = value(metrics, "talkoot_event_loop_callback_cpu_seconds_count")
    assert fast is not None
    assert every is not None
    assert every == watch.heartbeats == value(metrics, "talkoot_event_loop_lag_seconds_count")
    assert every - fast >= 2
    busy = [line for line in lines if line["event"] == "the event loop was busy"]
    assert len(busy) == 1  # the second within the interval is held back
    assert busy[0]["cpu_ms"] >= 60


def test_waiting_for_the_machine_is_lag_but_no_cpu() -> None:
    metrics = Metrics()
    watch = LoopWatch(metrics)
    with capture_logs() as lines:
        watch.beat(lag_s=3.0, cpu_s=0.001)
    assert (watch.max_lag_s, watch.max_cpu_s) == (3.0, 0.001)
    assert lines == []
    assert value(metrics, "talkoot_event_loop_lag_seconds_sum") == 3.0


def test_only_more_than_the_limit_warns() -> None:
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    now = [0.0]
    watch = LoopWatch(Metrics(), log=RateLimited(log, interval_s=10, clock=lambda: now[0]))
    with capture_logs() as lines:
        watch.beat(lag_s=0, cpu_s=MAX_CALLBACK_CPU_S)
        assert lines == []
        watch.beat(lag_s=-1e-9, cpu_s=MAX_CALLBACK_CPU_S + 0.01)
        watch.beat(lag_s=0, cpu_s=1)
        now[0] = 10
        watch.beat(lag_s=0, cpu_s=1)
    assert [line.get("left_out") for line in lines] == [None, 1]


def test_memory_of_the_daemon_and_its_children() -> None:
    metrics = Metrics()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        watch = MemoryWatch(metrics, lambda: {"trainer": child.pid, "p2pd": None})
        watch.sample()
        assert watch.resident["daemon"] > 10e6
        assert watch.resident["trainer"] > 0
        assert watch.resident["p2pd"] == 0
        child.kill()
        child.wait()
        watch.sample()
        assert watch.resident["trainer"] == 0
    assert value(metrics, "talkoot_memory_bytes", part="daemon") == watch.resident["daemon"]


def test_sampling_goes_on_until_cancelled() -> None:
    samples: list[None] = []
    third = asyncio.Event()

    def children() -> dict[str, int | None]:
        samples.append(None)
        if len(samples) == 3:
            third.set()
        return {}

    watch = MemoryWatch(Metrics(), children, interval_s=0)

    async def main() -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(watch.run())
            await third.wait()
            task.cancel()

    asyncio.run(main())
    assert watch.resident["daemon"] > 0
