"""The swarm directory on hivemind's DHT, in our own event loop.

One DHT key per swarm, one subkey per peer. The record table is the truth; hivemind finds nodes and moves
records. A node of its own is made for every life of p2pd; the table outlives it.
"""

import asyncio
import contextlib
import logging
import math
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from talkoot.dht import addresses, records
from talkoot.dht.addresses import AddressBook
from talkoot.dht.calls import Calls
from talkoot.dht.company import Company
from talkoot.dht.config import NetworkConfig
from talkoot.dht.control import Control
from talkoot.dht.entries import directory_key
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity, key_of_peer_id, multihash_of
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.network import Directory, Events
from talkoot.dht.p2pd import P2pdError
from talkoot.dht.records import PeerRecord
from talkoot.dht.relays import Relays
from talkoot.dht.substrate import (
    DHTID,
    P2P,
    DHTNode,
    Multiaddr,
    P2PDaemonError,
    P2PHandlerError,
    PeerID,
    dht_pb2,
)
from talkoot.dht.table import RecordTable
from talkoot.dht.validator import RecordValidator, directory_id, install

logger = logging.getLogger(__name__)

_REPLICAS = 5
_BEAM = 8
# Nodes asked in one look at the directory; a record is on the `_REPLICAS` nearest to its key.
_RPC_TIMEOUT_S = 3.0
_BLACKLIST_S = 10.0
_MEET_PEERS = 8
# Recent peers tried next to the bootstrap peers.
_RETRY_S = (1.0, 2.0, 4.0, 8.0, 15.0)
# Pauses while nobody answered yet.
_CLOCK_WARNING_S = 2.0

_HIVEMIND_ERRORS = (TimeoutError, OSError, EOFError, P2PDaemonError, P2PHandlerError, AssertionError)
# hivemind asserts on what other nodes send.


