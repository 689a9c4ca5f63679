"""The network in memory: many nodes in one event loop, with latency, bandwidth, loss, partition, crash.

Seeded, and on the loop's clock alone, so that a loop with a virtual clock makes it deterministic and
fast. It passes the conformance tests of the real network.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from typing import Protocol

from talkoot.dht import records
from talkoot.dht.channel_limits import ChannelLimits, Visitor
from talkoot.dht.company import Company
from talkoot.dht.errors import RemoteError
from talkoot.dht.hop import Reservation
from talkoot.dht.identity import Identity
from talkoot.dht.memory_channel import MemoryChannel
from talkoot.dht.multiaddr import Address, addresses_of
from talkoot.dht.network import Channel, Directory, Events, Handler, Network, ProtocolSpec, Traffic
from talkoot.dht.pacing import Pacing
from talkoot.dht.paths import Paths
from talkoot.dht.records import PeerRecord
from talkoot.dht.relays import Fault, Relays, by_relay
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
    jitter_s: float = 0.0
    """Longest delay that is added to a frame at random."""
    dialled: bool = True
    """Whether others can dial this node: one that they cannot dials out, and is reached through relays."""
    loss: float = 0.0
    """Probability that a frame is lost on its way and sent again after `RESEND_S`, doubled each time."""
    breaks: float = 0.0
    """Probability that sending a frame cuts its channel."""
    duplicates: float = 0.0
    """Probability that a message comes twice, of protocols in `Link.scrambled`."""
    reorders: float = 0.0
    """Probability that a message comes late, and those after it do not wait, in the same protocols."""
    scrambled: str = "/control/"
    """Part of the names of protocols whose messages may come twice and out of order. A stream does neither;
    what is said over it must stand both all the same."""


class Clock(Protocol):
    """The time in which frames travel: the running loop's, unless nodes have clocks of their own."""

    def time(self) -> float:
        """Seconds."""

    def call_at(self, due: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Call back when `time` is `due`."""


class LoopClock:
    """The running loop as a `Clock`."""

    def time(self) -> float:
        """Seconds on the loop's clock."""
        return asyncio.get_running_loop().time()

    def call_at(self, due: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """As the loop's."""
        return asyncio.get_running_loop().call_at(due, callback)


class MemoryRelay:
    """A relay of a hub."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.fault: Fault | None = None
        """Why it gives no reservation, if it gives none."""
        self.delay_s = 0.001
        """From a node to it."""
        self.port = 1 + key[0]

    @property
    def address(self) -> str:
        """Where it is, with /p2p/ and its peer id."""
        return str(Address("ip4", "127.0.0.1", self.port, peer=self.key))


class MemoryHub:
    """Where the nodes of a test or simulation meet."""

    def __init__(self, *, seed: int = 0, max_channels: int = 512, clock: Clock | None = None) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a simulation is to be repeatable
        self.clock: Clock = clock or LoopClock()
        self.on_sent: Callable[[bytes, str, bytes], None] = lambda _sender, _protocol, _header: None
        """Told of every frame that is sent: sender, protocol, header."""
        self.on_banned: Callable[[bytes, frozenset[bytes]], None] = lambda _node, _peers: None
        """Told whom a node refuses from now on, or disconnects for what it did."""
        self._max_channels = max_channels
        self._nodes: dict[bytes, MemoryNetwork] = {}
        self.relays: dict[bytes, MemoryRelay] = {}
        self._side: dict[bytes, int] = {}  # number of the partition; unlisted nodes are in partition 0
        self._held: Counter[tuple[bytes, bytes]] = Counter()
        self._let_go = asyncio.Event()  # set when a hold ends, and replaced
        self._channels: set[MemoryChannel] = set()

    def node(
        self,
        identity: Identity,
        *,
        swarm: bytes,
        link: Link | None = None,
        relays: Sequence[str] | None = None,
    ) -> "MemoryNetwork":
        """A node that is reachable while it runs; it replaces one of the same identity. `relays`: where it
        may ask for reservations; None: it uses no relays."""
        node = MemoryNetwork(self, identity, swarm, link or Link(), ChannelLimits(self._max_channels))
        if relays is not None:
            node.relays.wanted = True
            node.relays.name("operator", by_relay(relays))
        return node

    def relay(self, key: bytes) -> MemoryRelay:
        """A relay that runs until `crash`."""
        relay = self.relays[key] = MemoryRelay(key)
        return relay

    def now(self) -> float:
        """Wall-clock time."""
        return _EPOCH + self.clock.time()

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

    def hold(self, *ways: tuple[bytes, bytes]) -> None:
        """One-way black holes: what is sent this way, (sender, receiver), does not arrive until `release`.

        Nobody is told. Holds of one way add up.
        """
        self._held.update(ways)

    def freeze(self, key: bytes) -> None:
        """A node that neither hears nor is heard, as if it were stopped; nobody is told."""
        self.hold(*self.ways_of(key))

    def ways_of(self, key: bytes) -> list[tuple[bytes, bytes]]:
        """All ways from and to a node."""
        others = [other for other in self._nodes if other != key]
        return [way for other in others for way in ((key, other), (other, key))]

    def release(self, *ways: tuple[bytes, bytes]) -> None:
        """End one hold of each of these ways, or without any all holds: what was held arrives now."""
        if ways:
            self._held -= Counter(ways)
        else:
            self._held.clear()
        for channel in sorted(self._channels, key=lambda channel: channel.number):
            channel.wake()
        self._let_go.set()
        self._let_go = asyncio.Event()

    def held(self, sender: bytes, receiver: bytes) -> bool:
        """Whether nothing arrives this way at present."""
        return bool(self._held) and (sender, receiver) in self._held

    def silent(self, one: bytes, other: bytes) -> bool:
        """Whether two nodes cannot talk at present, because nothing arrives one way or the other."""
        return bool(self._held) and ((one, other) in self._held or (other, one) in self._held)

    async def until_heard(self, one: bytes, other: bytes) -> None:
        """Until two nodes can talk."""
        while self.silent(one, other):
            await self._let_go.wait()

    def crash(self, key: bytes) -> None:
        """A node is gone without a word: its channels are cut and nobody reaches it any more."""
        self._nodes.pop(key, None)
        if self.relays.pop(key, None) is not None:
            self._cut_through(key)
        self._cut(lambda one, other: key in (one, other))

    def reachable(self, one: bytes, other: bytes) -> bool:
        """Whether a frame could travel between two running nodes."""
        same_side = self._side.get(one, 0) == self._side.get(other, 0)
        return one in self._nodes and other in self._nodes and same_side

    def find(self, key: bytes, *, seen_from: bytes) -> "MemoryNetwork | None":
        """A running node, if it can be reached."""
        return self._nodes.get(key) if self.reachable(seen_from, key) else None

    def others(self, key: bytes) -> list["MemoryNetwork"]:
        """All nodes that one can talk with."""
        return [
            node
            for other, node in self._nodes.items()
            if other != key and self.reachable(key, other) and not self.silent(key, other)
        ]

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

    def _cut_through(self, relay: bytes) -> None:
        for channel in sorted(self._channels, key=lambda channel: channel.number):
            if channel.relay == relay and not channel.is_over:
                channel.cut()
                channel.network.paths.gone(channel.peer)
        for node in self._nodes.values():
            node.lost_relay(relay)

    def _cut(self, chosen: Callable[[bytes, bytes], bool]) -> None:
        self._channels = {channel for channel in self._channels if not channel.is_over}
        for channel in sorted(self._channels, key=lambda channel: channel.number):
            if chosen(channel.owner, channel.peer):
                channel.cut()
                channel.network.paths.gone(channel.peer)


class MemoryDirectory(Directory):
    """The directory of one node: what it can reach of the others' tables."""

    def __init__(self, network: "MemoryNetwork", identity: Identity, swarm: bytes) -> None:
        self.table = RecordTable(swarm, network.events)
        self._network = network
        self._identity = identity
        self._last_times = (0.0, 0.0)

    async def publish(self, record: PeerRecord, *, ttl_s: float) -> None:
        if record.swarm != self.table.swarm:
            raise ValueError("a record of another swarm")
        now = self._network.wall_time()
        issued, expires = records.next_times(now, ttl_s, self._last_times)
        envelope = records.seal(self._identity, record, issued=issued, expires=expires)
        self._last_times = (issued, expires)
        self.table.accept(self._identity.key, envelope, now, local=True)
        await asyncio.sleep(self._network.link.latency_s)

    async def peers(self) -> dict[bytes, PeerRecord]:
        await asyncio.sleep(2 * self._network.link.latency_s)
        now = self._network.wall_time()
        there = self._network.hub.others(self._identity.key)
        for node in there:
            self._take(node.directory.table, node.key, now)
        direct = {node.key for node in there} | {self._identity.key}
        for node in there:
            for owner in node.directory.table.owners:
                if owner not in direct:
                    self._take(node.directory.table, owner, now)
        banned = self._network.company.banned
        self._network.relays.note(
            record for key, record in self.table.peers(now).items() if key not in banned
        )
        return {key: record for key, record in self.table.peers(now).items() if key not in banned}

    def _take(self, table: RecordTable, owner: bytes, now: float) -> None:
        """What another node's table says of an owner, if it is news."""
        envelope, known = table.envelope_of(owner), self.table.envelope_of(owner)
        if envelope is not None and (known is None or records.newer(envelope, known)):
            self.table.accept(owner, envelope, now, local=True)


class MemoryNetwork(Network):
    """One node of a hub."""

    directory: MemoryDirectory

    def __init__(
        self, hub: MemoryHub, identity: Identity, swarm: bytes, link: Link, limits: ChannelLimits
    ) -> None:
        self.key = identity.key
        self.addresses: tuple[str, ...] = ()
        self.places = (Address("ip4", "127.0.0.1", 1),)
        self.traffic = Traffic()
        self.pacing = Pacing()
        self._resting = False
        self.events = Events()
        self.hub = hub
        self.link = link
        self.wall_offset_s = 0.0
        """How wrong this node's wall clock is."""
        self.upload_free_at = 0.0  # time of the hub's clock at which the link has sent all that it was given
        self.download_free_at = 0.0
        self.directory = MemoryDirectory(self, identity, swarm)
        self._identity = identity
        self._services = Services()
        self._limits = limits
        self.company = Company()
        self.paths = Paths()
        self.relays = Relays(self.key)
        self._relays_changed = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._context: Context | None = None

    def wall_time(self) -> float:
        """What this node's wall clock shows."""
        return self.hub.now() + self.wall_offset_s

    def serve(self, spec: ProtocolSpec, handler: Handler) -> None:
        if self._tasks is not None:
            raise RuntimeError("serve is called before run")
        self._services.add(spec, handler)

    async def run(self, *, started: Callable[[], None]) -> None:
        self._announce()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._context = copy_context()
                self.hub.enter(self)
                if self.relays.wanted:
                    tasks.create_task(self._reserve())
                started()
                try:
                    await asyncio.Event().wait()
                finally:
                    self._tasks = None  # nobody is let in any more
        finally:
            self.hub.leave(self)

    async def dial(self, peer: bytes, protocol: ProtocolSpec, *, timeout_s: float) -> Channel:
        if peer == self.key:
            raise ValueError("a node does not dial itself")
        self.events.dials += 1
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(2 * self.link.latency_s)
                await self.hub.until_heard(self.key, peer)
                if peer in self.company.banned:
                    raise RemoteError(peer, "banned", "this node refuses it")
                if self._resting:
                    raise RemoteError(peer, "unreachable", "this node rests")
                channel = self._open(peer, protocol)
                self.company.dialled(peer)
                if channel.relay is not None:
                    await asyncio.sleep(self.hub.relays[channel.relay].delay_s)
                return channel
        except TimeoutError:
            self.events.dial_failures["timeout"] += 1
            raise
        except RemoteError as error:
            self.events.dial_failures[error.reason] += 1
            if error.reason == "unreachable":
                self.paths.failed(peer)
            raise

    def ban(self, peers: frozenset[bytes]) -> None:
        self.company.banned = peers
        self.hub.on_banned(self.key, peers)
        for peer in sorted(peers):
            self.hub.cut(self.key, peer)

    def rest(self, resting: bool) -> None:
        if resting == self._resting:
            return
        self._resting = resting
        if resting:
            self.hub.leave(self)
        elif self._tasks is not None:
            self.hub.enter(self)

    def disconnect(self, peer: bytes) -> None:
        self.hub.cut(self.key, peer)
        self.hub.on_banned(self.key, frozenset({peer}))

    async def add_addresses(self, peer: bytes, addresses: Sequence[str]) -> None:
        refused = addresses_of(peer, addresses)[1]
        if refused:
            self.events.rejected["malformed"] += refused

    def _open(self, peer: bytes, protocol: ProtocolSpec) -> Channel:
        other = self.hub.find(peer, seen_from=self.key)
        if other is None or other._tasks is None:
            raise RemoteError(peer, "unreachable", "no such node")
        relay = self._way_to(other)
        service = other._services.get(protocol.name)
        if service is None:
            raise RemoteError(peer, "unsupported", protocol.name)
        ours = MemoryChannel(self, peer, protocol)
        theirs = MemoryChannel(other, self.key, service.spec, accepted=True)
        ours.relay = theirs.relay = relay
        ours.join(theirs)
        self.hub.add_channel(ours)
        self.hub.add_channel(theirs)
        self.paths.opened(peer, relay)
        other.paths.opened(self.key, relay)
        other._accept(theirs, service)
        return ours

    def _way_to(self, other: "MemoryNetwork") -> bytes | None:
        """The relay through which a node is dialled; None: without one. Raises RemoteError
        (`unreachable`)."""
        if other.link.dialled or self.paths.of(other.key) in ("direct", "punched"):
            return None
        usable = sorted(other.relays.held & self.hub.relays.keys())
        if not usable or self.company.refuses_relayed or other.company.refuses_relayed:
            raise RemoteError(other.key, "unreachable", "nobody can dial it, and no relay passes it on")
        return usable[0]

    async def _reserve(self) -> None:
        """Ask relays for reservations, again and again."""
        clock = self.hub.clock
        while True:
            self._relays_changed.clear()
            now = clock.time()
            for key in self.relays.due(now):
                relay = self.hub.relays.get(key)
                fault = "unreachable" if relay is None else relay.fault
                if fault is not None:
                    self.relays.failed(key, fault, now)
                elif relay is not None:
                    place = Address("ip4", "127.0.0.1", relay.port)
                    self.relays.reserved(
                        key, Reservation(3600.0), now, round_trip_s=2 * relay.delay_s, place=place
                    )
            self._announce()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.05, min(5.0, self.relays.next_s(now)))):
                    await self._relays_changed.wait()

    def lost_relay(self, relay: bytes) -> None:
        """It is gone, and the connection to it."""
        if relay in self.relays.held:
            self.relays.failed(relay, "lost", self.hub.clock.time())
        self._announce()
        self._relays_changed.set()

    def _announce(self) -> None:
        places = (*self.places, *self.relays.circuits())
        self.addresses = tuple(str(replace(place, peer=self.key)) for place in places)

    def _accept(self, channel: MemoryChannel, service: Service) -> None:
        if channel.peer in self.company.banned:
            self.events.reject("banned")
            channel.cut()
            return
        visitor = Visitor(channel.peer, chosen=self.company.is_wanted(channel.peer))
        verdict = self._limits.enter(visitor, service.spec, self.hub.clock.time())
        if verdict != "ok":
            self.events.reject(verdict, channel.peer)
            channel.end("busy")
            return
        assert self._tasks is not None
        assert self._context is not None
        serving = self._serve(channel, service, visitor)
        # We may be running on behalf of whoever dialled.
        self._tasks.create_task(serving, name="channel", context=self._context.copy())

    async def _serve(self, channel: MemoryChannel, service: Service, visitor: Visitor) -> None:
        try:
            await serve_channel(channel, service.handler, self.events)
        finally:
            self._limits.leave(visitor, service.spec)
