"""The first round begins when enough peers are there, which a node is told: it does not keep looking."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from talkoot.peer.simulation import world as worlds
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World
from talkoot.peer.swarm_view import SwarmView


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every time that a node counts who is there."""
    found: list[int] = []
    ready = SwarmView.ready

    def counting(view: SwarmView, digest: bytes) -> int:
        found.append(ready(view, digest))
        return found[-1]

    monkeypatch.setattr(SwarmView, "ready", counting)
    return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two peers, who begin together."""
    manifest = worlds._manifest

    def of_two(*arguments: Any) -> Any:
        made = manifest(*arguments)
        return replace(made, swarm=replace(made.swarm, start_peers=2))

    monkeypatch.setattr(worlds, "_manifest", of_two)
    return World(2, 1, tmp_path, witness=lambda *_: None, on_head=lambda *_: None)


def state_of(peer: SimPeer) -> str:
    assert peer.node is not None
    return peer.node.state


def test_who_is_alone_waits_for_the_others_announcements(world: World, looks: list[int]) -> None:
    waited_s = 100.0

    async def script() -> None:
        first, second = world.peers
        world.crash(second)
        await asyncio.sleep(waited_s)  # virtual time
        assert state_of(first) == "paused"
        announcements = waited_s / world.manifest.round.announce_s
        assert 0.5 * announcements < len(looks) <= announcements + 1
        assert set(looks) == {0}
        world.start(second)
        await asyncio.sleep(4.0 + 2 * world.manifest.round.announce_s)
        assert [state_of(peer) for peer in world.peers] == ["training", "training"]
        assert set(looks) == {0, 1}

    with simulated_disks(), stand_in_signatures():
        run_virtual(world.run(script))
