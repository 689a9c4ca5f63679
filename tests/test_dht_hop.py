"""Reservations on the wire: what a relay may answer, and what only looks like an answer."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht import hop
from talkoot.dht.hop import RefusedError, Reservation, parse_answer

NOW = 1_700_000_000.0
RELAY = b"r" * 32


def number(field: int, value: int) -> bytes:
    return bytes([field << 3]) + varint(value)


def data(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def answer(status: int = 100, *, expires: float = NOW + 900, limit: bytes = b"") -> bytes:
    reservation = data(3, number(1, int(expires)) + data(2, b"address") + data(3, b"voucher"))
    return number(1, 2) + reservation + limit + number(5, status)


def test_what_is_asked_is_what_the_specification_has() -> None:
    assert bytes([2]) + number(1, 0) == hop.RESERVE


def test_a_reservation_says_how_long_it_holds_and_what_a_circuit_may_carry() -> None:
    limit = data(4, number(1, 120) + number(2, 2**17))
    assert parse_answer(answer(), relay=RELAY, now=NOW) == Reservation(900.0)
    assert parse_answer(answer(limit=limit), relay=RELAY, now=NOW) == Reservation(900.0, 2**17, 120)
    assert parse_answer(answer(expires=NOW + 10**9), relay=RELAY, now=NOW).seconds == hop.MAX_LIFE_S


@pytest.mark.parametrize(
    ("status", "reason"), [(200, "refused"), (201, "full"), (202, "denied"), (400, "refused"), (0, "refused")]
)
def test_a_no_has_its_reason(status: int, reason: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_answer(answer(status), relay=RELAY, now=NOW)
    assert (caught.value.peer, caught.value.reason) == (RELAY, reason)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        answer()[:-1],
        b"\xff" * 20,
        number(1, 0) + number(5, 100),
        answer(expires=NOW - 1),
        answer(expires=NOW + 5),
        number(1, 2) + number(3, 7) + number(5, 100),
        number(1, 2) + data(3, b"\xff") + number(5, 100),
        number(1, 2) + data(5, b"d"),
        data(1, b"x") + number(5, 100),
        bytes([1 << 3 | 2]) + varint(2**62),
        bytes([1 << 3 | 3]),
    ],
)
def test_what_is_no_answer_is_refused(wrong: bytes) -> None:
    with pytest.raises(RefusedError, match="malformed"):
        parse_answer(wrong, relay=RELAY, now=NOW)


@given(st.binary(max_size=200))
def test_nothing_else_is_raised(wrong: bytes) -> None:
    with contextlib.suppress(RefusedError):
        assert hop.MIN_LIFE_S <= parse_answer(wrong, relay=RELAY, now=NOW).seconds <= hop.MAX_LIFE_S
