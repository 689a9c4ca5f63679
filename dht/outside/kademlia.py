"""Messages of hivemind's DHT (its dht.proto) and of libp2p's own, which knows where a PeerID is. Pure.

`DHTProtocol.rpc_ping`, `rpc_find` and `rpc_store` are unary calls; our node says nothing of itself in them,
so nobody takes it into a routing table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from talkoot.dht.entries import PLACE_BYTES, pack_envelope, pack_subkey, unpack_envelope
from talkoot.dht.identity import KEY_BYTES, key_of_multihash, multihash_of
from talkoot.dht.multiaddr import decode_address, varint
from talkoot.dht.outside.wire import Message, bytes_field, double_field, number_field
from talkoot.dht.table import MAX_OWNERS

PING, FIND, STORE = "DHTProtocol.rpc_ping", "DHTProtocol.rpc_find", "DHTProtocol.rpc_store"
"""Names of the calls, which are their protocol ids."""
WHERE = "/ipfs/kad/1.0.0"
"""libp2p's DHT, which every p2pd serves."""

MAX_NEIGHBOURS = 20
"""Most neighbours that one node may name: as many as a bucket holds."""
MAX_PLACES = 20
"""Most peers in one answer of libp2p's DHT."""
MAX_PEER_ADDRESSES = 16
"""Most addresses of one peer in it that are looked at."""

_DICTIONARY = 2  # FindResult.type
_DICTIONARY_CODE = 0x50  # hivemind's extension type of msgpack
_FIND_NODE = 4  # Message.MessageType

_Items = Annotated[list[tuple[bytes, bytes, float]], Meta(max_length=MAX_OWNERS)]
_dictionary: msgspec.msgpack.Decoder[tuple[float | None, float, list[tuple[bytes, bytes, float]]]] = (
    msgspec.msgpack.Decoder(tuple[float | None, float, _Items])
)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A node that another one named: its place in key space, and its key."""

    place: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """An answer to FIND: records by owner, not verified, and nodes nearer to the place that was asked for."""

    envelopes: dict[bytes, bytes]
    neighbours: tuple[Neighbour, ...]


def ping() -> bytes:
    """A question for the time of a node."""
    return b""


def read_ping(data: bytes) -> float:
    """The clock of the node that answered, Unix seconds. Raises ValueError."""
    time = Message(data).double(4)
    if not (math.isfinite(time) and time > 0):
        raise ValueError("a clock that is no number")
    return time


def find(place: bytes) -> bytes:
    """A question for what is kept at a place, and for nodes near it."""
    return bytes_field(2, place)


def read_find(data: bytes) -> Found:
    """Raises ValueError for an answer to another question, or one that is ill-formed."""
    results = Message(data).all_bytes(2)
    if len(results) != 1:
        raise ValueError(f"{len(results)} results for one question")
    result = Message(results[0])
    envelopes = read_dictionary(result.bytes(2)) if result.number(1) == _DICTIONARY else {}
    return Found(envelopes, _neighbours(result.all_bytes(4), result.all_bytes(5)))


def read_dictionary(data: bytes) -> dict[bytes, bytes]:
    """Envelopes by owner in a dictionary of hivemind's DHT; other entries are left out. Raises ValueError."""
    outer = msgspec.msgpack.decode(data, type=msgspec.msgpack.Ext)
    if outer.code != _DICTIONARY_CODE:
        raise ValueError("no dictionary of the DHT")
    try:
        _, _, items = _dictionary.decode(outer.data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    found: dict[bytes, bytes] = {}
    for owner, value, _ in items:
        envelope = unpack_envelope(value)
        if len(owner) == KEY_BYTES and envelope is not None:
            found[owner] = envelope
    return found


def store(place: bytes, owner: bytes, envelope: bytes, expires: float) -> bytes:
    """The wish that a node keeps a record."""
    fields = (
        bytes_field(2, place),
        bytes_field(3, pack_subkey(owner)),
        bytes_field(4, pack_envelope(envelope)),
        double_field(5, expires),
        number_field(6, 0),
    )
    return b"".join(fields)


def read_store(data: bytes) -> bool:
    """Whether the node kept it. Raises ValueError."""
    return any(Message(data).numbers(2))


def where(key: bytes) -> bytes:
    """A question of libp2p's DHT, with its length before it: where are peers near this PeerID?"""
    message = number_field(1, _FIND_NODE) + bytes_field(2, multihash_of(key))
    return varint(len(message)) + message


def read_where(data: bytes) -> dict[bytes, list[str]]:
    """Addresses by peer; those that we cannot dial are left out. Raises ValueError."""
    found: dict[bytes, list[str]] = {}
    for each in Message(data).all_bytes(8)[:MAX_PLACES]:
        peer = Message(each)
        try:
            key = key_of_multihash(peer.bytes(1))
        except ValueError:
            continue  # an RSA key, which no peer of a swarm has
        found[key] = _addresses(peer.all_bytes(2)[:MAX_PEER_ADDRESSES])
    return found


def _addresses(packed: Sequence[bytes]) -> list[str]:
    texts = []
    for data in packed:
        try:
            texts.append(decode_address(data))
        except ValueError:
            continue
    return texts


def _neighbours(places: Sequence[bytes], names: Sequence[bytes]) -> tuple[Neighbour, ...]:
    found = []
    for place, name in list(zip(places, names, strict=False))[:MAX_NEIGHBOURS]:
        try:
            key = key_of_multihash(name)
        except ValueError:
            continue
        if len(place) == PLACE_BYTES:
            found.append(Neighbour(place, key))
    return tuple(found)
