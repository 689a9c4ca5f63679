"""Whole nodes and one that lies: it is proven and banned, and nobody else ever is."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from talkoot.averaging.certificate import Certificate
from talkoot.peer.manifest import Compression
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.villains import (
    Villainy,
    accuse,
    equivocate,
    lie,
    withhold_from,
    withhold_slices,
)
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World

NUM_PEERS = 5
PLAIN = Compression(codec="int8", aggregate_codec="int8")


class Trial:
    """A swarm that runs honestly for a while before one of its peers turns."""

    def __init__(self, folder: Path) -> None:
        self.world = World(
            NUM_PEERS, 1, folder, witness=lambda *_: None, on_head=self._head, compression=PLAIN
        )
        self.world.hub.on_banned = self._banned
        self.bans: dict[bytes, set[bytes]] = {}
        """By banned peer: who bans it."""
        self.banned_at: dict[bytes, int] = {}
        """In which round the first did."""
        self.cuts: list[set[bytes]] = []
        self.reducers: list[set[bytes]] = []
        self.heads: dict[int, set[bytes]] = {}
        self.round = -1
        self._moved = asyncio.Event()

    def _head(self, peer: SimPeer, certificate: Certificate) -> None:
        if peer.number == 0:
            return  # the villain: cut off, it goes on alone
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

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(600.0):
            while not reached():
                self._moved.clear()
                await self._moved.wait()

    def play(self, turn: Villainy, reached: Callable[["Trial"], bool], *, villain: int = 0) -> None:
        """Two honest rounds, then until it comes to that."""

        async def script() -> None:
            await self.until(lambda: self.round >= 1)
            node = self.world.peers[villain].node
            assert node is not None
            turn(node)
            self.turned = self.round
            await self.until(lambda: reached(self))

        with stand_in_signatures(), simulated_disks():
            run_virtual(self.world.run(script))

    def key(self, number: int) -> bytes:
        return self.world.peers[number].key


def banned_by_all(trial: Trial) -> bool:
    return len(trial.bans.get(trial.key(0), ())) == NUM_PEERS - 1


@pytest.mark.parametrize(("villainy", "within"), [(lie, 20), (equivocate, 2)])
def test_a_reducer_that_lies_is_proven_and_banned(tmp_path: Path, villainy: Villainy, within: int) -> None:
    trial = Trial(tmp_path)
    trial.play(villainy, lambda t: banned_by_all(t) and t.round >= t.banned_at[t.key(0)] + 3)
    liar = trial.key(0)
    assert set(trial.bans) == {liar}  # nobody else, in nobody's opinion
    assert trial.banned_at[liar] - trial.turned <= within
    assert all(liar not in reducers for reducers in trial.reducers[-2:])
    assert all(len(digests) == 1 for digests in trial.heads.values())


def test_who_does_not_produce_what_it_claims_to_hold_gets_no_part_and_no_ban(tmp_path: Path) -> None:
    trial = Trial(tmp_path)

    def doubted(t: Trial) -> bool:
        nodes = [peer.node for peer in t.world.peers[1:] if peer.node is not None]
        return all(t.key(0) in node.proofs.convictions.barred(t.round + 1) for node in nodes)

    trial.play(withhold_slices, doubted)
    assert trial.bans == {}


def test_a_contribution_that_is_withheld_from_one_is_left_out(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.play(withhold_from(trial.key(1)), lambda t: t.round >= t.turned + 5)
    late = [
        cut
        for cut, reducers in zip(trial.cuts[2:], trial.reducers[2:], strict=True)
        if trial.key(1) in reducers
    ]
    assert late
    assert all(trial.key(0) not in cut for cut in late[1:])
    assert trial.bans == {}


def test_a_false_accusation_falls_back_on_who_makes_it(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    victim = trial.key(1)

    def refused(t: Trial) -> bool:
        nodes = [peer.node for peer in t.world.peers[2:] if peer.node is not None]  # the victim is not told
        return all(node.conduct.standing(t.key(0)).points > 0 for node in nodes)

    trial.play(accuse(victim), lambda t: refused(t) and t.round >= t.turned + 2)
    assert set(trial.bans) <= {trial.key(0)}
    assert any(victim in reducers for reducers in trial.reducers[-2:])
