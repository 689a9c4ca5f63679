"""The network on libp2p: p2pd for connections and streams, hivemind's DHT for the directory.

p2pd is a part that may die at any time. Each of its lives has its own control client, listening socket
and DHT node; handlers, counters, directory table and known addresses outlive it.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from google.protobuf.message import DecodeError

from talkoot.dht import addresses
from talkoot.dht.accepting import listening, next_connection, serve_in
from talkoot.dht.alive import end_if_stuck
from talkoot.dht.channel_limits import ChannelLimits, Visitor
from talkoot.dht.company import Company
from talkoot.dht.config import NetworkConfig
from talkoot.dht.control import Control, read_stream_info
from talkoot.dht.directory import DhtDirectory, bootstrap_book, save_addresses
from talkoot.dht.errors import RemoteError
from talkoot.dht.guard import ConnectionGuard
from talkoot.dht.holding import Budget
from talkoot.dht.identity import Identity, multihash_of
from talkoot.dht.limits import (
    GUARD_S,
    MAX_REFUSALS,
    MAX_UNREAD_STREAMS,
    PREAMBLE_TIMEOUT_S,
    STRANGERS_HELD_BYTES,
)
from talkoot.dht.measuring import Wire
from talkoot.dht.multiaddr import Address, decode_address, parse_address, relay_of
from talkoot.dht.network import Channel, Events, Handler, Network, ProtocolSpec, Traffic
from talkoot.dht.p2pd import P2pd, P2pdError, binary, running
from talkoot.dht.pacing import Pacing
from talkoot.dht.paths import Paths, Way
from talkoot.dht.port import FILE, check_port, choose_port, remember_port
from talkoot.dht.reconnecting import Reconnecting
from talkoot.dht.records import MAX_ADDRESSES
from talkoot.dht.relays import Relays, by_relay
from talkoot.dht.reserving import Reserving
from talkoot.dht.serving import Service, Services, count_failure, serve_channel
from talkoot.dht.stream import LINGER_S, StreamChannel

logger = logging.getLogger(__name__)

_BACKOFF_S = (0.1, 1.0, 2.0, 5.0, 15.0, 30.0)
# Pauses before p2pd is started again; the first is short, because the swarm waits for nobody.
_STABLE_S = 60.0
# After so long a life the next failure counts as the first again.
_REFRESH_S = 60.0
# Pause between two looks at our own addresses.
_CHOSEN_WEIGHT = 100
# Of peers that we chose, when p2pd has too many connections; its own part of the swarm gets 5.
_SAVE_S = 10.0
# Pause between two looks at whether others' addresses have changed; who is killed has to find them again.


class P2PNetwork(Network):
    """A node on libp2p.

    `state_dir` keeps the addresses of recent peers; None: nothing is kept. At most one P2PNetwork per
    identity may be alive anywhere.
    """

    def __init__(
        self, identity: Identity, config: NetworkConfig, *, swarm: bytes, state_dir: Path | None = None
    ) -> None:
        self.key = identity.key
        self.addresses: tuple[str, ...] = ()
        self.traffic = Traffic()
        self.pacing = Pacing()
        self._wire = Wire(self.pacing, self.traffic)
        self.events = Events()
        self._identity = identity
        self._config = config
        self._port = config.port
        self._path = None if state_dir is None else state_dir / "peers.json"
        self._port_file = None if state_dir is None else state_dir / FILE
        self.company = Company()
        self.paths = Paths()
        self.relays = Relays(identity.sign(b"talkoot relays"))  # secret: a signature that nobody else sees
        self.relays.wanted = config.relay
        self.relays.name("operator", by_relay(config.relays))
        self._reserving = Reserving(self.relays)
        self.places: tuple[Address, ...] = ()
        self._book = bootstrap_book(config, self._path, self.company)
        self._reconnecting = Reconnecting(self.key, self.company, self.paths, self._book)
        self._directory = DhtDirectory(
            identity, swarm, config, self.events, self._book, self.company, self.relays
        )
        self.directory = self._directory
        self._services = Services()
        per_prefix = config.connections_per_prefix
        self._limits = ChannelLimits(config.max_channels, per_prefix)
        self._guard = ConnectionGuard(max_connections=config.connections_high, per_prefix=per_prefix)
        self._budget = Budget(STRANGERS_HELD_BYTES)
        self._look = asyncio.Event()
        self._leaving: set[bytes] = set()
        self._resting, self._awake = asyncio.Event(), asyncio.Event()
        self._awake.set()
        self._unread = self._refusals = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._control: Control | None = None
        self.p2pd_pid: int | None = None
        """Process id of p2pd while it lives."""

    def serve(self, spec: ProtocolSpec, handler: Handler) -> None:
        if self._tasks is not None:
            raise RuntimeError("serve is called before run")
        self._services.add(spec, handler)

    async def run(self, *, started: Callable[[], None]) -> None:
        binary()
        check_port(self._config)
        self._port = await choose_port(self._config, self._port_file)
        loop = asyncio.get_running_loop()
        failures = 0
        first_time = _Once(started)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                await self._awake.wait()
                began = loop.time()
                try:
                    if await self._live_once(first_time):
                        continue
                    logger.warning("p2pd died")
                except P2pdError as error:
                    logger.warning("%s", error)
                failures = 1 if loop.time() - began > _STABLE_S else failures + 1
                self.events.restarts["p2pd"] += 1
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1])

    async def dial(self, peer: bytes, protocol: ProtocolSpec, *, timeout_s: float) -> Channel:
        if peer == self.key:
            raise ValueError("a node does not dial itself")
        self.events.dials += 1
        try:
            if peer in self.company.banned:
                raise RemoteError(peer, "banned", "this node refuses it")
            async with asyncio.timeout(timeout_s):
                channel = await self._dial(peer, protocol, timeout_s)
            self.company.dialled(peer)
            return channel
        except TimeoutError:
            self.events.dial_failures["timeout"] += 1
            self.paths.failed(peer)
            raise
        except RemoteError as error:
            self.events.dial_failures[error.reason] += 1
            if error.reason == "unreachable":
                self.paths.failed(peer)
            raise

    async def add_addresses(self, peer: bytes, addresses: Sequence[str]) -> None:
        refused = self._book.add(peer, addresses)
        if refused:
            self.events.rejected["malformed"] += refused

    def ban(self, peers: frozenset[bytes]) -> None:
        self.company.banned = peers
        self._look.set()

    def rest(self, resting: bool) -> None:
        now, other = (self._resting, self._awake) if resting else (self._awake, self._resting)
        now.set()
        other.clear()

    def disconnect(self, peer: bytes) -> None:
        self._leaving.add(peer)
        self._look.set()

    # One life of p2pd.

    async def _live_once(self, started: Callable[[], None]) -> bool:
        """Start p2pd, be on the network until it died; whether it was to rest. Raises P2pdError."""
        async with running(self._identity, self._config, self._port) as p2pd, asyncio.TaskGroup() as life:
            self.p2pd_pid = p2pd.pid
            death = life.create_task(p2pd.died(), name="p2pd death")
            work = life.create_task(self._work(p2pd, started), name="p2pd work")
            rest = life.create_task(self._resting.wait(), name="p2pd rest")
            measuring = life.create_task(self._wire.run(p2pd.pid), name="p2pd bytes")
            try:
                await asyncio.wait({death, work, rest}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                await self._end_channels()  # while p2pd can still carry their ends
                raise
            finally:
                self.p2pd_pid = None
                for task in (death, work, rest, measuring):
                    task.cancel()
        return rest.done() and not rest.cancelled()

    async def _work(self, p2pd: P2pd, started: Callable[[], None]) -> None:
        """Accept streams and keep the directory attached; returns when p2pd is of no more use."""
        control = Control(p2pd.control_path, timeout_s=self._config.call_timeout_s)
        try:
            await self._learn_addresses(control)
            with listening(p2pd.directory / "accept.sock") as listener:
                async with asyncio.TaskGroup() as tasks:
                    accepting = tasks.create_task(self._accept(listener), name="accept")
                    for name in self._services:
                        await control.accept_streams(p2pd.directory / "accept.sock", name)
                    self._control = control
                    try:
                        await self._attach(p2pd, control, started)
                    finally:
                        self._control = None
                        accepting.cancel()
        except* (P2pdError, TimeoutError) as errors:
            logger.warning("p2pd is started again: %s", errors.exceptions[0])

    async def _attach(self, p2pd: P2pd, control: Control, started: Callable[[], None]) -> None:
        async with self._directory.attached(p2pd.control_path) as lost, asyncio.TaskGroup() as tasks:
            upkeep = [
                tasks.create_task(self._directory.maintain(control, started), name="directory"),
                tasks.create_task(self._refresh(control), name="addresses"),
                tasks.create_task(self._save_peers(), name="peers"),
                tasks.create_task(self._watch_connections(control), name="connections"),
                tasks.create_task(self._reserving.run(control), name="relays"),
                tasks.create_task(self._follow_relays(), name="circuits"),
                tasks.create_task(self._reconnecting.run(control), name="punching"),
                tasks.create_task(end_if_stuck(control, p2pd.pid), name="p2pd alive"),
            ]
            await lost.wait()
            self.events.restarts["directory"] += 1
            for task in upkeep:
                task.cancel()

    async def _refresh(self, control: Control) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            with contextlib.suppress(P2pdError, TimeoutError):
                await self._learn_addresses(control)

    async def _follow_relays(self) -> None:
        """Announce the relays at which we are reachable, as they come and go; until cancelled."""
        while True:
            self._announce()
            await self._reserving.changed.wait()
            self._reserving.changed.clear()

    async def _watch_connections(self, control: Control) -> None:
        """Have p2pd close what is above a limit, and keep those that we chose; until cancelled."""
        kept: frozenset[bytes] = frozenset()
        while True:
            self._look.clear()
            with contextlib.suppress(P2pdError, TimeoutError):
                await self._cut_connections(control)
                kept = await self._keep_chosen(control, kept)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GUARD_S):
                    await self._look.wait()

    async def _cut_connections(self, control: Control) -> None:
        connections = await control.connections()
        for each in connections:
            if each.peer is not None and each.prefix is not None:
                self.company.seen(each.peer, each.prefix)
        self.paths.look(Way(each.peer, each.relay) for each in connections if each.peer is not None)
        there = [each.peer for each in connections if each.peer is not None and each.relay is None]
        self.relays.connected(there, asyncio.get_running_loop().time())
        self._reserving.look()
        self._announce()
        cut = self._guard.too_many(connections, chosen=self._is_chosen, banned=self.company.banned)
        leaving = {multihash_of(peer): "score" for peer in self._leaving}
        self._leaving.clear()
        for name, reason in (leaving | cut).items():
            self.events.connections_cut[reason] += 1
            with contextlib.suppress(RemoteError):
                await control.disconnect(name)

    def _is_chosen(self, peer: bytes) -> bool:
        return self.company.is_chosen(peer) or (peer in self.relays.known and peer not in self.company.banned)

    async def _keep_chosen(self, control: Control, kept: frozenset[bytes]) -> frozenset[bytes]:
        """Tell p2pd whose connections it must not close; returns whom it knows of."""
        wanted = self.company.wanted
        for peer in wanted ^ kept:
            await control.keep(peer, weight=_CHOSEN_WEIGHT if peer in wanted else 0)
        return wanted

    async def _save_peers(self) -> None:
        """Keep the file of peers' addresses up to date, until cancelled."""
        if self._path is None:
            return
        written, succeeded = self._book.newest(), True
        try:
            while True:
                await asyncio.sleep(_SAVE_S)
                newest = self._book.newest()
                if newest != written:
                    succeeded = await save_addresses(self._book, self._path, warn=succeeded)
                    written = newest if succeeded else written
        finally:
            if self._book.newest() != written:
                with contextlib.suppress(OSError):  # said before, if it is not new
                    addresses.save(self._path, self._book.to_json())

    async def _learn_addresses(self, control: Control) -> None:
        key, found = await control.identify()
        assert key == self.key, "p2pd runs under another identity"
        texts = list(self._config.announce)
        if not texts:
            for data in found:
                with contextlib.suppress(ValueError):
                    texts.append(decode_address(data))
        parsed = [parse_address(text) for text in texts]
        if parsed and not self._port and not self._config.announce:
            self._port = parsed[0].port  # kept, so that addresses outlive p2pd
        if self._port and self._port_file is not None and not self._config.port:
            remember_port(self._port_file, self._port)
        self.places = tuple([address for address in parsed if not address.is_loopback] or parsed)
        self._announce()

    def _announce(self) -> None:
        """Our own addresses, and those through relays."""
        circuits = self.relays.circuits()[: MAX_ADDRESSES // 2]
        own = self.places
        if self.relays.instead and circuits and not self._config.announce:
            own = tuple(place for place in own if not place.is_global)
        places = [*own[: MAX_ADDRESSES - len(circuits)], *circuits]
        self.addresses = tuple(str(replace(place, peer=self.key)) for place in places)

    # Channels.

    async def _dial(self, peer: bytes, protocol: ProtocolSpec, timeout_s: float) -> Channel:
        control = self._control
        if control is None:
            raise RemoteError(peer, "unreachable", "p2pd is being started")
        try:
            places = self._book.of(peer)
            if self.company.refuses_relayed:
                places = tuple(place for place in places if place.relay is None)
            if places:
                known = [place.to_bytes() for place in places]
                await control.connect(peer, known, timeout_s=timeout_s)
            connection, address = await control.open_on(peer, protocol.name, timeout_s=timeout_s)
        except P2pdError as error:
            raise RemoteError(peer, "unreachable", str(error)) from error
        relay = relay_of(address)
        if relay is not None and self.company.refuses_relayed:
            connection.close()
            raise RemoteError(peer, "unreachable", "only through a relay, which this node refuses")
        return await self._channel(connection, peer, protocol, relay=relay)

    async def _channel(
        self,
        connection: socket.socket,
        peer: bytes,
        spec: ProtocolSpec,
        *,
        accepted: bool = False,
        relay: bytes | None = None,
    ) -> StreamChannel:
        """Turn the socket of a stream into a channel, which owns it from here on."""
        loop = asyncio.get_running_loop()
        if relay is not None:
            self.paths.through(peer, relay)
        budget = self._budget if accepted and not self.company.is_wanted(peer) else None
        channel = StreamChannel(
            peer,
            spec,
            self.traffic,
            lambda: self._lost(channel),
            accepted=accepted,
            budget=budget,
            pacing=self.pacing,
        )
        channel.relay = relay
        self._reconnecting.note(channel)
        try:
            await loop.create_unix_connection(lambda: channel, sock=connection)
        except OSError as error:
            connection.close()
            raise RemoteError(peer, "unreachable", str(error)) from error
        return channel

    def _lost(self, channel: StreamChannel) -> None:
        """A relay that drops what goes through it is known by that only."""
        if channel.relay is not None and channel.broken:
            self.relays.broke(channel.relay, channel.peer, asyncio.get_running_loop().time())
            self._reserving.look()

    async def _accept(self, listener: socket.socket) -> None:
        assert self._tasks is not None
        while True:
            connection = await next_connection(listener)
            if self._unread >= MAX_UNREAD_STREAMS:
                connection.close()
                self.events.reject("busy")
                continue
            task = serve_in(self._tasks, connection, self._serve)
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _end_channels(self) -> None:
        if self._serving:
            for task in self._serving:
                task.cancel()
            await asyncio.wait(self._serving, timeout=2 * LINGER_S)

    async def _serve(self, connection: socket.socket, stack: contextlib.ExitStack) -> None:
        """One accepted stream from its first byte to its last; `stack` closes it until it is a channel."""
        with stack:
            try:
                self._unread += 1
                async with asyncio.timeout(PREAMBLE_TIMEOUT_S):
                    visitor, name = await read_stream_info(connection)
            except RemoteError as error:
                return count_failure(self.events, None, error)
            except (OSError, EOFError, DecodeError) as error:  # TimeoutError is an OSError
                logger.debug("p2pd cut an accepted stream: %r", error)
                return None
            finally:
                self._unread -= 1
            service = self._services.get(name)
            if service is None or visitor.peer == self.key:
                return None
            if visitor.peer in self.company.banned:
                return self.events.reject("banned")
            if visitor.relay is not None and self.company.refuses_relayed:
                return self.events.reject("refused")  # which is no fault of the peer's
            stack.pop_all()
        with contextlib.suppress(RemoteError):  # cut before it began
            await self._serve_stream(connection, visitor, service)
        return None

    async def _serve_stream(self, connection: socket.socket, visitor: Visitor, service: Service) -> None:
        visitor = replace(visitor, chosen=self.company.is_wanted(visitor.peer))
        verdict = self._limits.enter(visitor, service.spec, asyncio.get_running_loop().time())
        if verdict != "ok":
            self.events.reject(verdict, visitor.peer)
            return await self._refuse(connection, visitor.peer, service.spec)
        try:
            channel = await self._channel(
                connection, visitor.peer, service.spec, accepted=True, relay=visitor.relay
            )
            channel.address = visitor.address
            await serve_channel(channel, service.handler, self.events)
        finally:
            self._limits.leave(visitor, service.spec)

    async def _refuse(self, connection: socket.socket, peer: bytes, spec: ProtocolSpec) -> None:
        if self._refusals >= MAX_REFUSALS:
            connection.close()
            return
        self._refusals += 1
        try:
            channel = await self._channel(connection, peer, spec, accepted=True)
            await channel.refuse()
        finally:
            self._refusals -= 1


class _Once:
    """Calls back the first time only. Kept across the lives of p2pd by its owner."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._called = False

    def __call__(self) -> None:
        if not self._called:
            self._called = True
            self._callback()
