"""Training with each codec at equal steps: held-out loss against uncompressed, and what travels.

DiLoCo with several workers in one process. Contribution and aggregate are both quantised, as in a swarm; in
the sparse exchange nothing is quantised twice. Codecs of few bits feed back what they lose. All arms of a
seed share initial weights and the order of the data, so differences are taken pair by pair.

    python benchmarks/codec_training.py [--model small|demo|numpy] [--rounds 30] [--steps 15] [--seeds 3]
        [--arm NAME ...] [--momentum 0.5] [--out FILE] [--quick]
    python benchmarks/codec_training.py --tune [--arm NAME]    # the arm's outer settings, by default fp32's

With --out each result is appended to FILE as a line of JSON, and what is there already is not run again.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean

from diloco_swarm import (
    MODELS,
    Arm,
    Laboratory,
    Line,
    Results,
    Task,
    data_parallel_bytes,
    round_bytes,
    spread,
)

from talkoot.compression import codec as codecs

ARMS = {
    "fp32": Arm(),
    "fp16": Arm(codec="fp16", aggregate_codec="fp16"),
    "bf16": Arm(codec="bf16", aggregate_codec="bf16"),
    "int8": Arm(codec="int8", aggregate_codec="int8"),
    "int4": Arm(codec="int4", aggregate_codec="int4"),
    "lloyd4": Arm(codec="lloyd4", aggregate_codec="lloyd4"),
    "lloyd2": Arm(codec="lloyd2", aggregate_codec="lloyd4"),
    "lloyd2-lloyd2": Arm(codec="lloyd2", aggregate_codec="lloyd2"),
    "sign": Arm(codec="sign", aggregate_codec="int4"),
    "topk": Arm(codec="topk", exchange="sparse", feedback_decay=0.7),
    "topk:256": Arm(codec="topk:256", exchange="sparse", feedback_decay=0.95),
    "topk-dense-outer": Arm(codec="topk", exchange="sparse"),
}
"""What travels there and back. Two bits or fewer go with an aggregate of four: nothing feeds back what the
aggregate loses."""

OUTER = {"topk": (4.0, 0.0), "topk:256": (1.5, 0.0)}
"""Outer learning rate and momentum of arms that have others than `--rate` and `--momentum`.

Four workers keep hardly the same few values, so most of the mean's values are a quarter of one worker's;
feedback that brings later what was left out is a momentum already.
"""

BASELINE = "fp32"

TARGETS = {"int8": 0.5, "int4": 1.0, "lloyd4": 1.0, "lloyd2": 2.0, "topk": 2.0}
"""Percent above the uncompressed loss, at most."""

GRID = [(0.7, 0.0), (1.0, 0.0), (0.7, 0.3), (0.7, 0.5), (1.0, 0.5), (0.7, 0.9)]
"""Outer learning rate and momentum that `--tune` tries in dense arms."""

SPARSE_GRID = [
    (1.0, 1.0),
    (1.5, 0.95),
    (2.0, 0.9),
    (3.0, 0.9),
    (3.0, 0.8),
    (3.0, 0.7),
    (4.0, 0.8),
    (4.0, 0.7),
]
"""Outer learning rate and decay of feedback, without momentum, that it tries in sparse ones."""

LARGE = 100_000_000
"""Parameters of the model for which traffic is told besides."""


def known(arm: Arm) -> bool:
    """Whether this version has the arm's codecs."""
    try:
        codecs.get(arm.codec)
        codecs.get(arm.aggregate_codec)
    except codecs.CodecError:
        return False
    return True


def run_arms(options: argparse.Namespace, task: Task, results: Results) -> Iterator[tuple[str, list[Line]]]:
    """Each arm with its results, one a seed."""
    laboratory = Laboratory(task, options.workers, device=options.device, threads=options.threads)
    for name in options.arm or ARMS:
        rate, momentum = OUTER.get(name, (options.rate, options.momentum))
        arm = made(name, options, rate, momentum)
        if not known(arm):
            print(f"{name}: this version has no such codec")
            continue
        lines = []
        for seed in range(options.seeds):
            key = key_of(task, arm, seed)
            lines.append(results.get(key, partial(laboratory.diloco, arm, seed)))
            print(f"  {name} seed {seed}: {lines[-1]['loss']:.4f}", file=sys.stderr, flush=True)
        yield name, lines
    laboratory.close()


