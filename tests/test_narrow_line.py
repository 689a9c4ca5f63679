"""A newcomer with a low limit gets a state over real channels, though several sources offer it at once."""

import asyncio
from pathlib import Path

import pytest
from dht_rig import Node, Rig
from fetch_rig import SPEC, SWARM, State, answer_honestly

from talkoot.averaging.digest import CHUNK_BYTES
from talkoot.peer.assembly import Assembly
from talkoot.peer.fetching import Fetch
from talkoot.peer.generation import Generation
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.transfer import StateClient

pytestmark = [pytest.mark.processes, pytest.mark.trial]

SOURCES = 4
RATE = 200e3


def test_each_chunk_comes_whole_from_somebody(tmp_path: Path) -> None:
    state = State(2 * CHUNK_BYTES // 4)
    staged = Generation.map(tmp_path, state.numel)
    assembly, progress = Assembly(staged, state.tree), SyncProgress(now=lambda: 0.0)
    progress.begin(assembly.total_bytes)
    blamed: list[Exception] = []
    rig = Rig("uvloop")

    def serve(node: Node) -> None:
        node.network.serve(SPEC, lambda channel: answer_honestly(state, channel))

    async def main() -> None:
        async with rig.swarm(SOURCES + 1, serve) as (newcomer, *sources):
            newcomer.network.pacing.limit(0.0, RATE)
            clients = [await StateClient.connect(newcomer.network, node.key, SWARM) for node in sources]
            go = asyncio.Event()
            go.set()
            fetch = Fetch(
                state.tree.digest, assembly, clients, progress, lambda _, error: blamed.append(error), go
            )
            await fetch.run()

    rig.run(main(), timeout_s=120.0)
    assert not assembly.missing
    assert blamed == []
    assert progress.wasted_bytes <= 2 * CHUNK_BYTES  # what may be asked for again at the end, of any download
