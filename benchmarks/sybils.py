"""What an attacker with many keys and few addresses gets: 20 honest peers, 80 Sybils behind 8 prefixes.

* eclipse: how many of the peers that a restarted victim chose are honest, ten minutes after its start;
* admission: what Sybils earn in an open swarm with audits that send zeros, noise, or copies of earlier work;
* ground keys: what grinding 64 keys for leadership gains;
* solo chain: 10,000 rounds forged by one alone, with the largest claims of work;
* old keys: voters that left long ago rewrite final rounds for a joiner with a fresh anchor.

Everything that decides is a node's own code. One line a trial, and exit code 1 where a target is missed.

    python benchmarks/sybils.py [--only TRIAL ...] [--trials 50] [--rounds 10000] [--json FILE]
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sybils_chains import ground_keys, old_keys, solo_chain
from sybils_eclipse import Eclipse
from sybils_ledger import KINDS, admission

HALF = 0.5
ENOUGH = 0.95
"""Share of the trials in which at least half of the victim's peers have to be honest."""


def eclipse(trials: int) -> dict[str, Any]:
    """All trials of that kind; every fifth has the same trick."""
    worst: dict[str, float] = {}
    first, good, looks = [], 0, 0
    for seed in range(trials):
        trial = Eclipse(seed)
        trial.play()
        good += trial.shares[-1] >= HALF
        looks = max(
            looks, next((n for n, share in enumerate(trial.shares) if share >= HALF), len(trial.shares))
        )
        first.append(trial.shares[0])
        worst[trial.trick] = min(worst.get(trial.trick, 1.0), trial.shares[-1])
    return {
        "trial": "eclipse", "trials": trials, "half_honest": good / trials, "worst_first_look": min(first),
        "looks_until_half": looks, "worst": worst, "ok": good >= ENOUGH * trials,
    }  # fmt: skip


def main() -> int:
    """Run all trials."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="TRIAL")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10_000, help="forged, and led")
    parser.add_argument("--admission-rounds", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "eclipse": lambda: eclipse(options.trials),
        **{
            f"admission, {kind}": partial(admission, kind, options.trials, options.admission_rounds)
            for kind in KINDS
        },
        "ground keys": lambda: ground_keys(options.rounds),
        "solo chain": lambda: solo_chain(options.rounds),
        "old keys": lambda: old_keys(options.trials),
    }
    for name in options.only or ():
        if name not in runs:
            parser.error(f"--only {name} is unknown; known: {'; '.join(runs)}")
    results = []
    for name in options.only or runs:
        results.append(runs[name]())
        print(json.dumps(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(result["ok"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