def made(name: str, options: argparse.Namespace, rate: float, momentum: float) -> Arm:
    """An arm as the command line wants it."""
    return replace(
        ARMS[name],
        workers=options.workers,
        rounds=options.rounds,
        inner_steps=options.steps,
        outer_learning_rate=rate,
        outer_momentum=momentum,
    )


def report(found: dict[str, list[Line]]) -> bool:
    """Print the table; returns whether no target was missed."""
    base = [line["loss"] for line in found[BASELINE]]
    print(
        f"{'':14}{'held-out loss':>15}{'above fp32, %':>20}{'target':>8}{'sent a peer':>16}{'below DP':>22}"
    )
    print(f"{'':14}{'mean':>8}{'std':>7}{'mean':>12}{'std':>8}{'':24}{'here':>9}{'100M, H=100':>13}")
    reached = True
    for name, lines in found.items():
        losses = [line["loss"] for line in lines]
        gaps = [100 * (loss / other - 1) for loss, other in zip(losses, base, strict=True)]
        target = TARGETS.get(name)
        reached &= target is None or mean(gaps) <= target
        print(
            f"{name:14}{mean(losses):8.4f}{spread(losses):7.4f}{mean(gaps):+12.2f}{spread(gaps):8.2f}"
            f"{'' if target is None else f'{target:.1f}':>8}{traffic(lines[0])}"
        )
    return reached


def traffic(line: Line) -> str:
    """What a peer sent, how many times less than in data parallel that is, and so for a large model."""
    arm, sent = Arm(**line["key"]["arm"]), line["bytes_per_peer"]
    here = data_parallel_bytes(arm.workers, line["numel"], arm.rounds * arm.inner_steps) / sent
    large = data_parallel_bytes(arm.workers, LARGE, 100) / round_bytes(arm, LARGE)
    return f"{sent / 1e6:13.3f} MB{here:9.0f}{large:13.0f}"


def tune(options: argparse.Namespace, task: Task, results: Results) -> None:
    """Print the loss of an arm over its grid."""
    laboratory = Laboratory(task, options.workers, device=options.device, threads=options.threads)
    for name in options.arm or [BASELINE]:
        for arm in grid(name, options):
            losses = [
                results.get(key_of(task, arm, seed), partial(laboratory.diloco, arm, seed))["loss"]
                for seed in range(options.seeds)
            ]
            print(
                f"{name}, outer rate {arm.outer_learning_rate}, momentum {arm.outer_momentum}, "
                f"decay {arm.feedback_decay}: {mean(losses):.4f} (std {spread(losses):.4f})",
                flush=True,
            )
    laboratory.close()


def grid(name: str, options: argparse.Namespace) -> list[Arm]:
    """The settings of an arm that are tried."""
    if ARMS[name].exchange == "dense":
        return [made(name, options, rate, momentum) for rate, momentum in GRID]
    return [replace(made(name, options, rate, 0.0), feedback_decay=decay) for rate, decay in SPARSE_GRID]


def key_of(task: Task, arm: Arm, seed: int) -> Line:
    """All that a result depends on."""
    return {"task": asdict(task), "arm": asdict(arm), "seed": seed}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=15, help="H, inner steps of a round")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.7, help="outer learning rate")
    parser.add_argument("--momentum", type=float, default=0.5, help="outer momentum")
    parser.add_argument("--arm", action="append", choices=ARMS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--quick", action="store_true", help="seconds: a smoke test")
    options = parser.parse_args()
    if options.quick:
        options.model, options.workers, options.rounds, options.steps, options.seeds = "numpy", 3, 3, 5, 2
        options.arm = [BASELINE, "int8", "int4"]
    return options


def main() -> int:
    """1 when a target was missed."""
    options = parse()
    results = Results(options.out)
    task = Task(model=options.model, batch_size=options.batch, sequence_length=options.length)
    if options.tune:
        tune(options, task, results)
        return 0
    if options.arm and BASELINE not in options.arm:
        options.arm.insert(0, BASELINE)
    found = dict(run_arms(options, task, results))
    print(
        f"{options.workers} workers, {options.rounds} rounds of {options.steps} steps, model {options.model} "
        f"({found[BASELINE][0]['numel']} parameters), outer rate {options.rate}, momentum {options.momentum}"
    )
    return 0 if report(found) else 1


if __name__ == "__main__":
    sys.exit(main())
