"""yamux against its specification: frames as bytes, windows that hold, and what no honest peer sends."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht.errors import RemoteError
from talkoot.dht.relay.yamux import (
    FIRST_WINDOW,
    MAX_CONTROL_BYTES,
    MAX_DATA,
    MAX_STREAMS,
    Event,
    Session,
)

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length) + data


def served() -> Session:
    """Our side of a connection that the other one made, with its stream 1."""
    session = Session(None, initiator=False)
    assert session.receive(frame(WINDOW, SYN, 1, 0)) == [Event("opened", 1)]
    assert session.take_control() == frame(WINDOW, ACK, 1, 0)
    return session


def test_a_stream_of_theirs() -> None:
    session = served()
    assert session.receive(frame(DATA, 0, 1, 5, b"hello")) == [Event("data", 1, b"hello")]
    assert session.receive(frame(DATA, FIN, 1, 1, b"!")) == [Event("data", 1, b"!"), Event("ended", 1)]
    assert session.data(1, memoryview(b"yes")) == frame(DATA, 0, 1, 3, b"yes")
    assert session.finish(1) == frame(WINDOW, FIN, 1, 0)
    assert len(session) == 0
    assert session.finish(1) == b""


def test_a_stream_of_ours() -> None:
    session = Session(None, initiator=False)
    assert session.open() == 2
    assert session.take_control() == frame(WINDOW, SYN, 2, 0)
    assert session.receive(frame(WINDOW, ACK, 2, 0)) == []
    session.reset(2)
    assert session.take_control() == frame(WINDOW, RST, 2, 0)
    assert session.receive(frame(DATA, 0, 2, 3, b"old")) == [], "what was on its way is thrown away"


def test_data_may_come_with_the_opening() -> None:
    session = Session(None, initiator=False)
    assert session.receive(frame(DATA, SYN, 1, 2, b"hi")) == [Event("opened", 1), Event("data", 1, b"hi")]


def test_windows_are_given_back_by_halves() -> None:
    session = served()
    half = FIRST_WINDOW // 2
    session.receive(frame(DATA, 0, 1, half, bytes(half)))
    session.consumed(1, half - 1)
    assert not session.has_control
    session.consumed(1, 1)
    assert session.take_control() == frame(WINDOW, 0, 1, half)


@pytest.mark.parametrize("widened", [0, FIRST_WINDOW])
def test_a_byte_past_the_window_ends_the_session(widened: int) -> None:
    session = served()
    session.resize(1, FIRST_WINDOW + widened)
    size = FIRST_WINDOW + widened
    session.receive(frame(DATA, 0, 1, size, bytes(size)))
    with pytest.raises(RemoteError, match="oversized"):
        session.receive(frame(DATA, 0, 1, 1, b"x"))


def test_a_window_becomes_narrower_as_it_is_used() -> None:
    session = served()
    quarter = FIRST_WINDOW // 4
    session.resize(1, quarter)
    session.receive(frame(DATA, 0, 1, FIRST_WINDOW, bytes(FIRST_WINDOW)))
    session.consumed(1, 3 * quarter)
    assert not session.has_control, "so much is taken away"
    session.consumed(1, quarter)
    assert session.take_control() == frame(WINDOW, 0, 1, quarter)


def test_what_may_be_sent_is_counted() -> None:
    session = served()
    session.data(1, memoryview(bytes(MAX_DATA)))
    assert session.room(1) == FIRST_WINDOW - MAX_DATA
    assert session.receive(frame(WINDOW, 0, 1, 10)) == [Event("room", 1)]
    assert session.room(1) == FIRST_WINDOW - MAX_DATA + 10
    assert session.room(99) == 0


def test_pings_are_answered() -> None:
    session = served()
    session.receive(frame(PING, SYN, 0, 77))
    assert session.take_control() == frame(PING, ACK, 0, 77)
    session.receive(frame(PING, ACK, 0, 77))
    assert not session.has_control


def test_who_asks_and_never_reads_is_cut_off() -> None:
    session = served()
    with pytest.raises(RemoteError, match="flood"):
        session.receive(frame(PING, SYN, 0, 1) * (MAX_CONTROL_BYTES // 12 + 1))


def test_one_stream_too_many_is_reset() -> None:
    session = Session(None, initiator=False)
    for number in range(MAX_STREAMS):
        assert session.receive(frame(WINDOW, SYN, 2 * number + 1, 0))
    session.take_control()
    assert session.receive(frame(WINDOW, SYN, 2 * MAX_STREAMS + 1, 0)) == []
    assert session.take_control() == frame(WINDOW, RST, 2 * MAX_STREAMS + 1, 0)
    assert session.open() is None


@pytest.mark.parametrize(
    "bad",
    [
        b"\x01" + bytes(11),
        frame(4, 0, 0, 0),
        frame(WINDOW, SYN, 0, 0),
        frame(WINDOW, SYN, 2, 0),
        frame(WINDOW, SYN, 1, 0),
        frame(DATA, 0, 9, 2**32 - 1),
        frame(WINDOW, 0, 1, 2**31),
    ],
    ids=["version", "kind", "stream 0", "our number", "twice", "4 GiB to nobody", "endless window"],
)
def test_what_is_no_yamux_ends_the_session(bad: bytes) -> None:
    with pytest.raises(RemoteError, match=r"malformed|oversized"):
        served().receive(bad)


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    with suppress(RemoteError):
        served().receive(data)


@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=20), st.integers(1, 4000), st.data())
def test_bytes_arrive_in_order_however_they_are_cut(
    messages: list[bytes], piece: int, data: st.DataObject
) -> None:
    """Two sessions back to back, with one stream from each to the other."""
    ends = {True: Session(None, initiator=True), False: Session(None, initiator=False)}
    numbers = {side: end.open() for side, end in ends.items()}
    wire = {side: end.take_control() for side, end in ends.items()}
    sent = {True: b"", False: b""}
    for message in messages:
        side = data.draw(st.booleans())
        number = numbers[side]
        assert number is not None
        wire[side] += ends[side].data(number, memoryview(message))
        sent[side] += message
    for side, end in ends.items():
        number = numbers[side]
        assert number is not None
        wire[side] += end.finish(number)
        events = [
            event
            for start in range(0, len(wire[side]), piece)
            for event in ends[not side].receive(wire[side][start : start + piece])
        ]
        assert b"".join(event.data for event in events) == sent[side]
        assert events[-1] == Event("ended", number)
