"""The directory of a swarm, read and written from outside, with the table and the checks of a node.

Each look searches for the nodes that keep the directory, asks each of them, and takes what verifies. What a
node answers costs at most its time, its bytes and the table's budget of signatures.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from talkoot.dht import records
from talkoot.dht.addresses import AddressBook
from talkoot.dht.entries import directory_place
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity, key_of_peer_id
from talkoot.dht.outside import kademlia, unary
from talkoot.dht.outside.host import Outside
from talkoot.dht.outside.search import Search
from talkoot.dht.records import PeerRecord, SignedRecord
from talkoot.dht.table import RecordTable

WORKERS = 6
"""Nodes that are asked at once."""
LOOK_S = 8.0
"""Longest time for one look."""
CALL_S = 4.0
"""Longest wait for one node's answer."""
CONNECT_S = 4.0
MAX_LOOK_BYTES = 24 * 2**20
"""Bytes of answers in one look: six full directories."""
REPLICAS = 5
"""Nodes that keep a record."""
MAX_WHERE_BYTES = 64 * 1024
"""Longest answer to the question where a peer is."""
AVOID_S = 30.0
"""How long a node that did not answer is left out."""
MAX_AVOIDED = 1024
OLDER = "older"
"""Why a record is refused of which a later one is known: its node is late, as happens, or replays it."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found out of the DHT itself."""

    answered: tuple[bytes, ...]
    """Nodes that answered, the nearest to the directory first."""
    visits: int


