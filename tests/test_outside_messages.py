"""Messages of the node on py-libp2p against hivemind's own, which is here as the reference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht.entries import (
    directory_key,
    directory_place,
    pack_envelope,
    pack_subkey,
    unpack_subkey,
)
from talkoot.dht.identity import Identity, multihash_of
from talkoot.dht.outside import kademlia
from talkoot.dht.outside.search import place_of
from talkoot.dht.outside.wire import MAX_FIELDS, Message, bytes_field, double_field, number_field
from talkoot.dht.substrate import DHTID, DHTProtocol, DictionaryDHTValue, dht_pb2
from talkoot.dht.table import MAX_OWNERS

KEYS = [Identity.from_seed(bytes([number]) * 32).key for number in range(1, 4)]


def test_places_and_subkeys_are_those_of_hivemind() -> None:
    assert directory_place(bytes(32)) == DHTID.generate(source=directory_key(bytes(32))).to_bytes()
    assert place_of(KEYS[0]) == DHTID.generate(source=KEYS[0]).to_bytes()
    assert pack_subkey(KEYS[0]) == DHTProtocol.serializer.dumps(KEYS[0])
    assert unpack_subkey(pack_subkey(KEYS[0])) == KEYS[0]
    assert unpack_subkey(DHTProtocol.serializer.dumps(KEYS[0][:31])) is None


def test_questions_are_what_hivemind_reads() -> None:
    question = dht_pb2.FindRequest.FromString(kademlia.find(bytes(20)))
    assert list(question.keys) == [bytes(20)]
    assert question.peer.node_id == b""  # which asks the node not to remember us
    store = dht_pb2.StoreRequest.FromString(kademlia.store(bytes(20), KEYS[0], b"envelope", 12.5))
    assert (list(store.keys), list(store.subkeys)) == ([bytes(20)], [pack_subkey(KEYS[0])])
    assert (list(store.values), list(store.expiration_time)) == ([pack_envelope(b"envelope")], [12.5])
    assert list(store.in_cache) == [False]
    dht_pb2.PingRequest.FromString(kademlia.ping())


def found(records: dict[bytes, bytes], neighbours: list[bytes]) -> bytes:
    """An answer as hivemind writes it."""
    dictionary = DictionaryDHTValue()
    for owner, envelope in records.items():
        dictionary.store(owner, pack_envelope(envelope), 4e9)
    result = dht_pb2.FindResult(
        type=dht_pb2.FOUND_DICTIONARY,
        value=DHTProtocol.serializer.dumps(dictionary),
        expiration_time=4e9,
        nearest_node_ids=[place_of(key) for key in neighbours],
        nearest_peer_ids=[multihash_of(key) for key in neighbours],
    )
    return bytes(dht_pb2.FindResponse(results=[result]).SerializeToString())


def test_answers_of_hivemind_are_read() -> None:
    records = {key: b"record of " + key for key in KEYS}
    answer = kademlia.read_find(found(records, KEYS))
    assert answer.envelopes == records
    assert [each.key for each in answer.neighbours] == KEYS
    assert [each.place for each in answer.neighbours] == [place_of(key) for key in KEYS]
    nothing = dht_pb2.FindResponse(results=[dht_pb2.FindResult(type=dht_pb2.NOT_FOUND)])
    assert kademlia.read_find(nothing.SerializeToString()) == kademlia.Found({}, ())
    assert kademlia.read_ping(dht_pb2.PingResponse(dht_time=12.5).SerializeToString()) == 12.5
    for kept in ([True], [False], []):
        assert kademlia.read_store(dht_pb2.StoreResponse(store_ok=kept).SerializeToString()) == any(kept)


def test_a_node_names_no_more_neighbours_than_a_bucket_holds() -> None:
    many = [number.to_bytes(32, "big") for number in range(1000)]
    assert len(kademlia.read_find(found({}, many)).neighbours) == kademlia.MAX_NEIGHBOURS


@pytest.mark.parametrize(
    "answer",
    [
        b"",  # no result
        bytes_field(2, b"") * 2,  # two for one question
        b"\xff" * 30,
        bytes_field(2, number_field(1, 2) + bytes_field(2, b"\x91" * 3000)),
        bytes_field(2, number_field(1, 2) + bytes_field(2, b"\xc7\0\1")),  # another extension
        bytes_field(2, number_field(1, 2) + bytes_field(2, b"")),
        found(dict.fromkeys((number.to_bytes(32, "big") for number in range(MAX_OWNERS + 1)), b"x"), []),
        number_field(1, 0) * (MAX_FIELDS + 1),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any word will do
        kademlia.read_find(answer)


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_clock_is_a_number(time: float) -> None:
    with pytest.raises(ValueError, match="clock"):
        kademlia.read_ping(double_field(4, time))


@given(st.lists(st.tuples(st.integers(1, 2**20), st.one_of(st.binary(max_size=50), st.integers(0, 2**63)))))
def test_messages_are_taken_to_pieces_as_they_were_put_together(
    fields: list[tuple[int, int | bytes]],
) -> None:
    data = b"".join(
        bytes_field(number, value) if isinstance(value, bytes) else number_field(number, value)
        for number, value in fields
    )
    message = Message(data)
    for number, _ in fields:
        values = [value for other, value in fields if other == number]
        assert message.all_bytes(number) == [value for value in values if isinstance(value, bytes)]
        numbers = [value for value in values if isinstance(value, int)]
        assert message.number(number) == (numbers[-1] if numbers else 0)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        message = Message(data)
    except ValueError:
        return
    assert message.double(1) is not None
