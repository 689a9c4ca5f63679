"""A short visit to a swarm under a throw-away identity: who is there, its manifest, what they see of us."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from talkoot.dht.config import NetworkConfig
from talkoot.dht.errors import ConfigError, RemoteError
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity, key_of_peer_id
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.records import PeerRecord
from talkoot.peer.manifest import Manifest
from talkoot.peer.probing.examine import Sighting, examine, own_ports
from talkoot.peer.transfer import Busy, Gone, StateClient

log = logging.getLogger("talkoot.doctor")

START_S = 10.0
"""Longest wait for p2pd and the first meeting."""

LOOK_S = 22.0
"""Longest time for all questions to peers."""

MANIFEST_S = 5.0
"""Longest wait for the manifest of one peer."""


@dataclass(slots=True)
class Seen:
    """What a visit brought."""

    records: dict[bytes, PeerRecord] = field(default_factory=dict)
    manifest: Manifest | None = None
    sightings: list[Sighting] = field(default_factory=list)
    problem: str = ""
    """Why there could be no visit, or none to its end."""


async def visit(config: NetworkConfig, swarm: bytes, seen: Seen) -> None:
    """Look around; ends in time, whatever peers do, with what was found by then in `seen`."""
    try:
        async with _on_the_network(config, swarm) as network:
            async with asyncio.timeout(LOOK_S):
                await _look_around(network, config.bootstrap, swarm, seen)
    except* TimeoutError:
        seen.problem = f"not everybody answered in {LOOK_S:.0f} s"
    except* ConfigError as errors:
        seen.problem = str(errors.exceptions[0])


async def _look_around(network: P2PNetwork, bootstrap: Sequence[str], swarm: bytes, seen: Seen) -> None:
    until_s = asyncio.get_running_loop().time() + LOOK_S - 1.0
    seen.records = await network.directory.peers()
    peers = _order(bootstrap, seen.records, network.key)
    seen.manifest = await _manifest(network, swarm, peers)
    seen.sightings = await examine(network, peers, own_ports(network), until_s=until_s)


@asynccontextmanager
async def _on_the_network(config: NetworkConfig, swarm: bytes) -> AsyncIterator[P2PNetwork]:
    """A node that keeps nothing and announces nothing."""
    network = P2PNetwork(Identity.generate(), config, swarm=swarm)
    started = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(network.run(started=started.set))
        try:
            for address in config.bootstrap:
                peer = parse_address(address).peer
                assert peer is not None
                await network.add_addresses(peer, [address])
            async with asyncio.timeout(START_S):
                await started.wait()
            yield network
        finally:
            task.cancel()


def _order(bootstrap: Iterable[str], records: dict[bytes, PeerRecord], own: bytes) -> list[bytes]:
    """Whom to ask: those of the invite, then the others of the swarm."""
    told = [key_of_peer_id(address.rpartition("/p2p/")[2]) for address in bootstrap]
    listed = [key for key, record in records.items() if record.role != "relay" and key != own]
    return list(dict.fromkeys((*told, *listed)))


async def _manifest(network: P2PNetwork, swarm: bytes, peers: Sequence[bytes]) -> Manifest | None:
    """The swarm's, verified by its id, from the first that gives it."""
    for peer in peers:
        try:
            async with asyncio.timeout(MANIFEST_S):
                client = await StateClient.connect(network, peer, swarm)
                try:
                    return await client.manifest(swarm)
                finally:
                    await client.close()
        except (RemoteError, TimeoutError, Gone, Busy) as error:
            log.info("no manifest from a peer: %s", error)
    return None
