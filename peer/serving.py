"""Whose turn it is to be served with chunks of state, and how fast they may leave.

Requesters take turns, however many requests each of them sends; a few are served at a time, and what waits
is bounded. A rate limits the bytes of all of them together, so that rounds have the uplink first.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from talkoot.peer import clock

MAX_AT_ONCE = 8
"""Chunks that are read and sent at a time: each is a mebibyte of memory."""

MAX_AT_ONCE_PER_PEER = 1
"""Of them to one peer, which asks ahead so that the line never falls silent."""

MAX_WAITING = 64
"""Requests that wait for their turn, of all peers together."""

LOWEST_RATE = 256 * 1024.0
"""Bytes a second that state gets at least, unless the operator says otherwise."""

ROUND_SHARE = 0.25
"""Part of the measured uplink that state gets while a round is exchanged."""

LOOK_S = 1.0
"""So often is asked what the rate is while something waits: an exchange ends."""

_ROUNDING = 1.0  # bytes: sums stay exact to that for longer than any node runs

SERVED_SHARE = 0.9
"""Part of the limit of all that is sent that state gets when there is nothing else."""


def serve_rate(limit: float, uplink: float, *, exchanging: bool, all_traffic: float = 0.0) -> float:
    """Bytes of state a second: `limit` is the operator's, `uplink` what was measured, `all_traffic` the limit
    of whatever is sent; 0: there is none."""
    allowed = min(limit or math.inf, SERVED_SHARE * all_traffic or math.inf)
    if not exchanging:
        return allowed
    least = min(LOWEST_RATE, ROUND_SHARE * all_traffic) if all_traffic else LOWEST_RATE
    return min(allowed, max(least, ROUND_SHARE * uplink))


class Gate:
    """Lets chunks out. Everything happens in the event loop's thread."""

    def __init__(
        self, rate: Callable[[], float] = lambda: math.inf, closed: Callable[[], bool] = lambda: False
    ) -> None:
        """`rate` gives the bytes a second that may leave at present; none do while it is `closed`."""
        self._rate = rate
        self._closed = closed
        self._waiting: dict[bytes, deque[asyncio.Future[None]]] = {}
        self._served: Counter[bytes] = Counter()
        self._asked = self._allowed = 0.0  # bytes that were to leave, and that were let, since the beginning
        self._at = 0.0  # when that was reckoned
        self.refused: Counter[str] = Counter()
        """Requests for chunks that were not answered with one, by reason."""
        self.sent_bytes = 0
        """Bytes of chunks that were let out."""
        self.waited_s = 0.0
        """Time for which the rate held chunks back."""

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(len(queue) for queue in self._waiting.values())

    @asynccontextmanager
    async def turn(self, peer: bytes) -> AsyncIterator[bool]:
        """Wait for this peer's turn and hold it; False at once when too many wait already."""
        if self._closed() or not self._may_begin(peer):
            if self._closed() or self.waiting >= MAX_WAITING:
                self.refused["busy"] += 1
                yield False
                return
            await self._wait(peer)
        else:
            self._served[peer] += 1
        try:
            yield True
        finally:
            self._served[peer] -= 1
            if not self._served[peer]:
                del self._served[peer]
            if peer in self._waiting:
                self._waiting[peer] = self._waiting.pop(peer)  # to the end of the line
            self._call_next()

    def answered(self, status: str) -> None:
        """Count what is no chunk."""
        if status != "ok":
            self.refused[status] += 1

    async def pace(self, num_bytes: int) -> None:
        """Wait until so many bytes may leave, after those of all who came before. The rate may change
        meanwhile."""
        self.sent_bytes += num_bytes
        rate, before = self._reckon(), self._asked
        self._asked += num_bytes
        while before - self._allowed > _ROUNDING:
            wait_s = min((before - self._allowed) / rate, LOOK_S) if rate > 0 else LOOK_S
            await asyncio.sleep(wait_s)
            self.waited_s += wait_s
            rate = self._reckon()

    def _reckon(self) -> float:
        """Let through what may have left since the last time; nothing is saved up. Returns the rate."""
        rate, now = self._rate(), clock.now()
        elapsed_s, self._at = now - self._at, now
        more = rate if rate == math.inf else rate * elapsed_s
        self._allowed = min(self._asked, self._allowed + more)
        return rate

    def _may_begin(self, peer: bytes) -> bool:
        served = self._served
        return served.total() < MAX_AT_ONCE and served[peer] < MAX_AT_ONCE_PER_PEER

    async def _wait(self, peer: bytes) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append(called)
        try:
            await called  # whoever calls has counted us
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self._served[peer] -= 1
                self._call_next()
            raise
        finally:
            queue = self._waiting.get(peer)
            if queue is not None and called in queue:
                queue.remove(called)
                if not queue:
                    del self._waiting[peer]

    def _call_next(self) -> None:
        """Give a turn to the first in the line who may have one."""
        while (peer := next(filter(self._may_begin, self._waiting), None)) is not None:
            queue = self._waiting[peer]
            called = queue.popleft()
            if not queue:
                del self._waiting[peer]
            if not called.done():  # whoever was cancelled may not have run yet
                self._served[peer] += 1
                called.set_result(None)
                return
