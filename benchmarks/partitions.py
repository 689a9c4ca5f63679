"""How soon a swarm is one again after a partition: whole nodes on the virtual clock.

Splits 8 peers in two for a while: both ways (every other seed breaks the connections at once, the rest
only loses what is sent) and one way. After healing it counts the rounds that the surviving
branch takes until all peers hold one state. One line a seed, then the worst of each kind; exit code 1
when one took more than `TARGET` rounds.

    python benchmarks/partitions.py [--peers 8] [--seeds 20] [--first 0] [--json FILE]
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import torch

from talkoot.averaging.certificate import Certificate
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World

TARGET = 2
"""Rounds after healing within which all hold one state."""

LIMIT_S = 600.0
"""Virtual time after which a swarm counts as split for good."""


class Partition:
    """One seed: a swarm, a split, and when it was one again."""

    def __init__(self, peers: int, seed: int, kind: str, folder: Path) -> None:
        self.seed, self.kind = seed, kind
        self._random = Random(f"partition {seed} {kind}")
        self._first_seen: dict[bytes, float] = {}
        self._moved = asyncio.Event()
        self.world = World(peers, seed, folder, witness=lambda _key, _message: None, on_head=self._head)
        self.result: dict[str, Any] = {}

    def _head(self, _peer: SimPeer, certificate: Certificate) -> None:
        self._first_seen.setdefault(certificate.value.digest, self._now)
        self._moved.set()

    @property
    def _now(self) -> float:
        return self.world.clock.time()

    def _slowest(self) -> int:
        return min(peer.round for peer in self.world.peers)

    def _digests(self) -> set[bytes]:
        nodes = [peer.node for peer in self.world.peers]
        return {node.holdings.digest for node in nodes if node is not None and node.holdings is not None}

    async def _until(self, reached: Callable[[], bool]) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                while not reached():
                    self._moved.clear()
                    await self._moved.wait()
        return reached()

    async def play(self) -> None:
        """Meet, part, go on apart, meet again."""
        await self._until(lambda: self._slowest() >= 2)
        peers = list(self.world.peers)
        self._random.shuffle(peers)
        size = self._random.randint(1, len(peers) // 2)
        one, other = peers[:size], peers[size:]
        apart_s = self._random.uniform(20.0, 90.0)
        if self.kind == "two-way" and self.seed % 2:
            self.world.hub.partition([peer.key for peer in one])
        else:
            ways = [(sender.key, receiver.key) for sender in one for receiver in other]
            self.world.hub.hold(*ways)
            if self.kind == "two-way":
                self.world.hub.hold(*((receiver, sender) for sender, receiver in ways))
        before = [peer.round for peer in peers]
        await asyncio.sleep(apart_s)  # the partition lasts, on the virtual clock
        heads = len(self._digests())
        gained = [peer.round - then for peer, then in zip(peers, before, strict=True)]
        self.world.hub.heal()
        self.world.hub.release()
        healed = self._now
        together = heads == 1 or await self._until(lambda: len(self._digests()) == 1)
        self.result = {
            "kind": self.kind,
            "seed": self.seed,
            "sides": [size, len(peers) - size],
            "apart_s": round(apart_s, 1),
            "heads": heads,
            "rounds_apart": [max(gained[:size]), max(gained[size:])],
            "rounds": self._rounds_since(healed) if together else None,
            "seconds": round(self._now - healed, 1),
        }

    def _rounds_since(self, healed: float) -> int:
        """Rounds of the chain that all hold now that nobody held before the healing."""
        holdings = next(peer.node.holdings for peer in self.world.peers if peer.node is not None)
        assert holdings is not None
        chain = [certificate.value.digest for certificate in holdings.certificates(1)]
        return sum(1 for digest in chain if self._first_seen[digest] > healed)


def measure(peers: int, seed: int, kind: str) -> dict[str, Any]:
    """Play one seed."""
    shared_memory = Path("/dev/shm")
    where = str(shared_memory) if shared_memory.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as folder, simulated_disks(), stand_in_signatures():

        async def main() -> dict[str, Any]:
            partition = Partition(peers, seed, kind, Path(folder))
            await partition.world.run(partition.play)
            return partition.result

        return run_virtual(main())


def _line(result: dict[str, Any]) -> str:
    rounds = "never" if result["rounds"] is None else f"{result['rounds']} rounds"
    (one, other), (ones, others) = result["sides"], result["rounds_apart"]
    return (
        f"{result['kind']} seed {result['seed']}: {one} and {other} peers apart for "
        f"{result['apart_s']:.0f} s, {ones} and {others} rounds, {result['heads']} states; "
        f"one again after {rounds}, {result['seconds']:.1f} s\n"
    )


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", choices=("two-way", "one-way"), action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--log", action="store_true", help="show the nodes' log lines")
    options = parser.parse_args()
    if options.log:
        logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    else:
        logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    results = []
    for kind in options.kind or ("two-way", "one-way"):
        for seed in range(options.first, options.first + options.seeds):
            result = measure(options.peers, seed, kind)
            results.append(result)
            sys.stdout.write(_line(result))
            sys.stdout.flush()
    late = [result for result in results if result["rounds"] is None or result["rounds"] > TARGET]
    sys.stdout.write(f"{len(results) - len(late)} of {len(results)} one again within {TARGET} rounds\n")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
