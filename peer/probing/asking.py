"""What a running daemon finds out about its own connection when its user asks."""

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import key_of_peer_id
from talkoot.peer import clock
from talkoot.peer.probing.client import probing
from talkoot.peer.probing.examine import examine, own_ports, path_of

if TYPE_CHECKING:
    from talkoot.peer.node import Node

EXAMINE_S = 25.0
"""Longest time for asking all that are asked."""


async def sightings(node: "Node") -> list[dict[str, Any]]:
    """What several peers of the swarm see of this node. Raises ValueError while it knows nobody."""
    others = node.swarming.view.others if node.swarming is not None else {}
    known = [key for key, seen in others.items() if seen.record.role != "relay"]
    if not known:
        raise ValueError("this peer knows nobody to ask yet")
    connected = node.links.connected
    peers = sorted(known, key=lambda key: key not in connected)
    ports = own_ports(node.network)
    until_s = asyncio.get_running_loop().time() + EXAMINE_S
    found = await examine(node.network, peers, ports, until_s=until_s)
    return [msgspec.to_builtins(sighting, str_keys=True) for sighting in found]


async def ping(node: "Node", peer_id: str) -> dict[str, Any]:
    """One round trip to a peer, and by which path. Raises ValueError for what is no other peer's id."""
    key = key_of_peer_id(peer_id)
    if key == node.identity.key:
        raise ValueError("this is the peer itself")
    began = clock.now()
    answer: dict[str, Any] = {"peer_id": peer_id, "path": "unreachable", "dial_s": None}
    answer |= {"round_trip_s": None, "reason": None}
    try:
        async with probing(node.network, key) as probe:
            answer["dial_s"] = clock.now() - began
            answer["path"] = path_of(node.network, key, (await probe.hello()).address)
            answer["round_trip_s"] = await probe.echo()
    except (RemoteError, TimeoutError) as error:
        answer["reason"] = error.reason if isinstance(error, RemoteError) else "timeout"
    return answer
