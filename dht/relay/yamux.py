"""The yamux protocol (hashicorp/yamux, spec.md) as a state machine without I/O.

Bytes of the other side go in by `receive`, which says what happened; bytes for it come out of
`take_control` and of what `data`, `finish` return. The other side never gets more in than the windows that
it was given: what it sends beyond ends the session, so a session holds at most its streams times their
windows.
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal

from talkoot.dht.errors import RemoteError

PROTOCOL = "/yamux/1.0.0"
FIRST_WINDOW = 256 * 1024
"""Bytes that either side may send on a fresh stream; fixed by the protocol."""
MAX_DATA = 65_507
"""Bytes of data in one frame of ours: with its head it fills a message of Noise."""
MAX_STREAMS = 160
"""Streams of one session at the same time; further ones of the other side are reset."""
MAX_CONTROL_BYTES = 64 * 1024
"""Answers that wait to be sent; a peer that asks and never reads is cut off."""
MAX_WINDOW = 2**31

_HEAD: Final = struct.Struct(">BBHII")
_DATA, _WINDOW, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8

Kind = Literal["opened", "data", "room", "ended", "reset", "go_away"]


@dataclass(frozen=True, slots=True)
class Event:
    """What the other side did: opened a stream, sent `data`, gave `room` to send, ended its side, reset
    it; or it will go away."""

    kind: Kind
    stream: int
    data: bytes = b""


class _Stream:
    __slots__ = ("fin_received", "fin_sent", "owed", "send_room", "window", "window_left")

    def __init__(self) -> None:
        self.send_room = FIRST_WINDOW
        self.window = FIRST_WINDOW
        self.window_left = FIRST_WINDOW  # what the other side may still send
        self.owed = 0  # consumed and not given back yet; negative while a window becomes narrower
        self.fin_sent = False
        self.fin_received = False


class Session:
    """One connection's streams. Raises RemoteError (`malformed`, `oversized`, `flood`), which ends it."""

    def __init__(self, peer: bytes | None, *, initiator: bool) -> None:
        self._peer = peer
        self._parity = 1 if initiator else 0
        self._next = 1 if initiator else 2
        self._streams: dict[int, _Stream] = {}
        self._control = bytearray()
        self._head = bytearray()
        self._body: tuple[int, int, int] | None = None  # stream, flags, bytes of data that are still to come

    def __len__(self) -> int:
        return len(self._streams)

    def receive(self, data: bytes) -> list[Event]:
        """Take what came, in pieces of any size."""
        events: list[Event] = []
        view = memoryview(data)
        while True:
            if self._body is not None:
                view = self._data(view, events)
                if self._body is not None:
                    return events
            need = _HEAD.size - len(self._head)
            self._head += view[:need]
            view = view[need:]
            if len(self._head) < _HEAD.size:
                return events
            version, kind, flags, stream, length = _HEAD.unpack(self._head)
            self._head.clear()
            if version != 0 or kind > _GO_AWAY:
                raise RemoteError(self._peer, "malformed", "not a yamux frame")
            self._frame(kind, flags, stream, length, events)
            if len(self._control) > MAX_CONTROL_BYTES:
                raise RemoteError(self._peer, "flood", "asks and does not read")

    def open(self) -> int | None:
        """A new stream; None where there are too many."""
        if len(self._streams) >= MAX_STREAMS or self._next >= 2**32:
            return None
        stream, self._next = self._next, self._next + 2
        self._streams[stream] = _Stream()
        self._control += _HEAD.pack(0, _WINDOW, _SYN, stream, 0)
        return stream

    def room(self, stream: int) -> int:
        """Bytes that may be sent on it now."""
        known = self._streams.get(stream)
        return known.send_room if known is not None and not known.fin_sent else 0

    def is_open(self, stream: int) -> bool:
        """Whether something can still be sent on it."""
        known = self._streams.get(stream)
        return known is not None and not known.fin_sent

    def data(self, stream: int, data: memoryview) -> bytes:
        """The frame of at most MAX_DATA bytes, for which there is `room`."""
        assert len(data) <= min(MAX_DATA, self.room(stream))
        self._streams[stream].send_room -= len(data)
        return _HEAD.pack(0, _DATA, 0, stream, len(data)) + data

    def finish(self, stream: int) -> bytes:
        """The frame that ends our side; it follows the data that was sent before. Empty if it is over."""
        known = self._streams.get(stream)
        if known is None or known.fin_sent:
            return b""
        known.fin_sent = True
        self._forget_if_over(stream, known)
        return _HEAD.pack(0, _WINDOW, _FIN, stream, 0)

    def reset(self, stream: int) -> None:
        """Cut a stream off in both directions."""
        if self._streams.pop(stream, None) is not None:
            self._control += _HEAD.pack(0, _WINDOW, _RST, stream, 0)

    def consumed(self, stream: int, count: int) -> None:
        """Give room for what was taken out: half a window at a time."""
        known = self._streams.get(stream)
        if known is None or known.fin_received:
            return
        known.owed += count
        if known.owed * 2 >= known.window:
            self._give(stream, known)

    def resize(self, stream: int, window: int) -> None:
        """Let the other side send so many bytes ahead: more from now on, fewer as what it sends is
        consumed."""
        known = self._streams.get(stream)
        if known is None or known.fin_received:
            return
        known.owed += window - known.window
        known.window = window
        if known.owed * 2 >= window:
            self._give(stream, known)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._control += _HEAD.pack(0, _PING, _SYN, 0, 1)

    def go_away(self) -> None:
        """Say that no new stream is taken."""
        self._control += _HEAD.pack(0, _GO_AWAY, 0, 0, 0)

    def take_control(self) -> bytes:
        """What is to be sent before anything else."""
        taken = bytes(self._control)
        self._control.clear()
        return taken

    @property
    def has_control(self) -> bool:
        """Whether there is any."""
        return bool(self._control)

    # -- the other side's frames ---------------------------------------------------------------------

    def _frame(self, kind: int, flags: int, stream: int, length: int, events: list[Event]) -> None:
        if kind == _PING:
            if flags & _SYN:
                self._control += _HEAD.pack(0, _PING, _ACK, 0, length)
        elif kind == _GO_AWAY:
            events.append(Event("go_away", 0))
        else:
            if flags & _SYN:
                self._opened(stream, events)
            if kind == _DATA:
                self._begin_data(stream, flags, length)
            else:
                self._grown(stream, length, events)
                self._closed(stream, flags, events)

    def _opened(self, stream: int, events: list[Event]) -> None:
        if stream == 0 or stream % 2 == self._parity or stream in self._streams:
            raise RemoteError(self._peer, "malformed", "opens a stream that it may not")
        if len(self._streams) >= MAX_STREAMS:
            self._control += _HEAD.pack(0, _WINDOW, _RST, stream, 0)
            return
        self._streams[stream] = _Stream()
        self._control += _HEAD.pack(0, _WINDOW, _ACK, stream, 0)
        events.append(Event("opened", stream))

    def _begin_data(self, stream: int, flags: int, length: int) -> None:
        known = self._streams.get(stream)
        # What is on its way to a stream that was reset is thrown away, and is no more than a window either.
        limit = known.window_left if known is not None and not known.fin_received else MAX_WINDOW
        if known is None:
            limit = 16 * FIRST_WINDOW
        if length > limit or (known is not None and known.fin_received and length):
            raise RemoteError(self._peer, "oversized", f"{length} bytes, more than the window")
        if known is not None:
            known.window_left -= length
        self._body = (stream, flags, length)

    def _data(self, view: memoryview, events: list[Event]) -> memoryview:
        assert self._body is not None
        stream, flags, left = self._body
        piece = view[:left]
        if piece and stream in self._streams:
            events.append(Event("data", stream, bytes(piece)))
        left -= len(piece)
        self._body = (stream, flags, left) if left else None
        if not left:
            self._closed(stream, flags, events)
        return view[len(piece) :]

    def _grown(self, stream: int, length: int, events: list[Event]) -> None:
        known = self._streams.get(stream)
        if known is None or not length:
            return
        known.send_room += length
        if known.send_room > MAX_WINDOW:
            raise RemoteError(self._peer, "malformed", "a window without bounds")
        events.append(Event("room", stream))

    def _closed(self, stream: int, flags: int, events: list[Event]) -> None:
        known = self._streams.get(stream)
        if known is None:
            return
        if flags & _RST:
            del self._streams[stream]
            events.append(Event("reset", stream))
        elif flags & _FIN and not known.fin_received:
            known.fin_received = True
            self._forget_if_over(stream, known)
            events.append(Event("ended", stream))

    def _give(self, stream: int, known: _Stream) -> None:
        self._control += _HEAD.pack(0, _WINDOW, 0, stream, known.owed)
        known.window_left += known.owed
        known.owed = 0

    def _forget_if_over(self, stream: int, known: _Stream) -> None:
        if known.fin_sent and known.fin_received:
            del self._streams[stream]
