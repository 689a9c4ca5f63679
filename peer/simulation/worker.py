"""A process that simulates some seeds and prints a line of JSON for each.

`python -m talkoot.peer.simulation.worker PEERS ROUNDS KINDS EXCHANGE SEED...`
"""

import gc
import json
import logging
import sys

import torch

from talkoot.peer.manifest import Exchange
from talkoot.peer.simulation.run import run_seed

EXCHANGES: dict[str, Exchange | None] = {"dense": "dense", "sparse": "sparse", "any": None}


def main() -> int:
    """Simulate; returns the exit code."""
    peers, rounds = int(sys.argv[1]), int(sys.argv[2])
    kinds = tuple(kind for kind in sys.argv[3].split(",") if kind)
    exchange = EXCHANGES[sys.argv[4]]
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    gc.freeze()  # modules stay
    gc.set_threshold(50_000, 20, 20)  # swarms end with their seed; looking for garbage all the time is slow
    for seed in map(int, sys.argv[5:]):
        result, lines = run_seed(peers=peers, seed=seed, kinds=kinds, rounds=rounds, exchange=exchange)
        answer = result.as_json() | ({"trace": lines[-200:]} if result.failed else {})
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
