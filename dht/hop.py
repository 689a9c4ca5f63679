"""Asking a relay for a reservation: circuit relay v2's `hop` protocol, as far as its client needs it. Pure.

libp2p specs, relay/circuit-v2.md. One protobuf message behind its length (varint) each way. p2pd's own client
(`-autoRelay`) waits for three minutes until all of its relays answer, asks one that failed again after an
hour, and says nothing of it; so this is asked over a stream that p2pd opens for us, and p2pd does the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from talkoot.dht.errors import RemoteError

PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"

RESERVE = bytes([2, 0x08, 0])
"""HopMessage{type: RESERVE} behind its length."""

MAX_HOP_BYTES = 4096
"""Longest answer that is read; go-libp2p's limit, too."""

MIN_LIFE_S, MAX_LIFE_S = 10.0, 24 * 3600.0
"""A reservation that is shorter is none; a longer one is asked for again all the same."""

Refusal: TypeAlias = Literal["refused", "full", "denied", "malformed"]
"""`full`: has no place now. `denied`: not for us (we are no peer of a swarm that it serves, or it does not
know yet). `refused`: for another reason."""

_TYPE, _RESERVATION, _LIMIT, _STATUS = 1, 3, 4, 5
_STATUS_MESSAGE = 2
_OK = 100
_REFUSALS: dict[int, Refusal] = {200: "refused", 201: "full", 202: "denied"}


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a relay promises. Its own addresses are not read: a circuit goes through the one that we
    reached."""

    seconds: float
    """How long it holds, by its word and our clock."""
    max_bytes: int = 0
    """Of one circuit in each direction; 0: no limit of this kind."""
    max_seconds: int = 0
    """Of one circuit; 0: no limit of this kind."""


class RefusedError(RemoteError):
    """The relay's answer is no; `reason` is a `Refusal`."""


def parse_answer(data: bytes, *, relay: bytes, now: float) -> Reservation:
    """The answer to `RESERVE`, without its length. `now` is wall-clock time, which the answer counts in.

    Raises RefusedError.
    """
    try:
        fields = _last_of_each(data)
        if fields.get(_TYPE) != _STATUS_MESSAGE:
            raise ValueError("not a status")
        status = _number(fields.get(_STATUS, 0))
        if status != _OK:
            raise RefusedError(relay, _REFUSALS.get(status, "refused"), f"relay answers {status}")
        expires = _number(_last_of_each(_bytes(fields.get(_RESERVATION, b""))).get(1, 0))
        limit = _last_of_each(_bytes(fields.get(_LIMIT, b"")))
        seconds = expires - now
        if not seconds >= MIN_LIFE_S:
            raise ValueError("a reservation that has expired")
        return Reservation(min(seconds, MAX_LIFE_S), _number(limit.get(2, 0)), _number(limit.get(1, 0)))
    except ValueError as error:
        raise RefusedError(relay, "malformed", str(error)) from error


def _last_of_each(data: bytes) -> dict[int, int | bytes]:
    """The fields of a protobuf message by number, the last of each, as the format has it."""
    return dict(_fields(data))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
        elif kind == 2:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise ValueError("a field longer than its message")
            yield number, data[at : at + length]
            at += length
        elif kind in (1, 5) and len(data) - at >= (size := 8 if kind == 1 else 4):
            at += size  # nothing of ours has this kind
        else:
            raise ValueError("not a protobuf message")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number that does not end")
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 128:
            return number, at


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("bytes where a number belongs")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value