class OutsideDirectory:
    """The directory of one swarm, through a host."""

    def __init__(self, host: Outside, swarm: bytes, bootstrap: Sequence[str]) -> None:
        """`bootstrap`: multiaddrs of peers of the swarm, each ending in /p2p/<peer id>. Raises ValueError."""
        self.swarm = swarm
        self.table = RecordTable(swarm, self)
        self.book = AddressBook()
        """Where peers can be dialled, by what they announced."""
        self.rejected: Counter[str] = Counter()
        """Records that were refused, by reason."""
        self.failures: Counter[str] = Counter()
        """Visits of nodes that failed, by reason."""
        self._host = host
        self._place = directory_place(swarm)
        self._seeds = [key_of_peer_id(address.rpartition("/p2p/")[2]) for address in bootstrap]
        for key, address in zip(self._seeds, bootstrap, strict=True):
            self.book.add(key, [address])
        self._answered: tuple[bytes, ...] = ()
        self._avoid: dict[bytes, float] = {}
        self._left_bytes = 0
        self._last_times = (0.0, 0.0)

    def reject(self, reason: str) -> None:
        """Count a refused record."""
        self.rejected[reason] += 1

    def peers(self) -> dict[bytes, SignedRecord]:
        """The records that are believed now, with the times that their owners signed."""
        return {owner: entry.signed for owner, entry in self.table.entries(time.time())}

    def needs(self, peer: bytes) -> bool:
        """Whether looks begin at this peer or end there: its connection is worth keeping."""
        return peer in self._answered or peer in self._seeds

    async def look(self) -> Look:
        """Ask the nodes that keep the directory; what they say is in `peers` as it comes. Ends in time."""
        now = trio.current_time()
        self._avoid = {key: until for key, until in self._avoid.items() if until > now}
        known = [key for key in self._answered if key not in self._seeds]
        # After a bootstrap peer that vanished, those that answered before lead into the swarm.
        search = Search(self._place, [*self._seeds, *known], avoid=[*self._avoid, self._host.key])
        self._left_bytes = MAX_LOOK_BYTES
        changed = _Bell()
        with trio.move_on_after(LOOK_S):
            async with trio.open_nursery() as nursery:
                for _ in range(WORKERS):
                    nursery.start_soon(self._work, search, changed)
        if search.answered:
            self._answered = tuple(search.nearest(REPLICAS))
        return Look(tuple(search.nearest(len(search.answered))), search.visits)

    async def publish(self, record: PeerRecord, *, ttl_s: float, identity: Identity | None = None) -> int:
        """Sign a record and have the nearest nodes keep it; how many do. It is the host's own, or that of
        another `identity`.

        Raises ValueError for a record that is not of the one who signs it, or out of bounds.
        """
        signer = self._host.identity if identity is None else identity
        times = records.next_times(time.time(), ttl_s, self._last_times)
        envelope = records.seal(signer, record, issued=times[0], expires=times[1])
        self._last_times = times
        self.table.accept(signer.key, envelope, time.time(), local=True)
        request = kademlia.store(self._place, signer.key, envelope, times[1])
        await self.look()
        kept: list[bytes] = []
        async with trio.open_nursery() as nursery:
            for node in self._answered:
                nursery.start_soon(self._store, node, request, kept)
        return len(kept)

    async def ping(self, peer: bytes) -> float:
        """How far a connected peer's clock is ahead of ours, in seconds. Raises RemoteError."""
        before = time.time()
        answer = await self._host.call(peer, kademlia.PING, kademlia.ping(), timeout_s=CALL_S, max_bytes=1024)
        try:
            return kademlia.read_ping(answer) - (before + time.time()) / 2
        except ValueError as error:
            raise RemoteError(peer, "malformed", str(error)) from error

    async def reach(self, peer: bytes, *, timeout_s: float = CONNECT_S) -> None:
        """Have a direct connection with a peer, where it announced to be or where others know it to be.

        Raises RemoteError (`unreachable`, `timeout`).
        """
        if self._host.is_connected(peer):
            return
        known = [str(address) for address in self.book.of(peer)]
        if not known:
            known = await self._ask_where(peer)
        await self._host.connect(peer, known, timeout_s=timeout_s)

    async def _work(self, search: Search, changed: "_Bell") -> None:
        while True:
            key = search.take()
            if key is None:
                if not search.under_way:
                    changed.ring()
                    return
                await changed.wait()
                continue
            neighbours = None
            try:
                neighbours = await self._visit(key)
            except RemoteError as error:
                self.failures[error.reason] += 1
                if len(self._avoid) < MAX_AVOIDED and key not in self._seeds:
                    self._avoid[key] = trio.current_time() + AVOID_S
            search.done(key, neighbours)
            changed.ring()

    async def _visit(self, node: bytes) -> list[bytes]:
        """Take the records that a node keeps; the keys of nodes that it named. Raises RemoteError."""
        await self.reach(node)
        limit = min(unary.MAX_CALL_BYTES, self._left_bytes)
        request = kademlia.find(self._place)
        answer = await self._host.call(node, kademlia.FIND, request, timeout_s=CALL_S, max_bytes=limit)
        self._left_bytes -= len(answer)
        try:
            found = kademlia.read_find(answer)
        except ValueError as error:
            raise RemoteError(node, "malformed", f"answer of the DHT: {error}") from error
        for number, (owner, envelope) in enumerate(found.envelopes.items()):
            self._take(owner, envelope)
            if number % 64 == 63:
                await trio.lowlevel.checkpoint()  # others' answers wait no longer than a few milliseconds
        return [neighbour.key for neighbour in found.neighbours]

    def _take(self, owner: bytes, envelope: bytes) -> None:
        known = self.table.envelope_of(owner)
        if known == envelope:
            return
        if known is not None and records.is_older(envelope, known):
            self.reject(OLDER)
        elif self.table.accept(owner, envelope, time.time()):
            signed = self.table.signed(owner)
            self.book.add(owner, signed.record.addresses if signed is not None else ())

    async def _ask_where(self, peer: bytes) -> list[str]:
        """Where nodes that answered before know the peer to be; the first answer counts. Never raises."""
        for node in [*self._answered, *self._seeds][:REPLICAS]:
            if node == peer or not self._host.is_connected(node):
                continue
            try:
                async with self._host.stream(node, kademlia.WHERE, timeout_s=CALL_S) as stream:
                    await stream.write(kademlia.where(peer))
                    answer = await unary.read_message(stream, node, max_bytes=MAX_WHERE_BYTES)
                    found = kademlia.read_where(answer).get(peer)
            except (RemoteError, ValueError):
                self.failures["malformed"] += 1
                continue
            if found:
                self.book.add(peer, found)
                return found
        return []

    async def _store(self, node: bytes, request: bytes, kept: list[bytes]) -> None:
        try:
            answer = await self._host.call(node, kademlia.STORE, request, timeout_s=CALL_S, max_bytes=4096)
            if kademlia.read_store(answer):
                kept.append(node)
        except RemoteError as error:
            self.failures[error.reason] += 1
        except ValueError:
            self.failures["malformed"] += 1


class _Bell:
    """Wakes everybody who waits."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()
