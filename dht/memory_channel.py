"""Channels of the network in memory: frames that arrive when latency and bandwidth let them."""

import asyncio
import itertools
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from talkoot.dht.errors import ChannelClosed, RemoteError
from talkoot.dht.framing import PREFIX_BYTES
from talkoot.dht.limits import QUEUED_BYTES, QUEUED_FRAMES
from talkoot.dht.network import Buffer, Channel, Frame, ProtocolSpec

if TYPE_CHECKING:
    from talkoot.dht.memory import MemoryNetwork

SEND_BUFFER = 2 * 1024
"""Bytes of a peer that may wait for its uplink before its senders do."""
RESEND_S = 0.3
"""Until a lost frame is sent again the first time."""
RESENDS = 6
"""After so many losses of one frame in a row the connection breaks."""
SCATTER_S = 2.0
"""Longest delay of a duplicate, and of a frame that others overtake."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A frame, or the end of the channel (`ended`, `busy`), and when it is there (loop time)."""

    time: float
    what: Frame | str
    num_bytes: int = 0
    takes_s: float = 0.0
    """For so long it comes, up to then."""

    def come(self, now: float) -> int:
        """How many bytes of it are there."""
        if now >= self.time:
            return self.num_bytes
        share = (now - (self.time - self.takes_s)) / self.takes_s if self.takes_s else 0.0
        return int(self.num_bytes * max(0.0, share))