class DhtDirectory(Directory):
    """The directory of one node. `attached` runs it on a p2pd; detached it answers from memory."""

    def __init__(
        self,
        identity: Identity,
        swarm: bytes,
        config: NetworkConfig,
        events: Events,
        book: AddressBook,
        company: Company,
        relays: Relays,
    ) -> None:
        self._identity = identity
        self._config = config
        self._events = events
        self._book = book
        self._company = company
        self._relays = relays
        self._calls = Calls(events, company)
        self.table = RecordTable(swarm, self._calls)
        self._validator = RecordValidator(self.table)
        self._node: DHTNode | None = None
        self._own: tuple[bytes, float] | None = None  # our envelope and its expiration
        self._last_times = (0.0, 0.0)  # issued, expires: both only ever grow
        self._looking = asyncio.Lock()

    async def publish(self, record: PeerRecord, *, ttl_s: float) -> None:
        if record.swarm != self.table.swarm:
            raise ValueError("a record of another swarm")
        now = time.time()
        issued, expires = records.next_times(now, ttl_s, self._last_times)
        envelope = records.seal(self._identity, record, issued=issued, expires=expires)
        self._last_times = (issued, expires)
        self._own = (envelope, expires)
        self.table.accept(self._identity.key, envelope, now, local=True)
        await self._store_own()

    async def peers(self) -> dict[bytes, PeerRecord]:
        async with self._looking:
            if self._node is not None:
                await self._search(self._node, directory_id(self.table.swarm))
        banned = self._company.banned
        found = {key: each for key, each in self.table.peers(time.time()).items() if key not in banned}
        others = {peer: record for peer, record in found.items() if peer != self._identity.key}
        for peer, record in others.items():
            self._book.add(peer, record.addresses)
        self._relays.note(others.values())
        return found

    @contextlib.asynccontextmanager
    async def attached(self, control_path: Path) -> AsyncIterator[asyncio.Event]:
        """Take part in the DHT through a p2pd; the event is set when the connection to it is lost.

        Raises P2pdError if that does not work.
        """
        try:
            async with asyncio.timeout(self._config.call_timeout_s):
                p2p = await P2P.replicate(Multiaddr(f"/unix{control_path}"))
        except _HIVEMIND_ERRORS as error:
            raise P2pdError(f"cannot attach to p2pd: {error!r}") from error
        try:
            self._node = await self._make_node(p2p)
            lost = asyncio.Event()
            p2p._client.control._read_task.add_done_callback(lambda _: lost.set())
            yield lost
        finally:
            self._node = None
            await _detach(p2p)

    async def maintain(self, control: Control, met: Callable[[], None]) -> None:
        """Meet the bootstrap peers and some recent ones, now and again and again; until cancelled.

        A restarted bootstrap peer has an empty table: unless it is pinged, the swarm stays split. Calls
        `met` after the first attempt, successful or not.
        """
        failures = 0
        while True:
            known, reached = await self._meet(control)
            met()
            alone = known > 0 and not reached
            failures = failures + 1 if alone else 0
            self._events.warning = self._warning(alone)
            pause_s = self._config.ping_bootstrap_s
            if alone:
                pause_s = min(pause_s, _RETRY_S[min(failures, len(_RETRY_S)) - 1])
            await asyncio.sleep(pause_s)

    async def _make_node(self, p2p: P2P) -> DHTNode:
        try:
            async with asyncio.timeout(self._config.call_timeout_s):
                node = await DHTNode.create(
                    p2p=p2p,
                    node_id=DHTID.generate(source=self._identity.key),
                    initial_peers=[],
                    num_replicas=_REPLICAS,
                    wait_timeout=_RPC_TIMEOUT_S,
                    parallel_rpc=64,
                    cache_locally=False,
                    cache_nearest=0,
                    cache_on_store=False,
                    cache_refresh_before_expiry=0,
                    reuse_get_requests=False,
                    blacklist_time=_BLACKLIST_S,
                    backoff_rate=1.0,
                    record_validator=self._validator,
                )
        except _HIVEMIND_ERRORS as error:
            raise P2pdError(f"cannot start the directory: {error!r}") from error
        install(node, self._validator, self.table)
        self._calls.install(p2p)
        return node

    async def _meet(self, control: Control) -> tuple[int, int]:
        """Connect to known peers and ping them; how many there were, and how many answered."""
        targets = {address.peer for address in map(parse_address, self._config.bootstrap)}
        targets |= set(self._book.recent(_MEET_PEERS))
        targets -= {None, self._identity.key, *self._company.banned}
        offsets: list[float] = []
        async with asyncio.TaskGroup() as tasks:
            for peer in targets:
                if peer is not None:
                    tasks.create_task(self._meet_one(control, peer, offsets), name="meet")
        if offsets:
            self._events.clock_offset_s = statistics.median(offsets)
            if self._node is not None:
                await self._search(self._node, self._node.node_id)
            await self._store_own()
        return len(targets), len(offsets)

    async def _meet_one(self, control: Control, peer: bytes, offsets: list[float]) -> None:
        known = [address.to_bytes() for address in self._book.of(peer)]
        try:
            await control.connect(peer, known, timeout_s=self._config.call_timeout_s)
            offset = await self._ping(peer)
        except (RemoteError, P2pdError, *_HIVEMIND_ERRORS) as error:
            logger.debug("no answer from a known peer: %s", error)
        else:
            self._company.dialled(peer)
            offsets.append(offset)

    async def _ping(self, peer: bytes) -> float:
        """Enter each other's routing table; returns how far the peer's clock is ahead, in seconds."""
        if self._node is None:
            raise P2pdError("not attached")
        protocol = self._node.protocol
        target = PeerID(multihash_of(peer))
        request = dht_pb2.PingRequest(peer=protocol.node_info, validate=False)
        before = time.time()
        response = await protocol.get_stub(target).rpc_ping(request, timeout=_RPC_TIMEOUT_S)
        offset = response.dht_time - (before + time.time()) / 2
        if len(response.peer.node_id) == DHTID.HASH_NBYTES:
            await protocol.update_routing_table(DHTID.from_bytes(response.peer.node_id), target)
        if not math.isfinite(offset):
            raise P2PDaemonError("a clock that is not a number")
        return float(offset)

    async def _search(self, node: DHTNode, target: DHTID) -> None:
        """Visit the nodes nearest to a place in key space; their records end up in the table."""
        try:
            async with asyncio.timeout(self._config.directory_timeout_s):
                await node.find_nearest_nodes([target], k_nearest=_REPLICAS, beam_size=_BEAM)
        except _HIVEMIND_ERRORS as error:
            logger.debug("a look at the directory failed: %r", error)

    async def _store_own(self) -> None:
        """Put our record on the nodes nearest to the directory's key."""
        if self._own is None or self._node is None or self._own[1] <= time.time():
            return
        envelope, expires = self._own
        try:
            async with asyncio.timeout(self._config.directory_timeout_s):
                await self._node.store(
                    directory_key(self.table.swarm), envelope, expires, subkey=self._identity.key
                )
        except _HIVEMIND_ERRORS as error:
            logger.debug("an announcement failed: %r", error)

    def _warning(self, alone: bool) -> str:
        offset = self._events.clock_offset_s
        if offset is not None and abs(offset) > _CLOCK_WARNING_S:
            side = "behind" if offset > 0 else "ahead of"
            return (
                f"this machine's clock is {abs(offset):.1f} seconds {side} the other peers': set it (NTP), "
                f"or they will not see each other's announcements"
            )
        return "no known peer answers; trying again" if alone else ""


async def save_addresses(book: AddressBook, path: Path, *, warn: bool = True) -> bool:
    """Write the recent peers' addresses; False where that fails, which is logged if `warn`."""
    try:
        await asyncio.to_thread(addresses.save, path, book.to_json())
    except OSError as error:
        logger.log(logging.WARNING if warn else logging.DEBUG, "cannot save the known peers: %s", error)
        return False
    return True


def bootstrap_book(config: NetworkConfig, path: Path | None, company: Company) -> AddressBook:
    """Addresses to begin with: those on disk, then those of the configuration."""
    book = AddressBook(company.is_chosen)
    if path is not None:
        book.load(path)
    for text in config.bootstrap:
        book.add(key_of_peer_id(text.rpartition("/")[2]), [text])
    return book


async def _detach(p2p: P2P) -> None:
    """End what hivemind started for this attachment; its own shutdown leaves tasks behind."""
    control = p2p._client.control
    left = [control._read_task, control._write_task, *control._handler_tasks.values()]
    await p2p.shutdown()
    tasks = [task for task in left if task is not None]
    for task in tasks:
        task.cancel()
    if tasks:
        done, _ = await asyncio.wait(tasks, timeout=1.0)
        for task in done:
            if not task.cancelled():
                task.exception()  # retrieved: the connection is gone, which is what we wanted
