"""What makers of faults share: the swarm, a source of randomness, and who is down at present."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from random import Random
from typing import Any

from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.world import World

MAX_DOWN = 0.3
"""Largest share of peers that is off, frozen or without a disk at once; one peer always may be."""


class Harm:
    """See the module."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        self.made: list[str] = []
        self._down: set[int] = set()
        self._peace = asyncio.Event()

    def note(self, what: str) -> None:
        """A fault begins."""
        self.made.append(what)
        self.world.trace.add(f"fault {what}")

    async def last(self, least_s: float, most_s: float) -> None:
        """Let a fault last for a random while, but no longer than until `end`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.random.uniform(least_s, most_s)):
                await self._peace.wait()

    def end(self) -> None:
        """All faults end now."""
        self._peace.set()

    def anyone(self) -> SimPeer:
        """Any peer, whether it is on or not."""
        return self.random.choice(self.world.peers)

    def take_down(self) -> SimPeer | None:
        """A peer to be harmed until `up`; None while enough are down."""
        peers = self.world.peers
        if len(self._down) + 1 > max(1, int(MAX_DOWN * len(peers))):
            return None
        candidates = [peer for peer in self.world.living if peer.number not in self._down]
        if len(candidates) < 2:
            return None
        peer = self.random.choice(candidates)
        self._down.add(peer.number)
        return peer

    def up(self, peer: SimPeer) -> None:
        """The peer is well again."""
        self._down.discard(peer.number)

    def group(self) -> tuple[list[SimPeer], list[SimPeer]]:
        """All peers in two groups, at random."""
        peers = list(self.world.peers)
        self.random.shuffle(peers)
        size = self.random.randint(1, len(peers) - 1)
        return peers[:size], peers[size:]


Maker = Callable[[Harm], Coroutine[Any, Any, None]]
"""Makes one fault and waits until it has ended."""
