"""A node of the directory that answers what it should not: real p2pd and hivemind with other answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dht_rig import SWARM, Node, record_of

from talkoot.dht import records
from talkoot.dht.entries import pack_envelope
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity
from talkoot.dht.outside.kademlia import FIND
from talkoot.dht.substrate import DHTProtocol, DictionaryDHTValue, dht_pb2

Answer = Callable[[bytes, Any], Awaitable[bytes]]


def answer_find(node: Node, answer: Answer) -> None:
    """From now on it answers so when it is asked for records."""
    assert isinstance(node.network, P2PNetwork)
    inner = node.network._directory._node
    assert inner is not None
    handlers = inner.protocol.p2p._client.control.unary_handlers
    handlers[FIND] = answer


def constant(data: bytes) -> Answer:
    """Always the same bytes."""

    async def answer(_request: bytes, _remote: Any) -> bytes:
        return data

    return answer


async def never(_request: bytes, _remote: Any) -> bytes:
    """No answer, ever."""
    await asyncio.Event().wait()
    raise AssertionError


def dictionary(entries: dict[bytes, bytes]) -> bytes:
    """An answer with these envelopes by owner, as hivemind writes it."""
    found = DictionaryDHTValue()
    for owner, envelope in entries.items():
        found.store(owner, pack_envelope(envelope), time.time() + 60)
    result = dht_pb2.FindResult(
        type=dht_pb2.FOUND_DICTIONARY, value=DHTProtocol.serializer.dumps(found), expiration_time=4e9
    )
    return bytes(dht_pb2.FindResponse(results=[result]).SerializeToString())


def sealed(
    node: Node, number: int, age_s: float = 0.0, ttl_s: float = 300.0, **changes: Any
) -> tuple[bytes, bytes]:
    """Owner and envelope of a peer that does not exist, with a good signature."""
    identity = Identity.from_seed(b"made up" + number.to_bytes(25, "big"))
    record = record_of(node.network, **({"swarm": SWARM, "key": identity.key} | changes))
    issued = time.time() - age_s
    return identity.key, records.seal(identity, record, issued=issued, expires=issued + ttl_s)
