"""A slow uplink in a sparse exchange: the network in memory, a virtual clock, the code of a real round.

One peer uploads ten times slower than the others. Counted is how many copies of its contribution it sends,
and how much it passes on of what others contributed; nothing is trained, and computing takes no time.
"""

import asyncio
from collections import Counter
from typing import Any

from talkoot.averaging import outputs
from talkoot.averaging.blobs import Layout
from talkoot.averaging.round import Round
from talkoot.dht.memory import Link, MemoryHub
from talkoot.peer.bench_round_worker import Bench, link_up
from talkoot.peer.links import Links
from talkoot.peer.runner import Runner
from talkoot.peer.simulation.virtual_time import run_virtual

UPLOAD = 2.5e6
"""Bytes/s: 20 Mbit/s."""

SLOWER = 10
LATENCY_S = 0.02
MAX_NUMEL = 8_000_000
"""Elements; larger vectors take memory, not insight."""


class _Counting(Runner):
    """Counts pieces by whose they are."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: Counter[bytes] = Counter()

    async def _perform(self, machine: Round, output: outputs.Output) -> None:
        if isinstance(output, outputs.SendBulk) and output.header.kind == "piece":
            self.pieces[output.header.owner] += 1
        await super()._perform(machine, output)


class _Peer:
    def __init__(self, hub: MemoryHub, bench: Bench, link: Link) -> None:
        self.bench = bench
        self.runner = _Counting()
        self.network = hub.node(bench.identity, swarm=bench.rules.swarm, link=link)
        self.complete = asyncio.Event()
        self.links = link_up(self.network, bench, self.runner, self._changed, Links)

    def _changed(self, count: int) -> None:
        if count == self.bench.peers - 1:
            self.complete.set()

    async def run(self) -> None:
        """Be there until cancelled."""
        async with asyncio.TaskGroup() as group:
            started = asyncio.Event()
            group.create_task(self.network.run(started=started.set))
            await started.wait()
            group.create_task(self.links.run())
            group.create_task(self.runner.run())
            await asyncio.sleep(0)  # the links own their tasks now
            self.links.keep(frozenset(self.bench.voters))

    @property
    def copies(self) -> float:
        """How often this peer sent its own contribution."""
        return self.runner.pieces[self.bench.identity.key] / self._num_pieces

    @property
    def relayed(self) -> float:
        """Contributions' worth of others' pieces that it sent."""
        return self.runner.pieces.total() / self._num_pieces - self.copies

    @property
    def _num_pieces(self) -> int:
        return Layout(self.bench.rules, self.bench.codec).num_pieces


def measure(*, peers: int, numel: int, codec: str) -> dict[str, Any]:
    """One round; the first peer is the slow one."""
    return run_virtual(_round(peers, min(numel, MAX_NUMEL), codec))


async def _round(peers: int, numel: int, codec: str) -> dict[str, Any]:
    hub = MemoryHub(seed=peers)
    made = []
    for number in range(peers):
        upload = UPLOAD / SLOWER if number == 0 else UPLOAD
        bench = Bench(number, peers, numel, codec, "sparse")
        made.append(_Peer(hub, bench, Link(latency_s=LATENCY_S / 2, upload=upload)))
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(peer.run()) for peer in made]
        for peer in made:
            await peer.complete.wait()
        began = loop.time()
        for peer in made:
            peer.runner.set_round(peer.bench.begin(0))
        for peer in made:
            peer.runner.close()
        slow, *others = made
        for peer in others:
            await peer.bench.done.wait()
        seconds = loop.time() - began
        await slow.bench.done.wait()
        all_seconds = loop.time() - began
        for task in tasks:
            task.cancel()
    return _figures(made, seconds, all_seconds)


def _figures(made: list[_Peer], seconds: float, all_seconds: float) -> dict[str, Any]:
    slow, *others = made
    bench = slow.bench
    size = Layout(bench.rules, bench.codec).blob_bytes
    everything = len(made) * (len(made) - 1) * size / (UPLOAD * (len(others) + 1 / SLOWER))
    return {
        "peers": len(made),
        "upload_bytes_per_s": UPLOAD / SLOWER,
        "upload_bytes_per_s_of_others": UPLOAD,
        "blob_bytes": size,
        "copies_of_its_blob": round(slow.copies, 3),
        "blobs_passed_on": round(slow.relayed, 3),
        "copies_of_theirs_by_others": round(max(peer.copies for peer in others), 3),
        "seconds_of_others": round(seconds, 2),
        "seconds_of_the_slow_one": round(all_seconds, 2),
        "seconds_at_least": round(max(size * SLOWER / UPLOAD, everything), 2),
        "digests_equal": len({peer.bench.digest for peer in made}) == 1,
    }
