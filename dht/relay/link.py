"""An encrypted connection with one peer and the streams on it: yamux in Noise on a TCP socket.

One task reads, one writes, so that neither waits for the other and no task that is cancelled leaves half a
message behind. What a link holds is bounded by the windows that it gave.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol, TypeVar

import trio

from talkoot.dht.errors import RemoteError
from talkoot.dht.multiaddr import varint
from talkoot.dht.relay.yamux import MAX_DATA, Event, Session

E = TypeVar("E", bound=BaseException)

READ_BYTES = 128 * 1024
"""Bytes taken from the socket at once."""
MAX_CHUNK_BYTES = 2 * MAX_DATA
"""Most bytes that a stream hands out at once."""
QUIET_S = 45.0
"""After so long without a byte the other side is asked for a sign of life; after as long again it is gone."""
WRITE_S = 60.0
"""Longest time for one write to the socket."""
_FRAMES_AHEAD = 4
MAX_NOISE = 65_535
_TAG = 16
_MAX_PLAIN = MAX_NOISE - _TAG


class Cipher(Protocol):
    """Both directions of a connection after the handshake; each call counts its nonce on."""

    def encrypt(self, data: bytes) -> bytes:
        """A message with its tag."""

    def decrypt(self, data: bytes) -> bytes:
        """The message. Raises an exception of the library for one that was changed."""


class Sealed:
    """A socket with Noise messages on it: two bytes of length, then the ciphertext."""

    def __init__(self, peer: bytes, socket: trio.SocketStream, cipher: Cipher) -> None:
        self.peer = peer
        self._socket = socket
        self._cipher = cipher
        self._raw = bytearray()
        self._plain = bytearray()

    async def receive(self) -> bytes:
        """What came, decrypted; at least one byte. Raises RemoteError (`lost`, `malformed`)."""
        if self._plain:
            taken = bytes(self._plain)
            self._plain.clear()
            return taken
        while True:
            whole = self._open_messages()
            if whole:
                return whole
            try:
                data = await self._socket.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise RemoteError(self.peer, "lost") from error
            if not data:
                raise RemoteError(self.peer, "lost")
            self._raw += data

    async def read(self, count: int) -> bytes:
        """Exactly so many bytes, while nobody else receives."""
        while len(self._plain) < count:
            held = bytes(self._plain)
            self._plain.clear()
            self._plain += held + await self.receive()
        taken = bytes(self._plain[:count])
        del self._plain[:count]
        return taken

    async def write(self, data: bytes) -> None:
        """All of it. Not to be cancelled, except with the connection. Raises RemoteError (`lost`,
        `timeout`)."""
        try:
            with trio.fail_after(WRITE_S):
                await self._socket.send_all(self._seal(data))
        except trio.TooSlowError as error:
            raise RemoteError(self.peer, "timeout", "takes nothing") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise RemoteError(self.peer, "lost") from error

    async def close(self) -> None:
        """At once."""
        await trio.aclose_forcefully(self._socket)

    def _open_messages(self) -> bytes:
        """All whole messages that are there."""
        raw, start, opened = memoryview(self._raw), 0, []
        try:
            while len(raw) - start >= 2:
                end = start + 2 + int.from_bytes(raw[start : start + 2], "big")
                if end > len(raw):
                    break
                opened.append(self._cipher.decrypt(bytes(raw[start + 2 : end])))
                start = end
        except Exception as error:  # each library has its own for a wrong tag
            raise RemoteError(self.peer, "malformed", "a message that does not decrypt") from error
        finally:
            raw.release()
        del self._raw[:start]
        return opened[0] if len(opened) == 1 else b"".join(opened)

    def _seal(self, data: bytes) -> bytes:
        pieces = []
        for start in range(0, len(data), _MAX_PLAIN):
            sealed = self._cipher.encrypt(data[start : start + _MAX_PLAIN])
            pieces += [len(sealed).to_bytes(2, "big"), sealed]
        return b"".join(pieces)


class Stream:
    """One stream of a link. One task receives, one sends."""

    def __init__(self, link: "Link", number: int) -> None:
        self.link = link
        self.peer = link.peer
        self._number = number
        self._chunks: deque[bytes] = deque()
        self._held = 0  # bytes that were handed out by the last `receive` and are given back by the next
        self._ended = False
        self._cut = False
        self._came = trio.Event()
        self._room = trio.Event()

    async def receive(self) -> bytes:
        """What came, empty at the end. The other side may send as much again once this is called once more.

        Raises RemoteError (`lost`) when the stream was reset.
        """
        self._give_back()
        while not self._chunks:
            self._check()
            if self._ended:
                return b""
            self._came = trio.Event()
            await self._came.wait()
        data = self._chunks.popleft()
        while self._chunks and len(data) + len(self._chunks[0]) <= MAX_CHUNK_BYTES:
            data += self._chunks.popleft()  # what came in crumbs goes on in one piece
        self._held = len(data)
        return data

    async def read(self, n: int | None = None) -> bytes:
        """Exactly so many bytes; what came with them is left. None: as `receive`. Raises RemoteError
        (`lost`)."""
        if n is None:
            return await self.receive()
        data = b""
        while len(data) < n:
            more = await self.receive()
            if not more:
                raise RemoteError(self.peer, "lost", "the stream ended early")
            data += more
        if len(data) > n:
            self._chunks.appendleft(data[n:])
            self._held -= len(data) - n
        return data[:n]

    async def read_message(self, limit: int) -> bytes:
        """A message with its length before it. Raises RemoteError (`lost`, `oversized`, `malformed`)."""
        return await read_message(self, self.peer, limit)

    async def send(self, data: bytes) -> None:
        """All of it, as the other side gives room. Raises RemoteError (`lost`)."""
        view = memoryview(data)
        while view:
            self._check()
            if not self.link.session.is_open(self._number):
                raise RemoteError(self.peer, "closed", "the stream was ended before")
            room = self.link.session.room(self._number)
            if not room:
                self._room = trio.Event()
                await self._room.wait()
                continue
            size = min(room, len(view), MAX_DATA)
            await self.link.send(self.link.session.data(self._number, view[:size]))
            view = view[size:]

    async def write(self, data: bytes) -> None:
        """The same as `send`."""
        await self.send(data)

    async def send_message(self, data: bytes) -> None:
        """A message with its length before it. Raises RemoteError (`lost`)."""
        await self.send(varint(len(data)) + data)

    async def finish(self) -> None:
        """End our side. Raises RemoteError (`lost`) if the link is gone."""
        self._check()
        frame = self.link.session.finish(self._number)
        if frame:
            await self.link.send(frame)

    async def linger(self, timeout_s: float) -> None:
        """After `finish`: leave the other side time to read what was sent, and to end its side.

        A stream that is cut off takes along what is still on its way.
        """
        with trio.move_on_after(timeout_s), suppress(RemoteError):
            while await self.receive():
                pass

    def abort(self) -> None:
        """Cut it off, at once and in both directions."""
        self._cut = True
        self.link.session.reset(self._number)
        self.link.nudge()
        self.link.forget(self._number)
        self._wake()

    def resize(self, window: int) -> None:
        """Let the other side send so many bytes ahead."""
        self.link.session.resize(self._number, window)
        self.link.nudge()

    def take(self, event: Event) -> None:
        """What the link's reader saw."""
        if event.kind == "data":
            self._chunks.append(event.data)
        elif event.kind == "ended":
            self._ended = True
        elif event.kind == "reset":
            self._cut = True
        self._wake()

    def lose(self) -> None:
        """The link is gone."""
        self._cut = True
        self._wake()

    def _wake(self) -> None:
        self._came.set()
        self._room.set()

    def _check(self) -> None:
        if self._cut:
            raise RemoteError(self.peer, "lost", "the stream was reset")

    def _give_back(self) -> None:
        if self._held:
            self.link.session.consumed(self._number, self._held)
            self._held = 0
            if self.link.session.has_control:
                self.link.nudge()


