"""Faults of a simulated swarm, drawn from a seed: who, what, when and for how long."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random

from talkoot.peer import clock
from talkoot.peer.simulation.world import SimPeer, World

MAX_DOWN = 0.3
"""Largest share of peers that is crashed or frozen at once."""


class Faults:
    """Makes faults until a given time, then repairs everything."""

    def __init__(self, world: World, seed: int, kinds: tuple[str, ...], mean_gap_s: float) -> None:
        self._world = world
        self._random = Random(f"faults {seed}")  # noqa: S311 - a simulation is to be repeatable
        self._kinds = kinds
        self._mean_gap_s = mean_gap_s
        self._down: set[int] = set()
        self.made: list[str] = []

    async def run(self, until: float) -> None:
        """Make faults until then; all of them have ended when this returns."""
        async with asyncio.TaskGroup() as group:
            while self._kinds:
                gap_s = self._random.expovariate(1 / self._mean_gap_s)
                if clock.now() + gap_s >= until:
                    break
                await asyncio.sleep(gap_s)
                kind = self._random.choice(self._kinds)
                maker: Callable[[], Awaitable[None]] = getattr(self, f"_{kind}")
                group.create_task(self._as_task(maker))

    async def _as_task(self, maker: Callable[[], Awaitable[None]]) -> None:
        await maker()

    def _note(self, what: str) -> None:
        self.made.append(what)
        self._world.trace.add(f"fault {what}")

    def _victim(self) -> SimPeer | None:
        if len(self._down) + 1 > max(1, int(MAX_DOWN * len(self._world.peers))):
            return None
        candidates = [peer for peer in self._world.living if peer.number not in self._down]
        return self._random.choice(candidates) if len(candidates) > 1 else None

    async def _crash(self) -> None:
        peer = self._victim()
        if peer is None:
            return
        self._down.add(peer.number)
        self._note(f"crash {peer.number}")
        self._world.crash(peer)
        await asyncio.sleep(self._random.uniform(1.0, 20.0))
        self._world.start(peer)
        self._down.discard(peer.number)

    async def _freeze(self) -> None:
        peer = self._victim()
        if peer is None:
            return
        self._down.add(peer.number)
        self._note(f"freeze {peer.number}")
        self._world.hub.freeze(peer.key)
        await asyncio.sleep(self._random.uniform(1.0, 15.0))
        self._world.hub.release()
        self._down.discard(peer.number)

    async def _hole(self) -> None:
        sender, receiver = self._random.sample(self._world.peers, 2)
        self._note(f"hole {sender.number} to {receiver.number}")
        self._world.hub.hold(sender.key, receiver.key)
        await asyncio.sleep(self._random.uniform(2.0, 20.0))
        self._world.hub.release()

    async def _partition(self) -> None:
        peers = list(self._world.peers)
        self._random.shuffle(peers)
        size = self._random.randint(1, len(peers) - 1)
        self._note("partition " + " ".join(str(peer.number) for peer in peers[:size]))
        self._world.hub.partition([peer.key for peer in peers[:size]])
        await asyncio.sleep(self._random.uniform(2.0, 25.0))
        self._world.hub.heal()

    async def _cut(self) -> None:
        one, other = self._random.sample(self._world.peers, 2)
        self._note(f"cut {one.number} {other.number}")
        self._world.hub.cut(one.key, other.key)

    async def _slow(self) -> None:
        peer = self._random.choice(self._world.peers)
        node = peer.node
        if node is None:
            return
        self._note(f"slow {peer.number}")
        network = self._world.hub.find(peer.key, seen_from=peer.key)
        usual = peer.link
        if network is not None:
            network.link = replace(usual, upload=20e3, download=20e3)
        await asyncio.sleep(self._random.uniform(5.0, 20.0))
        if network is not None:
            network.link = usual
