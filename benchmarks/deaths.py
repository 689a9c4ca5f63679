"""Kills one of four peers at every boundary between two messages of a round, in the bare state machine.

A line for each victim: boundaries, of these with the victim's aggregate at some survivors but not all, and
how many ended with all survivors on the same bits. Exit code 1 unless all did.

    python benchmarks/deaths.py [--seeds 3]
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from death_rig import ROLES, deaths


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    total = partial = agreed = 0
    for seed in range(options.seeds):
        for clients in (0, 1):
            for victim, role in enumerate(ROLES):
                seen = list(deaths(victim, seed=seed, clients=clients))
                good = sum(death.agreed for death in seen)
                some = sum(death.partial for death in seen)
                name = "plain" if clients and victim == len(ROLES) - 1 else role
                sys.stdout.write(
                    f"seed {seed}, {4 - clients} reducers, victim {name}: {good} of {len(seen)} agreed, "
                    f"{some} of them with its result at some only; "
                    f"at most {max(death.attempts_lost for death in seen)} attempts lost\n"
                )
                sys.stdout.flush()
                total, partial, agreed = total + len(seen), partial + some, agreed + good
    sys.stdout.write(f"{agreed} of {total} agreed; {partial} with the victim's result at some only\n")
    return 0 if agreed == total else 1


if __name__ == "__main__":
    sys.exit(main())
