"""Whole nodes that train a real model, one of which contributes the opposite: it is judged and left out."""

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from talkoot.averaging.audits import Audits
from talkoot.averaging.certificate import Certificate
from talkoot.averaging.reputation import left_out
from talkoot.averaging.robustness import Robustness
from talkoot.peer.attacks.node_trainer import ModelTrainer
from talkoot.peer.attacks.swarm import Laboratory, Setting, first_weights
from talkoot.peer.judging.services import judging_of
from talkoot.peer.manifest import Compression, Exchange
from talkoot.peer.peers import listed
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.tasks import OnEvent, Task
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World
from talkoot.peer.trainer.protocol import TrainerSpec

NUM_PEERS = 4
MOST_ROUNDS = 30


class Backwards(ModelTrainer):
    """Trains, and goes the other way by as much."""

    def _move(self) -> None:
        before_P = self._local.clone()
        super()._move()
        self._local = torch.sub(torch.mul(before_P, 2), self._local)


@dataclass(slots=True)
class Seen:
    """What the honest peers have come to."""

    digests: dict[int, set[bytes]] = field(default_factory=dict)
    out: set[int] = field(default_factory=set)
    """Peers whose ledger leaves the harmful one out."""
    scores: dict[bool, list[int]] = field(default_factory=lambda: {True: [], False: []})
    """In certificates: on the harmful peer, and on others."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)


def _world(folder: Path, exchange: Exchange, seen: Seen) -> World:
    setting = Setting(workers=NUM_PEERS, robustness=Robustness(norm_cap="whole"))
    theta_P = first_weights(setting)
    workers = Laboratory(max_bytes=1 << 20).workers(setting, theta_P)

    def make(peer: SimPeer, spec: TrainerSpec, on_event: OnEvent, start_s: float) -> ModelTrainer:
        kind = Backwards if peer.number == 0 else ModelTrainer
        numel, steps = theta_P.numel(), setting.inner_steps
        return kind(spec, on_event, worker=workers[peer.number], numel=numel, steps=steps, start_s=start_s)

    def on_head(peer: SimPeer, certificate: Certificate) -> None:
        value = certificate.value
        seen.digests.setdefault(value.round, set()).add(value.digest)
        assert peer.node is not None
        assert peer.node.holdings is not None
        if peer.number and left_out([world.peers[0].key], peer.node.holdings.ledger):
            seen.out.add(peer.number)
        if peer.number == 1 and isinstance(value.verdicts, tuple):
            for verdict in value.verdicts:
                seen.scores[verdict.subject == world.peers[0].key].append(verdict.score)
        seen.moved.set()

    world = World(
        NUM_PEERS,
        0,  # no archivist in this seed
        folder,
        witness=lambda _key, _message: None,
        on_head=on_head,
        exchange=exchange,
        real_signatures=True,
        compression=Compression(codec="int8", aggregate_codec="int8"),
        task=Task(
            numel=theta_P.numel(),
            chunk_size=-(-theta_P.numel() // NUM_PEERS),
            inner_steps=setting.inner_steps,
            robustness=setting.robustness,
            make_trainer=make,
            start_peers=NUM_PEERS,
            theta=theta_P,
            audits=Audits(trainers=True),
        ),
    )
    return world


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
def test_who_contributes_the_opposite_is_judged_and_left_out(
    tmp_path: Path, exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    world = _world(tmp_path, exchange, seen)

    def was_told() -> bool:
        """The harmful one, by its own log."""
        return any(record.getMessage().startswith("our ") for record in caplog.records)

    async def script() -> None:
        while (len(seen.out) < NUM_PEERS - 1 or not was_told()) and len(seen.digests) < MOST_ROUNDS:
            seen.moved.clear()
            await seen.moved.wait()
        for peer in world.peers[1:]:
            node = peer.node
            assert node is not None
            (entry,) = [one for one in listed(node) if one["peer_id"] == world.peers[0].identity.peer_id]
            assert entry["standing"] == "left_out"
            assert entry["reputation"] < 0
            told = judging_of(node)
            assert told is not None
            assert told["last"] is not None

    with simulated_disks(), caplog.at_level(logging.WARNING, "talkoot.audit"):
        run_virtual(world.run(script))
    assert len(seen.out) == NUM_PEERS - 1
    assert all(len(digests) == 1 for digests in seen.digests.values())
    assert sum(seen.scores[True]) < 0 < sum(seen.scores[False])
    assert was_told()
    assert any("left out" in record.getMessage() for record in caplog.records)
