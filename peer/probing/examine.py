"""What several peers see of this node's connection. Every look ends in time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec

from talkoot.dht.dialback import Outcome
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.network import Network
from talkoot.dht.paths import Path
from talkoot.peer.probing.client import Probe, probing

MAX_PEERS = 5
"""Peers that are asked: two opinions are needed, and some may be gone."""

MAX_TIMED = 2
"""Peers with which bytes are timed: 16 MiB in all."""

PATIENCE_S = 6.0
"""How long a peer that exchanges a round is asked again."""

PAUSE_S = 0.5


class Sighting(msgspec.Struct, kw_only=True):
    """What one peer says; None where it was not asked, or did not say."""

    peer_id: str
    why: str = ""
    """Why it could not be asked at all; empty if it was."""
    address: str = ""
    """Where it sees this node, /ip4/.../tcp/...; empty: it does not know."""
    path: Path = "unknown"
    clock_offset_s: float | None = None
    """How far its clock is ahead of ours."""
    round_trip_s: float | None = None
    version: str = ""
    protocol: int | None = None
    dialled: dict[int, Outcome] = {}
    """By TCP port, what came of dialling this node there."""
    upload: float | None = None
    """Bytes a second from this node to it."""
    download: float | None = None

    @property
    def answered(self) -> bool:
        """Whether it could be asked."""
        return not self.why


async def examine(
    network: Network, peers: Sequence[bytes], ports: Sequence[int], *, until_s: float
) -> list[Sighting]:
    """Ask the first of `peers`, all at once, and time bytes with two of them, one after the other; over when
    the loop's clock shows `until_s`. `ports`: where this node may be dialled."""
    asked = {peer: Sighting(peer_id=peer_id_of(peer)) for peer in peers[:MAX_PEERS]}
    async with asyncio.TaskGroup() as group:
        for peer, sighting in asked.items():
            group.create_task(_look(network, peer, ports, sighting, until_s))
    timed = 0
    for peer, sighting in asked.items():
        if sighting.answered and timed < MAX_TIMED:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until_s):
                    await _time(network, peer, sighting)
            timed += sighting.upload is not None
    return list(asked.values())


def path_of(network: Network, peer: bytes, seen_at: str) -> Path:
    """The way to a peer that has just answered; `seen_at`: where it sees us, empty behind a relay."""
    known = network.paths.of(peer)
    return known if known not in ("unknown", "unreachable") else "direct" if seen_at else "relayed"


def own_ports(network: Network) -> list[int]:
    """Where this node may be dialled: the ports of its own addresses."""
    own = [parse_address(text) for text in network.addresses]
    return list(dict.fromkeys(address.port for address in own if address.relay is None))


async def _look(
    network: Network, peer: bytes, ports: Sequence[int], sighting: Sighting, until_s: float
) -> None:
    """All but the transfers. Never raises for what the peer does."""
    try:
        async with asyncio.timeout_at(until_s), probing(network, peer) as probe:
            await _hear(network, peer, probe, sighting)
            if sighting.address:
                await _be_dialled(probe, ports, sighting)
    except (RemoteError, TimeoutError) as error:
        if sighting.round_trip_s is None:
            sighting.why = error.reason if isinstance(error, RemoteError) else "timeout"


async def _hear(network: Network, peer: bytes, probe: Probe, sighting: Sighting) -> None:
    greeting = await probe.hello()
    sighting.address = greeting.address
    sighting.clock_offset_s = greeting.clock_offset_s
    sighting.version, sighting.protocol = greeting.version, greeting.protocol
    sighting.round_trip_s = min(greeting.round_trip_s, await probe.echo())
    sighting.path = path_of(network, peer, greeting.address)


async def _be_dialled(probe: Probe, ports: Sequence[int], sighting: Sighting) -> None:
    """At the ports where we listen, then at the one that the router gave to this connection."""
    sighting.dialled = {}
    for port in dict.fromkeys((*ports, parse_address(sighting.address).port)):
        try:
            sighting.dialled[port] = await probe.dial_back(port)
        except RemoteError as error:
            if error.reason != "busy":
                raise
            sighting.dialled[port] = "unknown"
        if sighting.dialled[port] == "reached":
            return


async def _time(network: Network, peer: bytes, sighting: Sighting) -> None:
    sighting.upload = await _patiently(network, peer, Probe.upload)
    sighting.download = await _patiently(network, peer, Probe.download)


async def _patiently(network: Network, peer: bytes, ask: Callable[[Probe], Awaitable[float]]) -> float | None:
    """Ask again while a round comes first; None if it always does, or the line is too slow to tell."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            async with probing(network, peer) as probe:
                return await ask(probe)
        except RemoteError as error:
            if error.reason not in ("exchanging", "busy") or time.monotonic() > give_up:
                return None
        except TimeoutError:
            return None
        await asyncio.sleep(PAUSE_S)
