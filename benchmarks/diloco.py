"""DiLoCo against one worker and against data parallel, and what each sends.

Arms, all with the same inner optimiser, at the best inner learning rate of the same grid:

1. one worker, batch b, S steps;
2. data parallel, batch M b, S steps: what every exchange in every step would give;
3. DiLoCo of one worker (M = 1): the outer step alone helps;
4. DiLoCo of M workers with batch b each, S steps, for each H: the same steps, M times the data;
5. the same with batch b/M each: the same data as one worker.

    python benchmarks/diloco.py [--model small|demo|numpy] [--workers 4] [--total 450] [--steps 15 45]
        [--inner-rates 3e-3 5e-3] [--seeds 3] [--momentum 0.5] [--out FILE] [--quick]

With --out each result is appended to FILE as a line of JSON, and what is there already is not run again.
Exit code 1 when DiLoCo of M workers is not better than one worker after the same steps.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

from diloco_swarm import MODELS, Arm, Laboratory, Line, Outcome, Results, Task, spread


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the table."""

    name: str
    settings: Line
    """All that it depends on besides task and seed."""
    run: Callable[[Laboratory, int], Outcome]


def entries(options: argparse.Namespace) -> list[Entry]:
    """The arms, in the order of the table; the first is one worker."""
    workers, total = options.workers, options.total
    outer = {"outer_learning_rate": options.rate, "outer_momentum": options.momentum}
    rows = [
        Entry(name="one worker", settings={"alone": total}, run=lambda lab, seed: lab.alone(total, seed)),
        Entry(
            name=f"data parallel, M={workers}",
            settings={"alone": total, "workers": workers},
            run=lambda lab, seed: lab.alone(total, seed, workers=workers),
        ),
    ]
    alone = Arm(workers=1, rounds=total // options.steps[0], inner_steps=options.steps[0], **outer)
    rows.append(_diloco(f"DiLoCo, M=1, H={options.steps[0]}", alone, options.batch))
    for steps in options.steps:
        arm = replace(alone, workers=workers, rounds=total // steps, inner_steps=steps)
        rows.append(_diloco(f"DiLoCo, M={workers}, H={steps}", arm, options.batch))
    for steps in options.steps:
        arm = replace(alone, workers=workers, rounds=total // steps, inner_steps=steps)
        name = f"DiLoCo, M={workers}, H={steps}, equal data"
        rows.append(_diloco(name, arm, max(1, options.batch // workers)))
    return rows


def _diloco(name: str, arm: Arm, batch_size: int) -> Entry:
    settings = {"arm": asdict(arm), "batch_size": batch_size}
    return Entry(
        name=name, settings=settings, run=lambda lab, seed: lab.diloco(arm, seed, batch_size=batch_size)
    )


def run(options: argparse.Namespace) -> dict[str, tuple[float, list[Line]]]:
    """For each arm its best inner learning rate, by the mean over the seeds, and the results there."""
    results = Results(options.out)
    best: dict[str, tuple[float, list[Line]]] = {}
    for rate in options.inner_rates:
        task = Task(
            model=options.model,
            batch_size=options.batch,
            sequence_length=options.length,
            learning_rate=rate,
        )
        laboratory = Laboratory(task, options.workers, device=options.device, threads=options.threads)
        for entry in entries(options):
            lines = []
            for seed in range(options.seeds):
                key = {"task": asdict(task), **entry.settings, "seed": seed}
                lines.append(results.get(key, partial(entry.run, laboratory, seed)))
                print(f"  {entry.name}, {rate}, {seed}: {lines[-1]['loss']:.4f}", file=sys.stderr, flush=True)
            if entry.name not in best or _mean(lines) < _mean(best[entry.name][1]):
                best[entry.name] = rate, lines
        laboratory.close()
    return best


def _mean(lines: list[Line]) -> float:
    return mean(line["loss"] for line in lines)


def report(best: dict[str, tuple[float, list[Line]]]) -> bool:
    """Print the table; returns whether DiLoCo of M workers with M times the data beats one worker."""
    base, parallel = list(best.values())[:2]
    print(
        f"{'':34}{'rate':>8}{'loss':>9}{'std':>8}{'one worker, %':>15}{'parallel, %':>13}{'sent a peer':>14}"
    )
    better = True
    for name, (rate, lines) in best.items():
        gaps = [100 * (_mean(lines) / _mean(other) - 1) for _, other in (base, parallel)]
        better &= "M=1" in name or not name.startswith("DiLoCo") or name.endswith("data") or gaps[0] < 0
        print(
            f"{name:34}{rate:8.0e}{_mean(lines):9.4f}{spread([line['loss'] for line in lines]):8.4f}"
            f"{gaps[0]:+15.2f}{gaps[1]:+13.2f}{lines[0]['bytes_per_peer'] / 1e6:11.1f} MB"
        )
    return better


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--total", type=int, default=450, help="S, steps of every worker")
    parser.add_argument("--steps", type=int, nargs="+", default=[15, 45], help="H, inner steps of a round")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--inner-rates", type=float, nargs="+", default=[3e-3, 5e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.7, help="outer learning rate")
    parser.add_argument("--momentum", type=float, default=0.5, help="outer momentum")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="seconds: a smoke test")
    options = parser.parse_args()
    if options.quick:
        options.model, options.workers, options.total, options.steps = "numpy", 3, 40, [10]
        options.inner_rates, options.seeds = [3e-2], 2
    return options


def main() -> int:
    """1 when DiLoCo is not better than one worker after the same steps."""
    options = parse()
    best = run(options)
    numel = best["one worker"][1][0]["numel"]
    print(
        f"model {options.model} ({numel} parameters), {options.total} steps, batch {options.batch} of "
        f"{options.length}, outer rate {options.rate}, momentum {options.momentum}, {options.seeds} seeds"
    )
    return 0 if report(best) else 1


if __name__ == "__main__":
    sys.exit(main())
