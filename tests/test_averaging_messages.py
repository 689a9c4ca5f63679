"""Every message reads back; bytes that are none raise MessageError and nothing else."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from averaging_help import PRIOR, SWARM, certify, make_contribution, make_value, peers, prepared
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import toy_verify

from talkoot.averaging.claims import claim_of, sign_claim
from talkoot.averaging.ledger import MAX_VOTERS
from talkoot.averaging.messages import (
    MAX_ASKED,
    MAX_ATTEMPT,
    MAX_CONTROL_BYTES,
    MAX_MEMBERS,
    MAX_PIECES,
    MAX_RUNS,
    Abort,
    Aggregate,
    Ahead,
    Asked,
    BulkHeader,
    Call,
    Committed,
    Cut,
    Have,
    Held,
    Holding,
    Join,
    Leave,
    Lock,
    Message,
    MessageError,
    Ping,
    Pong,
    Proposal,
    Receipt,
    Roster,
    Run,
    Vote,
    Wait,
    Want,
    sign,
    signed_by,
)
from talkoot.averaging.parts import Part
from talkoot.averaging.wire import decode, decode_bulk_header, encode, encode_bulk_header

FOUR = peers(4)
VALUE = make_value(FOUR, FOUR)
LOCK = prepared(VALUE, FOUR[:3])
HERE: dict[str, Any] = {"round": 5, "attempt": 2}


def make_join(number: int = 0, **changes: Any) -> Join:
    signer = FOUR[number]
    values: dict[str, Any] = {
        "key": signer.key, "prior": PRIOR, "role": "full", "upload": 1e6,
        "contribution": make_contribution(signer), "lock": None, "holds": (), "expects_s": (0.0,) * 3,
        "memory": "whole",
    }  # fmt: skip
    return sign(Join(**(HERE | values | changes)), signer)


def make_roster(**changes: Any) -> Roster:
    values: dict[str, Any] = {
        "leader": FOUR[0].key, "prior": PRIOR, "members": tuple(make_join(n) for n in range(4)),
        "parts": (Part(FOUR[0].key, 0, 1),), "weak": False, "locked": None,
        "took_s": 0.1, "exchange_s": 2.0, "certify_s": 2.0,
    }  # fmt: skip
    return sign(Roster(**(HERE | values | changes)), FOUR[0])


KEY = FOUR[0].key
HOLDING = sign(Holding(**HERE, roster=b"h" * 32, voter=KEY, blobs=b"\x0f"), FOUR[0])
CLAIM = sign_claim(
    claim_of(
        Part(KEY, 0, 3), (b"c" * 32,) * 3, VALUE.cut, swarm=SWARM, round_number=HERE["round"], prior=PRIOR
    ),
    FOUR[0],
)
EXAMPLES: dict[str, Message] = {
    "call": Call(**HERE, prior=PRIOR, form_s=1.0),
    "ahead": Ahead(**HERE),
    "join": make_join(),
    "join without contribution": make_join(contribution=None, role="client", lock=LOCK),
    "roster": make_roster(),
    "roster with a lock": make_roster(parts=(), locked=LOCK),
    "receipt": sign(Receipt(**HERE, roster=b"h" * 32, reducer=KEY, contributor=KEY, root=b"r" * 32), FOUR[0]),
    "leave": Leave(**HERE),
    "ping": Ping(**HERE, nonce=7),
    "pong": Pong(**HERE, nonce=7),
    "cut": sign(Cut(**HERE, roster=b"h" * 32, contributors=(KEY,), holdings=(), took_s=0.1), FOUR[0]),
    "cut of a sparse exchange": sign(
        Cut(**HERE, roster=b"h" * 32, contributors=(KEY,), holdings=(HOLDING,), took_s=0.1), FOUR[0]
    ),
    "holding": HOLDING,
    "have": Have(**HERE, runs=(Run(0, 0, 96), Run(3, 7, 1))),
    "have nothing": Have(**HERE, runs=()),
    "want": Want(**HERE, pieces=(Asked(1, 95, True), Asked(2, 0, False))),
    "wait": Wait(**HERE, blob=1, piece=95),
    "aggregate": Aggregate(**HERE, roster=b"h" * 32, cut=(KEY,), hashes=(b"c" * 32,) * 3, claim=CLAIM),
    "proposal": Proposal(**HERE, value=VALUE, weak=False, prepared=None),
    "proposal of a lock": Proposal(**HERE, value=VALUE, weak=False, prepared=LOCK),
    "vote": Vote(**HERE, value_hash=VALUE.hash, phase="prepare", voter=KEY, signature=bytes(64)),
    "lock": Lock(**HERE, prepared=LOCK),
    "committed": Committed(**HERE, certificate=certify(VALUE, FOUR)),
    "abort": Abort(**HERE, reason="timeout", suspects=(KEY,)),
}


def reason_of(data: bytes) -> str:
    with pytest.raises(MessageError) as caught:
        decode(data)
    return caught.value.reason


def test_there_is_an_example_of_every_kind() -> None:
    assert {type(message) for message in EXAMPLES.values()} == set(Message.__args__)


@pytest.mark.parametrize("name", EXAMPLES)
def test_messages_read_back(name: str) -> None:
    message = EXAMPLES[name]
    assert decode(encode(message)) == message
    assert len(encode(message)) < MAX_CONTROL_BYTES


@pytest.mark.parametrize("name", EXAMPLES)
def test_unknown_missing_and_mistyped_fields(name: str) -> None:
    fields = msgspec.msgpack.decode(encode(EXAMPLES[name]))
    assert reason_of(msgspec.msgpack.encode(fields | {"more": 1})) == "malformed"
    assert reason_of(msgspec.msgpack.encode(fields | {"t": "gossip"})) == "malformed"
    for field in fields:
        less = {key: value for key, value in fields.items() if key != field}
        if field != "signature" or isinstance(EXAMPLES[name], Vote):
            assert reason_of(msgspec.msgpack.encode(less)) == "malformed"
        assert reason_of(msgspec.msgpack.encode(fields | {field: {"a": 1}})) == "malformed"


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    "here", [{"round": -1}, {"round": 2**53 + 1}, {"attempt": -1}, {"attempt": MAX_ATTEMPT + 1}]
)
def test_round_and_attempt_are_bounded(name: str, here: dict[str, int]) -> None:
    assert reason_of(encode(msgspec.structs.replace(EXAMPLES[name], **here))) == "malformed"


BAD_VALUE = msgspec.structs.replace(VALUE, digest=b"short")
BAD_LOCK = msgspec.structs.replace(LOCK, value=BAD_VALUE)
BAD_HOLDING = msgspec.structs.replace(HOLDING, blobs=bytes(9))
MANY = tuple(bytes([n]) * 32 for n in range(MAX_MEMBERS + 1))

OUT_OF_BOUNDS: dict[str, Message] = {
    "call": Call(**HERE, prior=b"short", form_s=1.0),
    "join key": make_join(key=b"short"),
    "join prior": make_join(prior=b"short"),
    "join upload": make_join(upload=float("nan")),
    "join infinite upload": make_join(upload=float("inf")),
    "join negative upload": make_join(upload=-1.0),
    "join lock": make_join(lock=BAD_LOCK),
    "join that holds too much": make_join(holds=tuple(Held(key, 0, 1) for key in MANY)),
    "join that holds one thing twice": make_join(holds=(Held(KEY, 0, 1), Held(KEY, 1, 1))),
    "join that holds less than nothing": make_join(holds=(Held(KEY, 3, -1),)),
    "join that holds a short key's": make_join(holds=(Held(b"short", 0, 1),)),
    "join that expects too little": make_join(expects_s=(1.0,)),
    "join that expects for ever": make_join(expects_s=(1.0, float("nan"), 1.0)),
    "call for ever": Call(**HERE, prior=PRIOR, form_s=float("inf")),
    "roster for ever": make_roster(exchange_s=float("nan")),
    "roster that took less than nothing": make_roster(took_s=-1.0),
    "cut that took for ever": Cut(
        **HERE, roster=b"h" * 32, contributors=(KEY,), holdings=(), took_s=float("inf")
    ),
    "ping": Ping(**HERE, nonce=-1),
    "roster of nobody": make_roster(members=()),
    "roster of too many": make_roster(members=(make_join(),) * (MAX_MEMBERS + 1)),
    "roster with too many parts": make_roster(parts=(Part(KEY, 0, 1),) * (MAX_MEMBERS + 1)),
    "roster with a bad join": make_roster(members=(make_join(upload=-1.0),)),
    "cut": Cut(**HERE, roster=b"h" * 32, contributors=MANY, holdings=(), took_s=0.1),
    "cut with too many holdings": Cut(
        **HERE, roster=b"h" * 32, contributors=(KEY,), holdings=(HOLDING,) * (MAX_MEMBERS + 1), took_s=0.1
    ),
    "cut with a bad holding": Cut(
        **HERE, roster=b"h" * 32, contributors=(KEY,), holdings=(HOLDING, BAD_HOLDING), took_s=0.1
    ),
    "holding of too many": BAD_HOLDING,
    "holding roster": msgspec.structs.replace(HOLDING, roster=b"short"),
    "holding voter": msgspec.structs.replace(HOLDING, voter=b"short"),
    "have too many runs": Have(**HERE, runs=(Run(0, 0, 1),) * (MAX_RUNS + 1)),
    "have of no blob": Have(**HERE, runs=(Run(-1, 0, 1),)),
    "have of a blob too many": Have(**HERE, runs=(Run(MAX_MEMBERS, 0, 1),)),
    "have from before the first": Have(**HERE, runs=(Run(0, -1, 3),)),
    "have no piece": Have(**HERE, runs=(Run(0, 5, 0),)),
    "have a negative run": Have(**HERE, runs=(Run(0, 5, -1),)),
    "have pieces too many": Have(**HERE, runs=(Run(0, 1, MAX_PIECES),)),
    "have a run without end": Have(**HERE, runs=(Run(0, 0, 2**62),)),
    "want too many": Want(**HERE, pieces=(Asked(0, 0, True),) * (MAX_ASKED + 1)),
    "want of a blob too many": Want(**HERE, pieces=(Asked(MAX_MEMBERS, 0, True),)),
    "want a piece too many": Want(**HERE, pieces=(Asked(0, MAX_PIECES, True),)),
    "want a negative piece": Want(**HERE, pieces=(Asked(0, -1, True),)),
    "wait for a piece too many": Wait(**HERE, blob=0, piece=MAX_PIECES),
    "wait for a negative blob": Wait(**HERE, blob=-1, piece=0),
    "abort": Abort(**HERE, reason="r", suspects=MANY),
    "abort with a long key": Abort(**HERE, reason="r", suspects=(KEY, KEY + b"x")),
    "abort with an empty key": Abort(**HERE, reason="r", suspects=(b"",)),
    "aggregate": Aggregate(**HERE, roster=b"h" * 32, cut=MANY, hashes=(), claim=CLAIM),
    "aggregate with a short claim": Aggregate(
        **HERE, roster=b"h" * 32, cut=(KEY,), hashes=(), claim=msgspec.structs.replace(CLAIM, root=b"")
    ),
    "proposal of a bad lock": Proposal(**HERE, value=VALUE, weak=False, prepared=BAD_LOCK),
    "roster with a bad lock": make_roster(parts=(), locked=BAD_LOCK),
    "lock with too many votes": Lock(
        **HERE, prepared=msgspec.structs.replace(LOCK, votes=(LOCK.votes[0],) * (MAX_VOTERS + 1))
    ),
    "proposal": Proposal(**HERE, value=BAD_VALUE, weak=False, prepared=None),
    "lock": Lock(**HERE, prepared=BAD_LOCK),
    "committed": Committed(
        **HERE, certificate=msgspec.structs.replace(certify(VALUE, FOUR), value=BAD_VALUE)
    ),
}


def lengthened(item: object) -> Iterator[object]:
    """The same value with one byte more in one of its keys or hashes, each in turn."""
    if isinstance(item, bytes) and len(item) == 32:
        yield item + b"x"
    elif isinstance(item, list):
        for place, inner in enumerate(item):
            yield from ([*item[:place], odd, *item[place + 1 :]] for odd in lengthened(inner))
    elif isinstance(item, dict):
        for name, inner in item.items():
            yield from (item | {name: odd} for odd in lengthened(inner))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_key_and_hash_has_32_bytes(name: str) -> None:
    for odd in lengthened(msgspec.msgpack.decode(encode(EXAMPLES[name]))):
        assert reason_of(msgspec.msgpack.encode(odd)) == "malformed"


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_counts_and_sizes_are_bounded(name: str) -> None:
    assert reason_of(encode(OUT_OF_BOUNDS[name])) == "malformed"


def test_the_longest_message_is_bounded_before_it_is_parsed() -> None:
    data = encode(Abort(**HERE, reason="x" * MAX_CONTROL_BYTES, suspects=()))
    assert reason_of(data) == "oversized"
    assert reason_of(bytes(MAX_CONTROL_BYTES + 1)) == "oversized"


@pytest.mark.parametrize("nested", [b"\x91", b"\x81\xa1x", b"\x81\xa1t"])
def test_deep_nesting(nested: bytes) -> None:
    data = nested * 100_000
    assert reason_of(data[:MAX_CONTROL_BYTES]) == "malformed"


def test_a_string_that_is_no_text() -> None:
    data = encode(Abort(**HERE, reason="x" * 31, suspects=()))
    assert reason_of(data.replace(b"x" * 31, b"\x80" * 31)) == "malformed"
    assert reason_of(data.replace(b"\xa6reason", b"\xa6re\xffson")) == "malformed"


@examples(300)
@given(st.binary(max_size=100), st.sampled_from(sorted(EXAMPLES)), st.integers(0), st.binary(max_size=3))
def test_garbage_and_damage_raise_only_message_errors(
    garbage: bytes, name: str, position: int, damage: bytes
) -> None:
    good = encode(EXAMPLES[name])
    position %= len(good)
    damaged = good[:position] + damage + good[position + len(damage) :]
    for data in (garbage, damaged, good[:position]):
        with suppress(MessageError):
            decode(encode(decode(data)))


SIGNED = [
    name for name, message in EXAMPLES.items() if isinstance(message, Join | Roster | Receipt | Holding | Cut)
]


@pytest.mark.parametrize("name", SIGNED)
def test_signatures_are_over_every_field_and_the_kind(name: str) -> None:
    message = EXAMPLES[name]
    assert isinstance(message, Join | Roster | Receipt | Holding | Cut)
    assert signed_by(message, KEY, toy_verify)
    assert not signed_by(message, FOUR[1].key, toy_verify)
    for change in ({"round": 6}, {"attempt": 3}):
        assert not signed_by(msgspec.structs.replace(message, **change), KEY, toy_verify)
    kinds = {name: m.unsigned().split(b"\0")[0] for name, m in EXAMPLES.items() if hasattr(m, "unsigned")}
    assert len({*kinds.values(), CLAIM.unsigned().split(b"\0")[0]}) == 6


HEADER = BulkHeader("slice", 5, 2, KEY, 7)


def bulk_refused(data: bytes) -> None:
    with pytest.raises(MessageError) as caught:
        decode_bulk_header(data)
    assert caught.value.reason == "malformed"


def test_bulk_headers() -> None:
    assert decode_bulk_header(encode_bulk_header(HEADER)) == HEADER
    for change in (
        {"owner": b"short"},
        {"chunk": -1},
        {"chunk": 2**32},
        {"round": -1},
        {"round": 2**53 + 1},
        {"attempt": -1},
        {"attempt": MAX_ATTEMPT + 1},
        {"kind": "gossip"},
    ):
        bulk_refused(encode_bulk_header(msgspec.structs.replace(HEADER, **change)))
    bulk_refused(b"\x91" * 60_000)
    bulk_refused(encode_bulk_header(HEADER).replace(b"slice", b"\xffl\xffce"))
    bulk_refused(msgspec.msgpack.encode([*msgspec.msgpack.decode(encode_bulk_header(HEADER)), 1]))


@examples(100)
@given(st.binary(max_size=60))
def test_garbage_is_no_bulk_header(data: bytes) -> None:
    bulk_refused(data)
