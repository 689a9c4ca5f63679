"""The network in memory: many nodes in one event loop, with latency, bandwidth, loss, partition, crash.

Seeded, and on the loop's clock alone, so that a loop with a virtual clock makes it deterministic and
fast. It passes the conformance tests of the real network.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from talkoot.dht import records
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.limits import ChannelLimits
from talkoot.dht.memory_channel import MemoryChannel
from talkoot.dht.multiaddr import addresses_of
from talkoot.dht.network import Channel, Directory, Events, Handler, Network, ProtocolSpec, Traffic
from talkoot.dht.records import PeerRecord
from talkoot.dht.serving import Service, Services, serve_channel
from talkoot.dht.table import RecordTable

_EPOCH = 1_800_000_000.0
# Wall clock of the hub when the loop's clock shows zero.


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """How a node is connected."""

    latency_s: float = 0.001
    """From this node to the middle of the network; a frame takes the sum of both ends' latencies."""
    upload: float = float("inf")
    """Bytes a second that the node can send."""
    download: float = float("inf")
    """Bytes a second that the node can receive."""
    loss: float = 0.0
    """Probability that sending a frame cuts its channel."""


class MemoryHub:
    """Where the nodes of a test or simulation meet."""

    def __init__(self, *, seed: int = 0, max_channels: int = 512) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a simulation is to be repeatable
        self._max_channels = max_channels
        self._nodes: dict[bytes, MemoryNetwork] = {}
        self._side: dict[bytes, int] = {}  # number of the partition; unlisted nodes are in partition 0
        self._held: set[tuple[bytes, bytes]] = set()
        self._channels: set[MemoryChannel] = set()

    def node(self, identity: Identity, *, swarm: bytes, link: Link | None = None) -> "MemoryNetwork":
        """A node that is reachable while it runs; it replaces one of the same identity."""
        return MemoryNetwork(self, identity, swarm, link or Link(), ChannelLimits(self._max_channels))

    def now(self) -> float:
        """Wall-clock time of all nodes."""
        return _EPOCH + asyncio.get_running_loop().time()

    def partition(self, *groups: Iterable[bytes]) -> None:
        """Separate groups of keys from each other and from all others; channels between them are cut."""
        self._side = {key: number for number, group in enumerate(groups, 1) for key in group}
        self._cut(lambda one, other: not self.reachable(one, other))

    def heal(self) -> None:
        """End the partition; what was cut stays cut."""
        self._side = {}

    def cut(self, one: bytes, other: bytes) -> None:
        """Cut all channels between two nodes; they may dial each other again."""
        self._cut(lambda left, right: {left, right} == {one, other})

    def hold(self, sender: bytes, receiver: bytes) -> None:
        """A one-way black hole: what is sent this way does not arrive until `release`; nobody is told."""
        self._held.add((sender, receiver))

    def freeze(self, key: bytes) -> None:
        """A node that neither hears nor is heard, as if it were stopped; nobody is told."""
        for other in self._nodes:
            if other != key:
                self._held |= {(key, other), (other, key)}

    def release(self) -> None:
        """End all holds: what was held arrives now."""
        self._held.clear()
        for channel in sorted(self._channels, key=lambda channel: channel.number):
            channel.wake()

    def held(self, sender: bytes, receiver: bytes) -> bool:
        """Whether nothing arrives this way at present."""
        return (sender, receiver) in self._held

    def crash(self, key: bytes) -> None:
        """A node is gone without a word: its channels are cut and nobody reaches it any more."""
        self._nodes.pop(key, None)
        self._cut(lambda one, other: key in (one, other))

    def reachable(self, one: bytes, other: bytes) -> bool:
        """Whether a frame could travel between two running nodes."""
        same_side = self._side.get(one, 0) == self._side.get(other, 0)
        return one in self._nodes and other in self._nodes and same_side

    def find(self, key: bytes, *, seen_from: bytes) -> "MemoryNetwork | None":
        """A running node, if it can be reached."""
        return self._nodes.get(key) if self.reachable(seen_from, key) else None

    def others(self, key: bytes) -> list["MemoryNetwork"]:
        """All nodes that can be reached from one."""
        return [node for other, node in self._nodes.items() if other != key and self.reachable(key, other)]

    def enter(self, node: "MemoryNetwork") -> None:
        """A node begins to run."""
        self._nodes[node.key] = node

    def leave(self, node: "MemoryNetwork") -> None:
        """A node ends."""
        if self._nodes.get(node.key) is node:
            self.crash(node.key)

    def add_channel(self, channel: MemoryChannel) -> None:
        """Remember one end of a channel, to be able to cut it."""
        self._channels.add(channel)

    def _cut(self, chosen: Callable[[bytes, bytes], bool]) -> None:
        self._channels = {channel for channel in self._channels if not channel.is_over}
        for channel in sorted(self._channels, key=lambda channel: channel.number):
            if chosen(channel.owner, channel.peer):
                channel.cut()


