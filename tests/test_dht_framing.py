"""Frames: any cutting of the stream gives the same events, and nothing is believed before it is checked."""

import zlib

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht.errors import RemoteError
from talkoot.dht.framing import (
    BUSY_FRAME,
    DATA,
    END_FRAME,
    PREFIX_BYTES,
    Event,
    FrameDecoder,
    encode_prefix,
)
from talkoot.dht.network import Frame

MAX_HEADER, MAX_PAYLOAD = 40_000, 70_000


def decoder() -> FrameDecoder:
    return FrameDecoder(max_header=MAX_HEADER, max_payload=MAX_PAYLOAD)


def plain(events: list[Event]) -> list[object]:
    return [(e.header, bytes(e.payload)) if isinstance(e, Frame) else e for e in events]


def encode(header: bytes, payload: bytes) -> bytes:
    return encode_prefix(DATA, header, len(payload)) + payload


def test_golden_bytes() -> None:
    assert encode(b"ab", b"c").hex() == "010000000200000001" + "e30e4fa0" + "616263"
    assert END_FRAME.hex() == "020000000000000000c8ff3c28"


sizes = st.sampled_from([0, 1, 2, 100, 16_370, 16_384, 16_390])
frames = st.lists(st.tuples(sizes, sizes.map(lambda n: 4 * n)), max_size=6)


@examples(60)
@given(frames, st.lists(st.integers(100, 30_000), min_size=1, max_size=20))
def test_any_cutting_gives_the_same_frames(lengths: list[tuple[int, int]], cuts: list[int]) -> None:
    expected = [(b"h" * header, b"p" * payload) for header, payload in lengths]
    stream = b"".join(encode(*frame) for frame in expected) + END_FRAME
    target, events, position = decoder(), [], 0
    for number in range(len(stream)):
        if position >= len(stream):
            break
        piece = stream[position : position + cuts[number % len(cuts)]]
        events += target.feed(piece)
        position += len(piece)
    assert plain(events) == [*expected, "ended"]
    assert target.at_boundary


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_prefix(DATA, b"", MAX_PAYLOAD + 1), "oversized"),
        (encode_prefix(DATA, b"h" * (MAX_HEADER + 1), 0), "oversized"),
        (bytes([DATA]) + b"\xff" * 12, "oversized"),
        (bytes(13), "malformed"),
        (bytes([9]) + END_FRAME[1:], "malformed"),
        (encode_prefix(2, b"h", 0), "malformed"),
        (encode_prefix(3, b"", 1), "malformed"),
        (END_FRAME[:-1] + bytes([END_FRAME[-1] ^ 1]), "malformed"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteError) as caught:
        decoder().feed(data)
    assert caught.value.reason == reason


def test_lengths_are_refused_before_the_header_is_there() -> None:
    with pytest.raises(RemoteError, match="oversized"):
        decoder().feed(encode_prefix(DATA, b"h" * (MAX_HEADER + 1), 0)[:PREFIX_BYTES])


def test_a_changed_length_or_header_does_not_pass() -> None:
    good = encode(b"header", b"payload")
    for position in range(PREFIX_BYTES + 6):
        bad = bytearray(good)
        bad[position] ^= 1
        target = decoder()
        try:
            events = target.feed(bytes(bad))
        except RemoteError:
            continue
        assert events == []  # it waits for more
        assert not target.at_boundary


def test_a_busy_frame() -> None:
    assert decoder().feed(BUSY_FRAME) == ["busy"]


@examples(100)
@given(st.binary(max_size=300))
def test_garbage_raises_nothing_else(data: bytes) -> None:
    assert reason_of(data) in (None, "oversized", "malformed")


@examples(100)
@given(st.binary(max_size=60), st.integers(0, 80_000))
def test_garbage_with_a_right_checksum(header: bytes, payload: int) -> None:
    data = encode_prefix(DATA, header, payload)
    assert zlib.crc32(header, zlib.crc32(data[:9])).to_bytes(4, "big") == data[9:13]
    assert reason_of(data) == ("oversized" if payload > MAX_PAYLOAD else None)


def reason_of(data: bytes) -> str | None:
    try:
        decoder().feed(data)
    except RemoteError as error:
        return error.reason
    return None