class Link:
    """One connection. `run` it; `open` streams and `send` meanwhile."""

    def __init__(self, sealed: Sealed, *, initiator: bool) -> None:
        self.peer = sealed.peer
        self.session = Session(sealed.peer, initiator=initiator)
        self.over = trio.Event()
        self.used_s = trio.current_time()
        """When a stream was last opened."""
        self.leaving = False
        """The other side takes no new streams."""
        self._sealed = sealed
        self._streams: dict[int, Stream] = {}
        self._frames, self._to_write = trio.open_memory_channel[bytes](_FRAMES_AHEAD)
        self._scope = trio.CancelScope()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.over.is_set()

    @property
    def num_streams(self) -> int:
        """Streams on it now."""
        return len(self._streams)

    async def run(self, opened: Callable[[Stream], Awaitable[None]]) -> RemoteError | None:
        """Until the connection ends; why, None if we closed it. `opened` serves each stream of the other
        side."""
        ended: RemoteError | None = None
        try:
            with self._scope:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._write)
                        await self._read(nursery, opened)
                except* RemoteError as group:
                    ended = first_of(group, RemoteError)
        finally:
            self.over.set()
            self._to_write.close()  # who waits to send hears of it
            for stream in list(self._streams.values()):
                stream.lose()
            self._streams.clear()
            with trio.CancelScope(shield=True):
                await self._sealed.close()
        return ended

    def open(self) -> Stream:
        """A stream of ours. Raises RemoteError (`lost`, `busy`)."""
        if self.is_over or self.leaving:
            raise RemoteError(self.peer, "lost", "the connection is ending")
        number = self.session.open()
        if number is None:
            raise RemoteError(self.peer, "busy", "too many streams")
        self.nudge()
        return self._add(number)

    async def send(self, frame: bytes) -> None:
        """Have a frame sent. Raises RemoteError (`lost`)."""
        try:
            await self._frames.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise RemoteError(self.peer, "lost") from error

    def nudge(self) -> None:
        """Have answers sent soon."""
        # Where that fails, what is sent next takes them along, or nothing is sent any more.
        with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._frames.send_nowait(b"")

    def close(self) -> None:
        """End the connection and all that is on it."""
        self._scope.cancel()

    def say_goodbye(self) -> None:
        """Tell the other side that no new stream is taken."""
        self.session.go_away()
        self.nudge()

    def forget(self, number: int) -> None:
        """A stream that is over."""
        self._streams.pop(number, None)

    def _add(self, number: int) -> Stream:
        self.used_s = trio.current_time()
        stream = self._streams[number] = Stream(self, number)
        return stream

    async def _write(self) -> None:
        async for frame in self._to_write:
            data = self.session.take_control() + frame
            if data:
                await self._sealed.write(data)

    async def _read(self, nursery: trio.Nursery, opened: Callable[[Stream], Awaitable[None]]) -> None:
        asked = False
        while True:
            data = b""
            with trio.move_on_after(QUIET_S):
                data = await self._sealed.receive()
            if not data:
                if asked:
                    raise RemoteError(self.peer, "lost", "no sign of life")
                asked = True
                self.session.ping()
                self.nudge()
                continue
            asked = False
            for event in self.session.receive(data):
                self._happened(event, nursery, opened)
            if self.session.has_control:
                self.nudge()

    def _happened(
        self, event: Event, nursery: trio.Nursery, opened: Callable[[Stream], Awaitable[None]]
    ) -> None:
        if event.kind == "opened":
            nursery.start_soon(self._serve, self._add(event.stream), opened)
        elif event.kind == "go_away":
            self.leaving = True
        elif event.stream in self._streams:
            stream = self._streams[event.stream]
            stream.take(event)
            if event.kind == "reset":
                self.forget(event.stream)

    async def _serve(self, stream: Stream, opened: Callable[[Stream], Awaitable[None]]) -> None:
        try:
            await opened(stream)
        finally:
            stream.abort()  # nothing, if both sides have ended it


class Reader(Protocol):
    """Something with bytes in it."""

    async def read(self, count: int, /) -> bytes:
        """Exactly so many."""


async def read_message(reader: Reader, peer: bytes, limit: int) -> bytes:
    """A message of at most `limit` bytes with its length, a varint, before it.

    Raises RemoteError (`oversized`, `malformed`), and what the reader raises.
    """
    length = shift = 0
    while True:
        byte = (await reader.read(1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if length > limit:
            raise RemoteError(peer, "oversized", f"message of more than {limit} bytes")
        if byte < 128:
            break
        if shift > 28:
            raise RemoteError(peer, "malformed", "a length without an end")
    return await reader.read(length) if length else b""


def first_of(group: BaseExceptionGroup[BaseException], kind: type[E]) -> E | None:
    """The first exception of a kind in a group, however deep."""
    matching = group.subgroup(kind)
    error: BaseException | None = matching
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, kind) else None
