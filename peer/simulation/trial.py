"""One peer of an honest swarm turns, and what becomes of it: who bans whom, and after how many rounds."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from talkoot.averaging.certificate import Certificate
from talkoot.peer.manifest import Compression
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.villains import Villainy
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World

PLAIN = Compression(codec="int8", aggregate_codec="int8")

HONEST_ROUNDS = 2
"""Before the villain turns."""

LIMIT_S = 1800.0
"""Virtual time after which nothing more is waited for."""


class Trial:
    """Peer 0 is the villain. What is recorded is what the others see."""

    def __init__(self, folder: Path, num_peers: int, seed: int = 1) -> None:
        """In an empty folder; nothing runs yet."""
        self.world = World(
            num_peers, seed, folder, witness=lambda *_: None, on_head=self._head, compression=PLAIN
        )
        self.world.hub.on_banned = self._banned
        self.bans: dict[bytes, set[bytes]] = {}
        """By banned peer: who bans it."""
        self.banned_at: dict[bytes, int] = {}
        """In which round the first did."""
        self.cuts: list[set[bytes]] = []
        """By round: whose contributions counted."""
        self.reducers: list[set[bytes]] = []
        """By round: who reduced."""
        self.heads: dict[int, set[bytes]] = {}
        """By round: digests of the states after it."""
        self.round = -1
        self.turned = -1
        """The last round before the villain turned."""
        self._moved = asyncio.Event()

    def _head(self, peer: SimPeer, certificate: Certificate) -> None:
        if peer.number == 0:
            return  # cut off, it goes on alone
        value = certificate.value
        self.heads.setdefault(value.round, set()).add(value.digest)
        if value.round > self.round:
            self.round = value.round
            self.cuts.append({item.key for item in value.cut})
            self.reducers.append({part.reducer for part in value.parts})
        self._moved.set()

    def _banned(self, node: bytes, peers: frozenset[bytes]) -> None:
        for peer in peers:
            self.bans.setdefault(peer, set()).add(node)
            self.banned_at.setdefault(peer, self.round)
        self._moved.set()

    def key(self, number: int) -> bytes:
        """The key of a peer."""
        return self.world.peers[number].key

    @property
    def villain_is_out(self) -> bool:
        """Whether all others ban it."""
        return len(self.bans.get(self.key(0), ())) == len(self.world.peers) - 1

    @property
    def rounds_to_ban(self) -> int:
        """Rounds from the turn to the first ban of the villain."""
        return self.banned_at[self.key(0)] - self.turned

    def play(self, turn: Villainy, reached: Callable[[], bool]) -> None:
        """Some honest rounds, the turn, then until it comes to that. Raises TimeoutError in a group."""

        async def script() -> None:
            await self._until(lambda: self.round >= HONEST_ROUNDS - 1)
            node = self.world.peers[0].node
            assert node is not None
            self.turned = self.round
            turn(node)
            await self._until(reached)

        with stand_in_signatures(), simulated_disks():
            run_virtual(self.world.run(script))

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not reached():
                self._moved.clear()
                await self._moved.wait()
