"""Makes relayed connections anew when `punching` says so: p2pd punches holes only at their beginning."""

import asyncio
import contextlib
import weakref
from collections import Counter

from talkoot.dht.addresses import AddressBook
from talkoot.dht.company import Company
from talkoot.dht.control import Control
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import multihash_of
from talkoot.dht.limits import GUARD_S
from talkoot.dht.network import Channel
from talkoot.dht.p2pd import P2pdError
from talkoot.dht.paths import Paths
from talkoot.dht.punching import Punching

CONNECT_S = 5.0
"""For one connection through a relay."""


class Reconnecting:
    """Of one node. `note` its channels, and `run` it while p2pd lives."""

    def __init__(self, key: bytes, company: Company, paths: Paths, book: AddressBook) -> None:
        self._key = key
        self._company = company
        self._paths = paths
        self._book = book
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._passed: Counter[bytes] = Counter()

    def note(self, channel: Channel) -> None:
        """A channel was opened or accepted: what passes through it is not to be cut."""
        self._channels.add(channel)

    async def run(self, control: Control) -> None:
        """Look at the connections again and again, until cancelled."""
        punching = Punching(self._key)
        while True:
            await asyncio.sleep(GUARD_S)
            with contextlib.suppress(P2pdError, TimeoutError, RemoteError):
                await self._look(control, punching)

    async def _look(self, control: Control, punching: Punching) -> None:
        busy = self._busy()
        if self._company.busy():
            return
        connections = await control.connections()
        prefixes = {each.prefix for each in connections if each.relay is None and each.prefix is not None}
        own = {each.peer for each in connections if each.relay is None}
        relayed = {each.peer for each in connections if each.relay and each.peer is not None} - own
        now = asyncio.get_running_loop().time()
        for peer in punching.due(sorted(filter(None, relayed)), busy=busy, observers=len(prefixes), now=now):
            await self._connect(control, peer)

    async def _connect(self, control: Control, peer: bytes) -> None:
        """Close what there is to a peer, and connect through a relay again."""
        places = [place for place in self._book.of(peer) if place.relay is not None]
        if not places:
            return
        await control.disconnect(multihash_of(peer))
        await control.connect(peer, [place.to_bytes() for place in places], timeout_s=CONNECT_S)
        assert places[0].relay is not None
        self._paths.through(peer, places[0].relay)

    def _busy(self) -> set[bytes]:
        """Peers with which something was exchanged since the last call."""
        passed: Counter[bytes] = Counter()
        for channel in self._channels:
            passed[channel.peer] += channel.bytes_sent + channel.bytes_received
        before, self._passed = self._passed, passed
        return {peer for peer, count in passed.items() if count != before[peer]}
