"""Frames on a byte stream: encoding and an incremental decoder, without I/O.

Frame: kind (1 byte), header length, payload length, CRC-32 of the nine bytes before it and of the header
(4 bytes each, big-endian); then header and payload. A stream that ends without an END or BUSY frame was
cut. The payload has no checksum: the connection below is encrypted and authenticated.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from talkoot.dht.errors import RemoteError
from talkoot.dht.network import Frame

DATA, END, BUSY = 1, 2, 3
"""Kinds: a message; orderly end of the channel; the channel is refused because a limit was reached."""

_PREFIX = struct.Struct(">BIII")
_CHECKED = struct.Struct(">BII")
PREFIX_BYTES = _PREFIX.size
_SCRATCH_BYTES = 16 * 1024
# Read-ahead for prefixes and small frames; of a bulk frame only so much is copied once more.

_SMALL_BYTES = 64 * 1024
# A payload that is zeroed faster than an array is made.

Event: TypeAlias = Frame | Literal["ended", "busy"]


def encode_prefix(kind: int, header: bytes, payload_bytes: int) -> bytes:
    """Prefix and header of a frame whose payload of `payload_bytes` follows."""
    checked = _CHECKED.pack(kind, len(header), payload_bytes)
    crc = zlib.crc32(header, zlib.crc32(checked))
    return b"".join((checked, crc.to_bytes(4, "big"), header))


END_FRAME = encode_prefix(END, b"", 0)
BUSY_FRAME = encode_prefix(BUSY, b"", 0)


class FrameDecoder:
    """Bytes to frames. Ask for a buffer, fill some of it, `advance`; payloads are filled in place.

    Allocates the read-ahead and one frame, whose declared lengths were checked against the limits before.
    After a RemoteError or a last frame it must not be used again.
    """

    def __init__(
        self, *, max_header: int, max_payload: int, admit: Callable[[int], bool] = lambda _num_bytes: True
    ) -> None:
        """`admit` is asked before there is room for a payload of so many bytes."""
        self._admit = admit
        self._max_header = max_header
        self._max_payload = max_payload
        self._scratch = bytearray(min(_SCRATCH_BYTES, PREFIX_BYTES + max_header))
        self._start = 0  # scratch[start:filled] is not parsed yet
        self._filled = 0
        self._header = b""
        self._payload: memoryview | None = None  # being filled
        self._got = 0  # 0 <= got < len(payload)

    @property
    def at_boundary(self) -> bool:
        """True when no frame has begun."""
        return self._payload is None and self._start == self._filled

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the frame that has begun, so far."""
        return self._got if self._payload is not None else self._filled - self._start

    def get_buffer(self) -> memoryview:
        """Where the next bytes of the stream go; never empty."""
        if self._payload is not None:
            return self._payload[self._got :]
        if self._start == self._filled:
            self._start = self._filled = 0
        if self._filled == len(self._scratch):
            self._compact()
        return memoryview(self._scratch)[self._filled :]

    def advance(self, count: int) -> list[Event]:
        """Account for `count` bytes put into the buffer; returns what they complete.

        Raises RemoteError: `oversized` (before anything is allocated), `malformed`, `busy` (not admitted).
        """
        events: list[Event] = []
        if self._payload is None:
            self._filled += count
        elif self._fill(count):
            events.append(self._take())
        while self._payload is None and (event := self._parse()) is not None:
            events.append(event)
        return events

    def feed(self, data: bytes) -> list[Event]:
        """Decode bytes that are in memory already. Raises as `advance` does."""
        events: list[Event] = []
        view = memoryview(data)
        while view:
            buffer = self.get_buffer()
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            events += self.advance(count)
            view = view[count:]
        return events

    def _parse(self) -> Event | None:
        """The next event in the scratch buffer, or None when more bytes are needed."""
        available = self._filled - self._start
        if available < PREFIX_BYTES:
            return None
        kind, header_bytes, payload_bytes, crc = _PREFIX.unpack_from(self._scratch, self._start)
        self._check_lengths(kind, header_bytes, payload_bytes)
        if available < PREFIX_BYTES + header_bytes:
            return None
        begin = self._start + PREFIX_BYTES
        header = bytes(memoryview(self._scratch)[begin : begin + header_bytes])
        if zlib.crc32(header, zlib.crc32(_CHECKED.pack(kind, header_bytes, payload_bytes))) != crc:
            raise RemoteError(None, "malformed", "frame with a wrong checksum")
        self._start = begin + header_bytes
        if kind != DATA:
            return "ended" if kind == END else "busy"
        return self._begin_payload(header, payload_bytes)

    def _check_lengths(self, kind: int, header_bytes: int, payload_bytes: int) -> None:
        if kind not in (DATA, END, BUSY):
            raise RemoteError(None, "malformed", f"frame of unknown kind {kind}")
        if kind != DATA and (header_bytes or payload_bytes):
            raise RemoteError(None, "malformed", "last frame with a body")
        if header_bytes > self._max_header:
            raise RemoteError(None, "oversized", f"header of {header_bytes} bytes")
        if payload_bytes > self._max_payload:
            raise RemoteError(None, "oversized", f"payload of {payload_bytes} bytes")

    def _begin_payload(self, header: bytes, payload_bytes: int) -> Event | None:
        """Allocate the payload and move into it what was read ahead."""
        if payload_bytes == 0:
            return Frame(header, b"")
        if not self._admit(payload_bytes):
            raise RemoteError(None, "busy", f"no room for a payload of {payload_bytes} bytes")
        # Not zeroed: pages are taken as bytes arrive, so a declaration alone costs no memory.
        self._header, self._payload, self._got = header, memoryview(_room(payload_bytes)), 0
        count = min(payload_bytes, self._filled - self._start)
        self._payload[:count] = memoryview(self._scratch)[self._start : self._start + count]
        self._start += count
        return self._take() if self._fill(count) else None

    def _fill(self, count: int) -> bool:
        """Count bytes of the payload; True when it is complete."""
        assert self._payload is not None
        self._got += count
        return self._got == len(self._payload)

    def _take(self) -> Frame:
        assert self._payload is not None
        frame = Frame(self._header, self._payload)
        self._header, self._payload, self._got = b"", None, 0
        return frame

    def _compact(self) -> None:
        """Make room behind an incomplete prefix or header, whose lengths are within the limits."""
        rest = self._scratch[self._start : self._filled]
        need = PREFIX_BYTES
        if len(rest) >= PREFIX_BYTES:
            need += _PREFIX.unpack_from(rest)[1]
        if len(self._scratch) < need or len(rest) == len(self._scratch):
            self._scratch = bytearray(max(need, len(rest) + 1))
        self._scratch[: len(rest)] = rest
        self._start, self._filled = 0, len(rest)


def _room(num_bytes: int) -> Any:
    """A writable buffer. numpy is loaded only where payloads are large: who reads small ones needs none."""
    if num_bytes <= _SMALL_BYTES:
        return bytearray(num_bytes)
    import numpy as np

    return np.empty(num_bytes, np.uint8)
