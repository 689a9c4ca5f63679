"""An event loop whose clock jumps to the next timer instead of waiting: fast, and the same for one seed.

Work that would run in a thread runs at once and its result arrives `JOB_S` of virtual time later. Each host
(`hosts.Host`) has a monotonic clock of its own, and nothing of a frozen host runs. Tasks hash by the order
in which they were made, so that sets of them have the same order in every run.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple, Unpack

from talkoot.peer.simulation.disks import PowerCutError
from talkoot.peer.simulation.hosts import Host, here

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

JOB_S = 0.002
"""How long a job of a worker thread takes."""

_PURGE_AT = 256
# Cancelled timers in the heap from which it is worth a look.


MAX_STANDSTILL = 200_000
"""Callbacks at one instant from which the clock will never move again."""


class DeadlockError(RuntimeError):
    """Every task waits for something that no timer will bring, or time stands still."""


class _Handle(asyncio.Handle):
    """As `asyncio.Handle`, without what debugging needs."""

    __slots__ = ()

    def __init__(  # the other one is slow
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: "VirtualLoop",
        context: Context | None,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._source_traceback = None
        self._repr = None

    def cancel(self) -> None:
        self._cancelled = True


class _Timer(asyncio.TimerHandle):
    """As `asyncio.TimerHandle`; `when` is on the clock of whoever set it."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: "VirtualLoop",
        context: Context | None,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._source_traceback = None
        self._repr = None
        self._when = when
        self._scheduled = True

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._callback = self._args = None  # type: ignore[assignment]  # let go of what they hold
            self._loop.timer_cancelled()


class _Task(asyncio.Task[T]):
    """A task that hashes by its number."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. For networks in memory only: sockets, threads and processes know no virtual time."""

    _ready: "deque[asyncio.Handle]"
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        """Virtual seconds since the loop was made."""
        self.num_events = 0
        """Callbacks that were run."""
        self._timers: list[tuple[float, int, _Timer]] = []
        self._num_cancelled = 0
        self._order = itertools.count()
        self._num_tasks = itertools.count(1)
        self._num_frozen = 0
        self._events_before = 0  # the present instant

    # -- time ----------------------------------------------------------------------------------------

    def time(self) -> float:
        """The clock of the host that asks."""
        host = here.get()
        return self.now if host is None else host.offset + host.rate * self.now

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """`when` on the clock of the host that asks."""
        host = here.get()
        return self.call_at_true(when if host is None else host.true(when), callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        host = here.get()
        due = self.now + (delay if host is None else delay / host.rate)
        return self.call_at_true(due, callback, *args, context=context)

    def call_at_true(
        self,
        due: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """`due` in virtual seconds of the loop."""
        timer = _Timer(due, callback, args, self, context)
        heapq.heappush(self._timers, (due, next(self._order), timer))
        return timer

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def timer_cancelled(self) -> None:
        """For timers: forget those that were cancelled before they are most of the heap."""
        self._num_cancelled += 1
        if self._num_cancelled > _PURGE_AT and 2 * self._num_cancelled > len(self._timers):
            self._timers = [item for item in self._timers if not item[2].cancelled()]
            heapq.heapify(self._timers)
            self._num_cancelled = 0

    # -- work ----------------------------------------------------------------------------------------

    def create_task(  # type: ignore[override]
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = _Task.__new__(_Task)
        task.number = next(self._num_tasks)  # before the constructor puts it into a set
        task.__init__(coro, loop=self, name=name or "", context=context)  # type: ignore[misc]
        return task

    def run_in_executor(  # type: ignore[override]  # typeshed's generics say the same at length
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run the job now; its result comes `JOB_S` later, or never if the power is cut meanwhile."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except PowerCutError:
            host = here.get()
            assert host is not None
            self.call_soon(host.on_power_cut)
        except Exception as error:  # noqa: BLE001 - handed on to whoever awaits, as an executor does
            self.call_later(JOB_S, _settle, future, None, error)
        else:
            self.call_later(JOB_S, _settle, future, result, None)
        return future

    def freeze(self, host: Host) -> None:
        """Nothing of this host runs until `thaw`."""
        if not host.frozen:
            host.frozen = True
            self._num_frozen += 1

    def thaw(self, host: Host) -> None:
        """What became due meanwhile runs now."""
        if host.frozen:
            host.frozen = False
            self._num_frozen -= 1
            self._ready.extend(host.parked)
            host.parked.clear()

    def _run_once(self) -> None:
        """What asyncio calls in an endless loop. Raises DeadlockError."""
        ready = self._ready
        if not ready and not self._stopping:
            self._jump()
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            timer = heapq.heappop(timers)[2]
            if timer._cancelled:  # quicker than the method
                self._num_cancelled -= 1
            else:
                ready.append(timer)
        if self.num_events - self._events_before > MAX_STANDSTILL:
            raise DeadlockError(f"time stands still at {self.now:.6f}")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if self._num_frozen:
                host = handle._context.get(here)  # type: ignore[attr-defined]
                if host is not None and host.frozen:
                    host.parked.append(handle)
                    continue
            self.num_events += 1
            handle._run()

    def _jump(self) -> None:
        """Set the clock to the next timer."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
            self._num_cancelled -= 1
        if not self._timers:
            raise DeadlockError("nothing left to happen")
        if self._timers[0][0] > self.now:
            self.now = self._timers[0][0]
            self._events_before = self.num_events


class TrueClock:
    """The loop's own clock, for what belongs to no host: the network between them, the script."""

    def time(self) -> float:
        """Virtual seconds."""
        return virtual_loop().now

    def call_at(self, due: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """On behalf of the host that asks, so that it does not happen while that one is frozen."""
        return virtual_loop().call_at_true(due, callback)


def virtual_loop() -> VirtualLoop:
    """The running loop. Only in `run_virtual`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on a virtual clock that starts at zero."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
