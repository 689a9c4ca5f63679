"""A node's place in the directory: it says how far it is, hears how far the others are, and stays connected
to those who matter."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from talkoot.dht.limits import FEELER_S
from talkoot.dht.records import MAX_TTL_S
from talkoot.peer import clock, uplink
from talkoot.peer.announcement import record_of
from talkoot.peer.names import Names
from talkoot.peer.outbound import choose

if TYPE_CHECKING:
    from talkoot.peer.node import Node


class Announcing:
    """Of one node, once it holds a state. On the event loop."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._now = asyncio.Event()
        self._stranger = asyncio.Event()  # somebody has connected whose announcement was not read
        self._uplink = uplink.Memory(node.paths.uplink, node.links.upload)
        self._names = Names(node.paths.names)
        self._salt = node.identity.sign(b"talkoot outbound")  # secret: a signature that nobody else sees

    def soon(self) -> None:
        """Announce without waiting for the next turn."""
        self._now.set()

    def stranger(self) -> None:
        """Somebody has connected whose announcement was not read yet."""
        self._stranger.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_turns())
            group.create_task(self._meet_strangers())

    async def publish(self) -> None:
        """Say where we are now."""
        node = self._node
        record = record_of(node)
        if record is not None and node.manifest is not None:
            ttl_s = min(MAX_TTL_S, max(15.0, 4 * node.manifest.round.announce_s))
            await node.network.directory.publish(record, ttl_s=ttl_s)

    async def _take_turns(self) -> None:
        node = self._node
        assert node.swarming is not None
        assert node.manifest is not None
        pause_s, first = node.manifest.round.announce_s, True
        while True:
            await self.publish()
            await self._hear()
            view = node.swarming.view
            if (first or not node.swarming.joins_rounds) and view.ahead_of(node.swarming.ledger.round):
                node.swarming.want_update(set(), at_once=True)
            first = False
            node.measuring.look_now()
            if self._uplink.is_stale:
                await asyncio.to_thread(self._uplink.write)
            if (names := self._names.news()) is not None:
                await asyncio.to_thread(self._names.write, names)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._now.wait()
            self._now.clear()

    async def _hear(self) -> None:
        """Read what the others announce."""
        node = self._node
        assert node.swarming is not None
        records = await node.network.directory.peers()
        node.swarming.view.update(records)
        self._names.note(records)
        node.news.set()
        node.links.keep(self._partners())
        node.runner.links_changed()

    async def _meet_strangers(self) -> None:
        """Whoever connects has announced itself: hear of it before the running round closes without it."""
        assert self._node.manifest is not None
        while True:
            await self._stranger.wait()
            self._stranger.clear()
            await self._hear()
            await asyncio.sleep(self._node.manifest.round.announce_s / 4)

    def _partners(self) -> frozenset[bytes]:
        """Peers to stay connected to: those that take part in rounds, if we do. Others ask for states."""
        node = self._node
        assert node.swarming is not None
        assert node.manifest is not None
        if not node.swarming.joins_rounds:
            return frozenset()
        may_certify = node.swarming.may_certify
        there = {
            key: seen.record.addresses
            for key, seen in node.swarming.view.others.items()
            if seen.record.role != "observer" or may_certify(key)
        }
        return choose(
            there,
            voters=frozenset(filter(may_certify, there)),
            most=node.manifest.swarm.max_peers,
            salt=self._salt,
            seen=node.network.company.places,
            turn=int(clock.now() // FEELER_S),
        )
