"""How soon a reducer that lies is banned, and who else is: whole nodes on the virtual clock.

In each trial one peer of an honest swarm turns and lies to all about the last number of its part, or tells
every other peer something else about it. Audits are at their default, one part a peer and round. It lies in
rounds in which it has a part; how many of those it took is what counts. One line a trial; exit code 1 when
one took more of them than its limit or anybody else was banned.

    python benchmarks/lying_reducers.py [--peers 8] [--seeds 5] [--first 0] [--json FILE]
"""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from talkoot.peer.node import Node
from talkoot.peer.simulation.trial import Trial
from talkoot.peer.simulation.villains import equivocate, lie, note_parts

KINDS = {"lie": (lie, 20), "equivocate": (equivocate, 2)}
"""What the villain does, and within how many rounds in which it does so it is to be banned."""

MAX_ROUNDS = 100
"""After so many it is let go, whether it lied or not."""


def run(kind: str, peers: int, seed: int) -> dict[str, Any]:
    """One trial."""
    turn, limit = KINDS[kind]
    lied_in: set[int] = set()

    def turn_and_note(node: Node) -> None:
        turn(node)
        note_parts(node, lied_in)

    with tempfile.TemporaryDirectory(prefix="talkoot-lying-") as folder:
        trial = Trial(Path(folder), peers, seed)
        trial.play(
            turn_and_note,
            lambda: trial.villain_is_out or len(lied_in) > limit or trial.round > trial.turned + MAX_ROUNDS,
        )
    liar = trial.key(0)
    detected = trial.rounds_to_ban if trial.villain_is_out else None
    last = trial.banned_at.get(liar, trial.round) + 1  # the running round
    lies = sum(number <= last for number in lied_in)
    return {
        "attack": kind,
        "n": peers,
        "f": 1,
        "seed": seed,
        "detected_after": detected,
        "lied_in_rounds": lies,
        "honest_banned": len(trial.bans.keys() - {liar}),
        "reached": detected is not None and lies <= limit,
    }


def main() -> int:
    """Run all trials."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    results = []
    for kind in KINDS:
        for seed in range(options.first, options.first + options.seeds):
            result = run(kind, options.peers, seed)
            results.append(result)
            print(json.dumps(result), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(r["reached"] and not r["honest_banned"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