class MemoryDirectory(Directory):
    """The directory of one node: what it can reach of the others' tables."""

    def __init__(self, network: "MemoryNetwork", identity: Identity, swarm: bytes) -> None:
        self.table = RecordTable(swarm, network.events.rejected)
        self._network = network
        self._identity = identity
        self._last_times = (0.0, 0.0)

    async def publish(self, record: PeerRecord, *, ttl_s: float) -> None:
        if record.swarm != self.table.swarm:
            raise ValueError("a record of another swarm")
        now = self._network.hub.now()
        issued, expires = records.next_times(now, ttl_s, self._last_times)
        envelope = records.seal(self._identity, record, issued=issued, expires=expires)
        self._last_times = (issued, expires)
        self.table.accept(self._identity.key, envelope, now, local=True)
        await asyncio.sleep(self._network.link.latency_s)

    async def peers(self) -> dict[bytes, PeerRecord]:
        await asyncio.sleep(2 * self._network.link.latency_s)
        now = self._network.hub.now()
        for node in self._network.hub.others(self._identity.key):
            for owner, entry in node.directory.table.entries(now):
                self.table.accept(owner, entry.envelope, now, local=True)
        return self.table.peers(now)


class MemoryNetwork(Network):
    """One node of a hub."""

    directory: MemoryDirectory

    def __init__(
        self, hub: MemoryHub, identity: Identity, swarm: bytes, link: Link, limits: ChannelLimits
    ) -> None:
        self.key = identity.key
        self.addresses: tuple[str, ...] = ()
        self.traffic = Traffic()
        self.events = Events()
        self.hub = hub
        self.link = link
        self.upload_free_at = 0.0  # loop time at which the link has sent all that it was given
        self.download_free_at = 0.0
        self.directory = MemoryDirectory(self, identity, swarm)
        self._identity = identity
        self._services = Services()
        self._limits = limits
        self._tasks: asyncio.TaskGroup | None = None

    def serve(self, spec: ProtocolSpec, handler: Handler) -> None:
        if self._tasks is not None:
            raise RuntimeError("serve is called before run")
        self._services.add(spec, handler)

    async def run(self, *, started: Callable[[], None]) -> None:
        self.addresses = (f"/ip4/127.0.0.1/tcp/1/p2p/{self._identity.peer_id}",)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self.hub.enter(self)
                started()
                await asyncio.Event().wait()
        finally:
            self.hub.leave(self)

    async def dial(self, peer: bytes, protocol: ProtocolSpec, *, timeout_s: float) -> Channel:
        if peer == self.key:
            raise ValueError("a node does not dial itself")
        self.events.dials += 1
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(2 * self.link.latency_s)
                if self.hub.held(self.key, peer) or self.hub.held(peer, self.key):
                    await asyncio.Event().wait()  # nobody answers
                return self._open(peer, protocol)
        except TimeoutError:
            self.events.dial_failures["timeout"] += 1
            raise
        except RemoteError as error:
            self.events.dial_failures[error.reason] += 1
            raise

    async def add_addresses(self, peer: bytes, addresses: Sequence[str]) -> None:
        refused = addresses_of(peer, addresses)[1]
        if refused:
            self.events.rejected["malformed"] += refused

    def _open(self, peer: bytes, protocol: ProtocolSpec) -> Channel:
        other = self.hub.find(peer, seen_from=self.key)
        if other is None:
            raise RemoteError(peer, "unreachable", "no such node")
        service = other._services.get(protocol.name)
        if service is None:
            raise RemoteError(peer, "unsupported", protocol.name)
        ours = MemoryChannel(self, peer, protocol)
        theirs = MemoryChannel(other, self.key, service.spec)
        ours.join(theirs)
        self.hub.add_channel(ours)
        self.hub.add_channel(theirs)
        other._accept(theirs, service)
        return ours

    def _accept(self, channel: MemoryChannel, service: Service) -> None:
        if not self._limits.enter(channel.peer, service.spec):
            self.events.rejected["busy"] += 1
            channel.end("busy")
            return
        assert self._tasks is not None
        self._tasks.create_task(self._serve(channel, service), name="channel")

    async def _serve(self, channel: MemoryChannel, service: Service) -> None:
        try:
            await serve_channel(channel, service.handler, self.events)
        finally:
            self._limits.leave(channel.peer, service.spec)
