"""How fast an outer state is hashed: in memory, from mapped files that are in the page cache, and in threads.

    python benchmarks/hashing.py [--numel 60000000] [--repeat 5] [--dir DIR] [--json FILE]

Prints GB/s (10**9 bytes) of parameters and momentum together, the best of the repetitions.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from talkoot.averaging.digest import state_tree
from talkoot.peer.generation import Generation
from talkoot.peer.hashing import hash_state

LEDGER = b"ledger"


def best_s(call: Callable[[], object], repeat: int) -> float:
    """Seconds of the quickest of some calls."""
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)


def measure(path: Path, numel: int, repeat: int) -> dict[str, float]:
    """GB/s by way of hashing."""
    made = Generation.map(path, numel)
    generator = torch.Generator().manual_seed(1)
    for vector in (made.theta, made.momentum):
        vector.copy_(torch.randn(numel, generator=generator))
    theta, momentum = made.theta.clone(), made.momentum.clone()
    assert hash_state(made.theta, made.momentum, LEDGER) == state_tree(theta, momentum, LEDGER)
    made.sync(lambda _step: None)

    def mapped_again() -> None:
        made.release()
        hash_state(made.theta, made.momentum, LEDGER)

    ways: dict[str, Callable[[], object]] = {
        "memory, 1 thread": lambda: state_tree(theta, momentum, LEDGER),
        "memory, 2 threads": lambda: hash_state(theta, momentum, LEDGER, threads=2),
        "memory, default": lambda: hash_state(theta, momentum, LEDGER),
        "mapped, resident": lambda: hash_state(made.theta, made.momentum, LEDGER),
        "mapped, released": mapped_again,
    }
    return {name: 8e-9 * numel / best_s(call, repeat) for name, call in ways.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--numel", type=int, default=60_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        found = measure(Path(folder) / "generation", arguments.numel, arguments.repeat)
    print(f"{8e-6 * arguments.numel:,.0f} MB on {os.cpu_count()} cores")
    for name, rate in found.items():
        print(f"{name:20} {rate:6.2f} GB/s")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"numel": arguments.numel, "gb_per_s": found}))


if __name__ == "__main__":
    main()
