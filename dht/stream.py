"""A channel over an asyncio transport: frames straight into their buffers, back-pressure, orderly ends.

`BufferedProtocol` rather than StreamReader: a payload is received into the memory that the caller gets.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from talkoot.dht.errors import ChannelClosed, RemoteError
from talkoot.dht.framing import BUSY_FRAME, DATA, END_FRAME, PREFIX_BYTES, FrameDecoder, encode_prefix
from talkoot.dht.holding import Budget
from talkoot.dht.limits import QUEUED_BYTES, QUEUED_FRAMES, SLOW_BYTES, SLOW_LOOK_S
from talkoot.dht.network import Buffer, Channel, Frame, ProtocolSpec, Traffic
from talkoot.dht.pacing import Pacing

LINGER_S = 1.0
"""How long `close` waits for the other side to acknowledge the end."""
_JOIN_BYTES = 4096
# Payloads up to here are written together with their header.


class StreamChannel(Channel, asyncio.BufferedProtocol):
    """Made by a protocol factory; usable once its transport is connected.

    The closing side sends END and waits for the END of the other before it closes the connection, so that
    a reset cannot overtake data that is still under way. Both directions are read all the time unless the
    queue is full.
    """

    def __init__(
        self,
        peer: bytes,
        spec: ProtocolSpec,
        traffic: Traffic,
        on_lost: Callable[[], None] = lambda: None,
        *,
        accepted: bool = False,
        budget: Budget | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        """`on_lost` is called when the connection is gone, see `broken`; `budget`: what is received counts
        there until it is dealt with; `pacing` may hold back both directions."""
        self.peer = peer
        self.protocol = spec.name
        self.bytes_sent = 0
        self.bytes_received = 0
        self._spec = spec
        self._bytes_arrived = 0
        self._traffic = traffic
        self._on_lost = on_lost
        self._decoder = FrameDecoder(
            max_header=spec.max_header, max_payload=spec.takes(accepted=accepted), admit=self._admit
        )
        self._budget = budget
        self._pacing = pacing or Pacing()
        self._held = 0  # bytes taken from the budget
        self._lent = 0  # of them, those of the frame that was received last
        self._watch: asyncio.TimerHandle | None = None  # runs while a frame has begun
        self._seen = (0, 0)  # frames and bytes of the channel at the last look of the watch
        self._num_frames = 0
        self._transport: asyncio.Transport | None = None
        self._queue: deque[Frame] = deque()
        self._queued_bytes = 0
        self._reading = True  # unless the queue is full, or it is not our turn
        self._turn: asyncio.TimerHandle | None = None  # when more may be read
        self._failure: RemoteError | None = None  # why nothing more will be received
        self._arrived = asyncio.Event()  # something to receive, or a failure
        self._flushed = asyncio.Event()  # the transport holds no unsent bytes
        self._flushed.set()
        self._lost = asyncio.Event()
        self._torn = False  # part of a frame was sent, its rest never will be
        self._end_sent = False
        self._peer_ended = False
        self._closed = False

    @property
    def bytes_arrived(self) -> int:
        return self._bytes_arrived

    @property
    def broken(self) -> bool:
        """Whether it was cut or stood still, instead of being ended by either side."""
        return self._torn or (self._failure is not None and self._failure.reason in ("lost", "timeout"))

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Flushed means that the kernel has everything: payloads are not copied, callers may reuse them.
        self._transport.set_write_buffer_limits(high=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        buffer, download = self._decoder.get_buffer(), self._pacing.download
        return buffer[: download.slice_bytes] if download.limited else buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._peer_ended:
            return  # nothing counts after the last frame
        self._bytes_arrived += nbytes
        self._await_turn(nbytes)
        try:
            for event in self._decoder.advance(nbytes):
                if isinstance(event, Frame):
                    self._enqueue(event)
                else:
                    self._take_end(event)
                    return
        except RemoteError as error:
            self._fail(RemoteError(self.peer, error.reason, error.detail))
            self._abort()
        if self._watch is None and not self._decoder.at_boundary:
            self._look_again()

    def _look_again(self) -> None:
        self._seen = (self._num_frames, self._bytes_arrived)
        self._watch = asyncio.get_running_loop().call_later(SLOW_LOOK_S, self._look)

    def _look(self) -> None:
        """Whether the frame that has begun goes on; not while it is we who do not read."""
        self._watch = None
        if self._decoder.at_boundary or self._lost.is_set() or self._closed:
            return
        frames, before = self._seen
        if self._reading and frames == self._num_frames and self._bytes_arrived - before < SLOW_BYTES:
            self._fail(RemoteError(self.peer, "timeout", "a frame that does not go on"))
            self._abort()
            return
        self._look_again()

    def eof_received(self) -> bool:
        return False  # a half-open stream is of no use: the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ChannelClosed(self.peer, "lost", str(exc) if exc else "cut without an end"))
        self._lost.set()
        self._flushed.set()
        if self._watch is not None:
            self._watch.cancel()
        if self._turn is not None:
            self._turn.cancel()
        self._give_back(self._held - min(self._held, self._queued_bytes))
        self._lent = 0
        self._on_lost()

    def pause_writing(self) -> None:
        self._flushed.clear()

    def resume_writing(self) -> None:
        self._flushed.set()

    # The channel's side.

    async def send(self, header: bytes, payload: Buffer = b"", *, timeout_s: float) -> None:
        size = len(payload) if not isinstance(payload, memoryview) else payload.nbytes
        if len(header) > self._spec.max_header or size > self._spec.max_payload:
            raise ValueError(f"frame of {len(header)} + {size} bytes is above the limits of {self.protocol}")
        self._check_sendable()
        assert self._transport is not None
        prefix = encode_prefix(DATA, header, size)
        if self._pacing.upload.limited:
            await self._send_slices(prefix, memoryview(payload).cast("B"), timeout_s)
        elif size <= _JOIN_BYTES:
            self._transport.write(b"".join((prefix, payload)))
        else:
            self._transport.write(prefix)
            self._transport.write(payload)
        await self._drain(timeout_s)
        count = len(prefix) + size
        self.bytes_sent += count
        self._traffic.sent[self.protocol] += count

    async def receive(self, *, timeout_s: float | None = None) -> Frame:
        self._give_back(self._lent)
        self._lent = 0
        async with asyncio.timeout(timeout_s):
            while not self._queue:
                if self._failure is not None:
                    raise type(self._failure)(self.peer, self._failure.reason, self._failure.detail)
                self._arrived.clear()
                await self._arrived.wait()
        frame = self._queue.popleft()
        self._queued_bytes -= len(frame.payload)
        self._lent = min(len(frame.payload), self._held)
        self._read_or_wait()
        return frame

    async def close(self) -> None:
        await self._close(END_FRAME)

    async def refuse(self) -> None:
        """Close a channel that was accepted above a limit; the other side learns why. Never raises."""
        await self._close(BUSY_FRAME)

    def _enqueue(self, frame: Frame) -> None:
        count = PREFIX_BYTES + len(frame.header) + len(frame.payload)
        self.bytes_received += count
        self._num_frames += 1
        self._traffic.received[self.protocol] += count
        if self._closed:
            return  # read on only to see the other side's END
        self._queue.append(frame)
        self._queued_bytes += len(frame.payload)
        self._arrived.set()
        self._read_or_wait()

    def _admit(self, num_bytes: int) -> bool:
        """Whether a payload of so many bytes may come."""
        if self._budget is None or self._closed:
            return True
        if not self._budget.take(num_bytes):
            return False
        self._held += num_bytes
        return True

    def _give_back(self, num_bytes: int) -> None:
        if self._budget is not None:
            self._budget.give(num_bytes)
            self._held -= num_bytes

    def _is_full(self) -> bool:
        return len(self._queue) >= QUEUED_FRAMES or self._queued_bytes >= QUEUED_BYTES

    def _await_turn(self, num_bytes: int) -> None:
        """Read on once these bytes are within the limit of what may come."""
        wait_s = self._pacing.arrived(num_bytes, urgent=self._spec.urgent)
        if wait_s > 0 and self._turn is None:
            self._turn = asyncio.get_running_loop().call_later(wait_s, self._take_turn)
            self._read_or_wait()

    def _take_turn(self) -> None:
        self._turn = None
        self._read_or_wait()

    def _read_or_wait(self) -> None:
        reading = self._turn is None and not (self._is_full() and not self._closed)
        if reading != self._reading and self._transport is not None and not self._lost.is_set():
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _take_end(self, reason: str) -> None:
        """The other side ended the channel: acknowledge, so that it may close the connection."""
        self._peer_ended = True
        self._fail(ChannelClosed(self.peer, reason))
        self._send_last(END_FRAME)

    def _fail(self, failure: RemoteError) -> None:
        """Nothing more will come; the first failure counts."""
        if self._failure is None:
            self._failure = failure
        self._arrived.set()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _check_sendable(self) -> None:
        self._check_alive()
        if self._torn:
            raise ChannelClosed(self.peer, "lost", "a frame was sent in part")

    def _check_alive(self) -> None:
        if self._closed:
            raise ChannelClosed(self.peer, "closed")
        if self._failure is not None:
            raise ChannelClosed(self.peer, self._failure.reason, self._failure.detail)

    async def _send_slices(self, prefix: bytes, data: memoryview, timeout_s: float) -> None:
        """All but waiting for the last slice, each in its turn: other channels go on between them."""
        assert self._transport is not None
        urgent, start, first = self._spec.urgent, 0, prefix
        while first or start < len(data):
            stop = start + max(0, self._pacing.upload.slice_bytes - len(first))
            count = len(first) + len(data[start:stop])
            await self._pacing.leave(count, urgent=urgent)
            self._check_alive()
            self._transport.write(b"".join((first, data[start:stop])))
            first, start = b"", stop
            if start < len(data):
                await self._drain(timeout_s)
            self._torn = start < len(data)

    async def _drain(self, timeout_s: float) -> None:
        if self._flushed.is_set():
            return
        self._torn = True
        async with asyncio.timeout(timeout_s):
            await self._flushed.wait()
        if self._lost.is_set():
            raise ChannelClosed(self.peer, "lost", "cut while sending")
        self._torn = False

    def _send_last(self, frame: bytes) -> None:
        if not (self._end_sent or self._torn or self._lost.is_set()):
            assert self._transport is not None
            self._end_sent = True
            self._transport.write(frame)

    async def _close(self, last_frame: bytes) -> None:
        if self._closed or self._transport is None:
            return
        self._closed = True
        self._queue.clear()
        self._queued_bytes = 0
        self._give_back(self._held)
        if self._failure is None or not self._peer_ended:
            self._failure = ChannelClosed(self.peer, "closed")
        self._arrived.set()
        try:
            async with asyncio.timeout(LINGER_S):
                await self._end_in_band(last_frame)
        except TimeoutError:
            pass  # the other side is slow or gone; it will see a cut
        finally:
            self._transport.abort()

    async def _end_in_band(self, last_frame: bytes) -> None:
        """Exchange last frames, reading on meanwhile, and wait until the connection is gone."""
        assert self._transport is not None
        if self._torn or self._lost.is_set():
            return
        self._send_last(last_frame)
        self._read_or_wait()
        await self._flushed.wait()
        while not (self._peer_ended or self._lost.is_set()):
            self._arrived.clear()
            await self._arrived.wait()
        self._transport.close()
        await self._lost.wait()
