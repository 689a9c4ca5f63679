"""What the default rule costs where nobody lies: held-out loss against that of the plain mean.

    python benchmarks/clean_cost.py [--n 16] [--seeds 10] [--repeats 3] [--model llama] [--jobs 2]
        [--out FILE]

Training is chaotic: runs that differ in a bit at first end up to a few per cent apart, whatever the rule. So
one run of each rule says little, and the mean's one run is a draw like any other. Each rule trains
`--repeats` times from each seed, every time with all pseudo-gradients scaled by another factor, which is 1 to
within 1e-4 for each two repeats, and losses are averaged over those before rules are compared, seed by seed.
`--out` keeps what was run, and what it has is not run again. Prints the difference in per cent with its
standard error over the seeds, and beside it how far runs of one rule and one seed are apart, which is what
chance alone does.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from itertools import product
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any

import torch

from talkoot.peer import presets
from talkoot.peer.attacks.rules import parse_rule
from talkoot.peer.attacks.swarm import MODELS, Laboratory, Setting, Training

Json = dict[str, Any]

RULES = ("mean", "default")
STEP = 1e-4
"""Between the factors of two repeats."""


def factor_of(repeat: int) -> float:
    """1, then a little more, a little less, and so on."""
    return 1.0 + STEP * ((repeat + 1) // 2) * (-1) ** (repeat + 1)


@cache
def laboratory() -> Laboratory:
    """Of this process."""
    torch.set_num_threads(1)
    return Laboratory()


def run(key: Json) -> Json:
    """One training run."""
    setting = Setting(
        model=key["model"],
        workers=key["n"],
        liars=0,
        rounds=key["rounds"],
        codec="int8",
        robustness=parse_rule(key["rule"]),
        seed=key["seed"],
        audits=presets.make("public", name="bench").audits if key["rule"] == "default" else None,
        factor=factor_of(key["repeat"]),
    )
    training = Training(laboratory(), setting, None)
    for _ in training.rounds():
        pass
    return key | {"loss": training.loss()}


def wanted(options: argparse.Namespace) -> Iterator[Json]:
    """All runs, seed by seed."""
    for seed, repeat, rule in product(range(options.seeds), range(options.repeats), RULES):
        size = {"model": options.model, "n": options.n, "rounds": options.rounds}
        yield size | {"rule": rule, "seed": seed, "repeat": repeat}


def measure(options: argparse.Namespace) -> list[Json]:
    """What is there of it, and the rest run."""
    rows = json.loads(options.out.read_text()) if options.out is not None and options.out.exists() else []
    known = [{name: row[name] for name in row if name != "loss"} for row in rows]
    found = [row for row in rows if {name: row[name] for name in row if name != "loss"} in wanted(options)]
    with ProcessPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(run, key) for key in wanted(options) if key not in known]
        for done in as_completed(runs):
            row = done.result()
            rows.append(row)
            found.append(row)
            print(f"seed {row['seed']}, {row['rule']}, {row['repeat']}: {row['loss']:.4f}", file=sys.stderr)
            if options.out is not None:
                options.out.write_text(json.dumps(rows) + "\n")
    return found


def report(rows: list[Json], options: argparse.Namespace) -> None:
    """Print it."""
    losses = {
        (rule, seed): [row["loss"] for row in rows if (row["rule"], row["seed"]) == (rule, seed)]
        for rule, seed in product(RULES, range(options.seeds))
    }
    costs = []
    for seed in range(options.seeds):
        mean, default = (fmean(losses[rule, seed]) for rule in RULES)
        costs.append(100 * (default / mean - 1))
        each = "; ".join(f"{rule} {' '.join(f'{loss:.4f}' for loss in losses[rule, seed])}" for rule in RULES)
        print(f"seed {seed}: {each}; {costs[-1]:+.2f} %")
    if options.repeats > 1:
        for rule in RULES:
            apart = sqrt(fmean(variance(losses[rule, seed]) for seed in range(options.seeds)))
            middle = fmean(fmean(losses[rule, seed]) for seed in range(options.seeds))
            print(f"runs of {rule} from one seed: standard deviation {100 * apart / middle:.2f} %")
    error = stdev(costs) / sqrt(len(costs)) if len(costs) > 1 else float("nan")
    print(
        f"default against mean, n = {options.n}, {options.model}: {fmean(costs):+.2f} %, "
        f"standard error {error:.2f}, {options.seeds} seeds, {options.repeats} runs of each"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=16, help="workers")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--model", choices=MODELS, default="llama")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    report(measure(options), options)


if __name__ == "__main__":
    main()
