"""Asking a peer for its own record, over a connection that it made: it keeps one, as a node of the
directory."""

import trio

from talkoot.dht.entries import directory_place
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import key_of_multihash
from talkoot.dht.outside import kademlia, unary
from talkoot.dht.relay import negotiation
from talkoot.dht.relay.link import Link

ASK_S = 3.0
MAX_ANSWER_BYTES = 2**20
"""Longest answer: the directory of a thousand peers."""


async def own_record(link: Link, swarm: bytes) -> bytes | None:
    """What the peer at the other end says of itself in a swarm, not verified; None if nothing. Never
    raises."""
    try:
        key = key_of_multihash(link.peer)
        stream = link.open()
    except (ValueError, RemoteError):
        return None
    try:
        with trio.move_on_after(ASK_S):
            await negotiation.choose(stream, link.peer, kademlia.FIND)
            request = kademlia.find(directory_place(swarm))
            answer = await unary.call(stream, key, kademlia.FIND, request, max_bytes=MAX_ANSWER_BYTES)
            return kademlia.read_find(answer).envelopes.get(key)
    except (ValueError, RemoteError):
        return None
    finally:
        stream.abort()
    return None
