"""A ledger has one form, and bytes that are none are refused."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from averaging_help import keys_of, make_ledger, peers
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.ledger import (
    MAX_LEDGER_BYTES,
    MAX_STANDINGS,
    MAX_VOTERS,
    NORM_HISTORY,
    Audited,
    Ledger,
    LedgerError,
    Standing,
    Used,
    decode_ledger,
    voters_hash,
)
from talkoot.compression.arithmetic import ARITHMETIC_VERSION

VOTERS = keys_of(peers(3))


def test_a_ledger_reads_back() -> None:
    ledger = make_ledger(
        VOTERS,
        norms=(1.0, 0.25),
        standings=(Standing(bytes(32), 2),),
        used=(Used(b"token", VOTERS[0]),),
    )
    assert decode_ledger(ledger.encode()) == ledger
    assert decode_ledger(ledger.encode()).hash == ledger.hash


BAD: dict[str, dict[str, Any]] = {
    "swarm": {"swarm": b"short"},
    "no voters": {"voters": (), "absent": ()},
    "short voter": {"voters": (b"v",), "absent": (0,)},
    "voters out of order": {"voters": VOTERS[::-1]},
    "voter twice": {"voters": (VOTERS[0], VOTERS[0], VOTERS[1])},
    "too many voters": {
        "voters": tuple(bytes([n]) * 32 for n in range(MAX_VOTERS + 1)),
        "absent": (0,) * (MAX_VOTERS + 1),
    },
    "absences": {"absent": (0, 0)},
    "negative absence": {"absent": (0, 0, -1)},
    "round": {"round": -1},
    "global step": {"global_step": -1},
    "tokens": {"tokens": -1},
    "reference": {"reference_steps": 0},
    "no version of the arithmetic": {"arithmetic": 0},
    "a later version of the arithmetic": {"arithmetic": ARITHMETIC_VERSION + 1},
    "too many norms": {"norms": (1.0,) * (NORM_HISTORY + 1)},
    "nan norm": {"norms": (float("nan"),)},
    "infinite norm": {"norms": (float("inf"),)},
    "negative norm": {"norms": (-1.0,)},
    "too many standings": {"standings": (Standing(bytes(32), 1),) * (MAX_STANDINGS + 1)},
    "short standing": {"standings": (Standing(b"", 1),)},
    "codec": {"codec": "int9"},
    "aggregate codec": {"aggregate_codec": ""},
}


@pytest.mark.parametrize("name", BAD)
def test_out_of_bounds(name: str) -> None:
    with pytest.raises(LedgerError):
        decode_ledger(make_ledger(VOTERS, **BAD[name]).encode())


@pytest.mark.parametrize("promoted", [0, 3, -1])
def test_a_ledger_of_a_swarm_whose_trainers_nobody_audited_yet(promoted: int) -> None:
    ledger = msgspec.structs.replace(make_ledger(VOTERS), audited=Audited(promoted=promoted))
    if promoted < 0:
        with pytest.raises(LedgerError, match="negative"):
            decode_ledger(ledger.encode())
    else:
        assert decode_ledger(ledger.encode()) == ledger


def test_other_bytes_for_the_same_ledger_are_refused() -> None:
    ledger = make_ledger(VOTERS)
    fields = msgspec.msgpack.decode(ledger.encode())
    reordered = msgspec.msgpack.encode(dict(reversed(fields.items())))
    assert msgspec.msgpack.decode(reordered, type=Ledger) == ledger
    for data in (reordered, ledger.encode() + b"\0", msgspec.msgpack.encode(fields | {"more": 1})):
        with pytest.raises(LedgerError):
            decode_ledger(data)
    without_default = {name: value for name, value in fields.items() if name != "norms"}
    with pytest.raises(LedgerError, match="canonical"):
        decode_ledger(msgspec.msgpack.encode(without_default))


def test_oversized_and_nested() -> None:
    for data in (bytes(MAX_LEDGER_BYTES + 1), b"\x91" * 200_000):
        with pytest.raises(LedgerError):
            decode_ledger(data)


@examples(200)
@given(st.binary(max_size=200), st.integers(0, 400), st.binary(min_size=1, max_size=2))
def test_garbage_and_damage_are_ledger_errors(garbage: bytes, position: int, damage: bytes) -> None:
    good = make_ledger(VOTERS).encode()
    position %= len(good)
    for data in (garbage, good[:position] + damage + good[position + len(damage) :], good[:position]):
        with suppress(LedgerError):
            assert decode_ledger(data).encode() == data


def test_the_voters_hash_names_a_set() -> None:
    assert len({voters_hash(VOTERS), voters_hash(VOTERS[:2]), voters_hash(()), voters_hash(VOTERS[1:])}) == 4