class MemoryChannel(Channel):
    """One end. The receiving queue holds what is under way, too; its times only ever grow."""

    def __init__(
        self, network: "MemoryNetwork", peer: bytes, spec: ProtocolSpec, *, accepted: bool = False
    ) -> None:
        self.peer = peer
        self.owner = network.key
        self.protocol = spec.name
        self.bytes_sent = 0
        self.bytes_received = 0
        self.number = next(_numbers)  # gives cuts an order
        self.network = network
        self._spec = spec
        self._max_received = spec.takes(accepted=accepted)
        self._other: MemoryChannel = self
        self._queue: deque[_Arrival] = deque()
        self._queued_bytes = 0
        self._turn_at = 0.0  # when the limit of what may come lets the next one be taken
        self._in_order_at = 0.0  # when the last frame that keeps its place arrives
        self._failure: RemoteError | None = None
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """True when nothing can happen here any more."""
        return self._closed or self._failure is not None

    @property
    def bytes_arrived(self) -> int:
        now = self.network.hub.clock.time()
        return self.bytes_received + sum(arrival.come(now) for arrival in self._queue)

    def join(self, other: "MemoryChannel") -> None:
        """Make two ends one channel."""
        self._other, other._other = other, self

    async def send(self, header: bytes, payload: Buffer = b"", *, timeout_s: float) -> None:
        data = bytes(payload)
        if len(header) > self._spec.max_header or len(data) > self._spec.max_payload:
            raise ValueError(f"frame of {len(header)} + {len(data)} bytes is above the limits")
        self._check_sendable()
        if self._other._is_full():
            async with asyncio.timeout(timeout_s):
                while self._other._is_full():
                    self._changed.clear()
                    await self._changed.wait()
                    self._check_sendable()
        link, random = self.network.link, self.network.hub.random
        if link.breaks and random.random() < link.breaks:
            self.cut()
            self._check_sendable()
        if (pacing := self.network.pacing).upload.limited:
            await pacing.leave(PREFIX_BYTES + len(header) + len(data), urgent=self._spec.urgent)
            self._check_sendable()
        await self._transmit(Frame(bytes(header), data), timeout_s)

    async def receive(self, *, timeout_s: float | None = None) -> Frame:
        if timeout_s is None:
            arrival = await self._next()
        else:
            async with asyncio.timeout(timeout_s):
                arrival = await self._next()
        if isinstance(arrival.what, str):
            self._failure = ChannelClosed(self.peer, arrival.what)
            raise ChannelClosed(self.peer, arrival.what)
        return self._take(arrival.what)

    async def _next(self) -> _Arrival:
        if (wait_s := self._turn_at - self.network.hub.clock.time()) > 0:
            await asyncio.sleep(wait_s)
        while (arrival := self._arrived()) is None:
            if self._failure is not None and not self._queue:
                raise type(self._failure)(self.peer, self._failure.reason, self._failure.detail)
            await self._wait()
        return arrival

    async def close(self) -> None:
        self.end("ended")
        await asyncio.sleep(0)

    def end(self, reason: str) -> None:
        """End in band: the other side learns it after everything that was sent."""
        if self._closed:
            return
        self._closed = True
        if self._failure is None:
            last = max((arrival.time for arrival in self._other._queue), default=0.0)
            self._other._put(_Arrival(max(last, self._arrival_time(PREFIX_BYTES) or 0.0), reason))
        self._failure = ChannelClosed(self.peer, "closed")
        self._queue.clear()
        self.wake()

    def cut(self) -> None:
        """The connection dies: what has arrived can be read, what is under way is lost."""
        for end in (self, self._other):
            end._drop_under_way()
            if end._failure is None and not any(isinstance(a.what, str) for a in end._queue):
                end._failure = ChannelClosed(end.peer, "lost", "cut")
            end.wake()

    def _drop_under_way(self) -> None:
        now = self.network.hub.clock.time()
        while self._queue and self._queue[-1].time > now:
            dropped = self._queue.pop()
            self._queued_bytes -= len(dropped.what.payload) if isinstance(dropped.what, Frame) else 0
            self.network.download_free_at -= (
                dropped.num_bytes - dropped.come(now)
            ) / self.network.link.download

    async def _transmit(self, frame: Frame, timeout_s: float) -> None:
        """Occupy the link for as long as the frame takes; wait for it beyond what buffers hold."""
        self.network.hub.on_sent(self.owner, self.protocol, frame.header)
        size = PREFIX_BYTES + len(frame.header) + len(frame.payload)
        arrival_time = self._arrival_time(size)
        if arrival_time is None:
            self.cut()
            self._check_sendable()
            return
        link = self.network.link
        scrambled = (link.duplicates or link.reorders) and link.scrambled in self.protocol
        takes_s = size / min(link.upload, self._other.network.link.download)
        arrival = _Arrival(arrival_time, frame, size, takes_s)
        if scrambled:
            self._scatter(arrival)
        else:
            self._other._put(arrival)
        self.bytes_sent += size
        self.network.traffic.sent[self.protocol] += size
        self.network.pacing.measured(size, 0)
        backlog_s = self.network.upload_free_at - self.network.hub.clock.time()
        busy_s = backlog_s - SEND_BUFFER / link.upload
        if busy_s <= 0:
            return
        async with asyncio.timeout(timeout_s) if busy_s > timeout_s else nullcontext():
            await asyncio.sleep(busy_s)

    def _scatter(self, arrival: _Arrival) -> None:
        """Let a message come late, or twice."""
        random, link = self.network.hub.random, self.network.link
        late = replace(arrival, time=arrival.time + random.uniform(0.0, SCATTER_S))
        if random.random() < link.reorders:
            self._other._insert(late)
            return
        self._other._put(arrival)
        if random.random() < link.duplicates:
            self._other._insert(late)

    def _arrival_time(self, size: int) -> float | None:
        """When `size` more bytes have gone through both links; None when the connection breaks over it."""
        ours, theirs = self.network, self._other.network
        delay_s = latency_s = ours.link.latency_s + theirs.link.latency_s
        if ours.link.jitter_s or theirs.link.jitter_s:
            delay_s += ours.hub.random.uniform(0.0, ours.link.jitter_s + theirs.link.jitter_s)
        if ours.link.loss or theirs.link.loss:
            resent_s = self._resent_s(1 - (1 - ours.link.loss) * (1 - theirs.link.loss))
            if resent_s is None:
                return None
            delay_s += resent_s
        now = ours.hub.clock.time()
        ours.upload_free_at = max(now, ours.upload_free_at) + size / ours.link.upload
        # What a slow sender has yet to send must not hold up what others send to the same receiver.
        theirs.download_free_at = max(now + latency_s, theirs.download_free_at) + size / theirs.link.download
        arrival = max(ours.upload_free_at + delay_s, theirs.download_free_at)
        self._other._in_order_at = max(arrival, self._other._in_order_at)
        return self._other._in_order_at

    def _resent_s(self, probability: float) -> float | None:
        """What the losses of one frame cost."""
        pause_s, lost_s = RESEND_S, 0.0
        for _ in range(RESENDS):
            if self.network.hub.random.random() >= probability:
                return lost_s
            lost_s += pause_s
            pause_s *= 2
        return None

    def _insert(self, arrival: _Arrival) -> None:
        """As `_put`, before what arrives later."""
        after = []
        while self._queue and self._queue[-1].time > arrival.time:
            after.append(self._queue.pop())
        self._put(arrival)
        self._queue.extend(reversed(after))

    def _put(self, arrival: _Arrival) -> None:
        if self._closed or self._failure is not None:
            return
        frame = arrival.what
        if isinstance(frame, Frame):
            if len(frame.header) > self._spec.max_header or len(frame.payload) > self._max_received:
                self._failure = RemoteError(self.peer, "oversized", "frame above the limits")
                self.cut()
                return
            self._queued_bytes += len(frame.payload)
        self._queue.append(arrival)
        if len(self._queue) == 1:  # whoever waits for the first one need not know of others
            self._changed.set()

    def _arrived(self) -> _Arrival | None:
        if self.network.hub.held(self.peer, self.owner):
            return None
        if self._queue and self._queue[0].time <= self.network.hub.clock.time():
            return self._queue.popleft()
        return None

    async def _wait(self) -> None:
        """Until the first frame is there, or something else changed."""
        self._changed.clear()
        held = self.network.hub.held(self.peer, self.owner)
        if held or not self._queue:
            await self._changed.wait()
            return
        timer = self.network.hub.clock.call_at(self._queue[0].time, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()

    def _take(self, frame: Frame) -> Frame:
        if len(self._queue) + 1 >= QUEUED_FRAMES or self._queued_bytes >= QUEUED_BYTES:
            self._other.wake()  # there is room again
        self._queued_bytes -= len(frame.payload)
        size = PREFIX_BYTES + len(frame.header) + len(frame.payload)
        self.bytes_received += size
        self.network.traffic.received[self.protocol] += size
        pacing = self.network.pacing
        pacing.measured(0, size)
        self._turn_at = self.network.hub.clock.time() + pacing.arrived(size, urgent=self._spec.urgent)
        return frame

    def _check_sendable(self) -> None:
        if self._closed:
            raise ChannelClosed(self.peer, "closed")
        if self._failure is not None:
            raise ChannelClosed(self.peer, self._failure.reason, self._failure.detail)
        now = self.network.hub.clock.time()
        if self._queue and isinstance(self._queue[-1].what, str) and self._queue[-1].time <= now:
            raise ChannelClosed(self.peer, self._queue[-1].what)

    def _is_full(self) -> bool:
        if self._closed:
            return False  # whatever comes is dropped
        return len(self._queue) >= QUEUED_FRAMES or self._queued_bytes >= QUEUED_BYTES

    def wake(self) -> None:
        """Something may have changed for whoever waits here."""
        self._changed.set()
