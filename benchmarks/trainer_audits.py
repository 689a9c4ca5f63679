"""How well audits tell honest contributions from harmful ones, and what one costs.

`python benchmarks/trainer_audits.py --attack sign-flip --n 8 --windows 16 --windows 64 --json`

Trains the swarms of `talkoot bench attacks` (a quarter of the peers lie) and, in some rounds, judges slices
of everybody's contribution as nodes do: 1/n of the vector, capped, on held-out windows that nobody chose. The
time of an audit is compared with that of the inner steps of a round of `--round-steps`, since the rounds of
the bench are far shorter than those of a swarm. `--copies` judges contributions that were there before
(`audits_of_copies.py`), on the first number of windows.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from audits_of_copies import measure_copies, table_of_copies

from talkoot.averaging.verdicts import MAX_SCORE
from talkoot.peer.attacks.auditors import Auditors
from talkoot.peer.attacks.catalogue import ATTACKS, NONE
from talkoot.peer.attacks.exchange import Counted
from talkoot.peer.attacks.rules import parse_rule
from talkoot.peer.attacks.swarm import Laboratory, Setting, Training, manifest_of
from talkoot.peer.judging.score import SCALE, ratio_of, score_of
from talkoot.peer.trainer.workplace import make_engine

ROUNDS = (0, 1, 3, 6, 10, 15, 20, 27, 33, 39)
"""In which contributions are judged."""

AUDITORS = 3
"""That judge each contribution of such a round."""

HEAD = "attack         slice  windows  scale  who     judged  helped  neutral  harmful  mean  median t  ms"


@dataclass(slots=True)
class Tally:
    """Scores of one kind of contribution."""

    scores: list[int] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Shares, and the median of the t ratios."""
        num = max(1, len(self.scores))
        return {
            "judged": len(self.scores),
            "helped": round(sum(s > 0 for s in self.scores) / num, 3),
            "neutral": round(sum(s == 0 for s in self.scores) / num, 3),
            "harmful": round(sum(s < 0 for s in self.scores) / num, 3),
            "mean_score": round(sum(self.scores) / num),
            "median_t": round(median(self.ratios), 2) if self.ratios else None,
        }


def measure(options: argparse.Namespace, laboratory: Laboratory, name: str, n: int) -> list[dict[str, Any]]:
    """Rows of one attack and size: for each number of windows and scale, honest peers and liars."""
    tallies: dict[tuple[int, float, bool], Tally] = defaultdict(Tally)
    audit_s: dict[int, list[float]] = defaultdict(list)
    for seed in range(options.seeds):
        setting = Setting(
            model=options.model,
            workers=n,
            liars=n // 4,
            rounds=max(ROUNDS) + 1,
            robustness=parse_rule(options.rule),
            seed=seed,
        )
        training = Training(laboratory, setting, ATTACKS.get(name))
        for number, counted in enumerate(training.rounds()):
            if number not in ROUNDS:
                continue
            for windows in options.windows:
                _judge(
                    options,
                    training.auditors(windows),
                    counted,
                    setting,
                    number,
                    tallies,
                    audit_s,
                    windows,
                    name != NONE,
                )
    step_s = _step_s(options, laboratory)
    return [
        {
            "attack": name,
            "n": n,
            "slice": f"1/{n}",
            "windows": windows,
            "scale": scale,
            "liars": lies,
            "audit_ms": round(1000 * median(audit_s[windows]), 2),
            "share_of_round": round(median(audit_s[windows]) / (step_s * options.round_steps), 4),
            **tally.row(),
        }
        for (windows, scale, lies), tally in tallies.items()
    ]


def _judge(
    options: argparse.Namespace,
    auditors: Auditors,
    counted: Counted,
    setting: Setting,
    number: int,
    tallies: dict[tuple[int, float, bool], Tally],
    audit_s: dict[int, list[float]],
    windows: int,
    attacked: bool,
) -> None:
    for subject in range(setting.workers):
        lies = attacked and subject < setting.liars
        for turn in range(AUDITORS):
            auditor = counted.value.parts[(subject + 1 + turn + number) % setting.workers].reducer
            case = auditors.case(counted, auditor, counted.value.cut[subject].key)
            piece_P = case.decode()
            for scale in options.scale:
                tally = tallies[windows, scale, lies]
                if piece_P is None:
                    tally.scores.append(-MAX_SCORE)
                    continue
                began = time.perf_counter()
                losses = auditors.losses(counted, case, auditor, torch.mul(piece_P, scale))
                audit_s[windows].append(time.perf_counter() - began)
                tally.scores.append(score_of(*losses) or 0)
                tally.ratios.append(ratio_of(*losses))


def _step_s(options: argparse.Namespace, laboratory: Laboratory) -> float:
    """Seconds of one inner step, the median of many."""
    setting = Setting(model=options.model, robustness=parse_rule("mean"))
    manifest = manifest_of(setting)
    engine = make_engine(manifest, device="cpu", threads=1)
    seconds = []
    for step in range(60):
        shape = (manifest.inner.batch_size, manifest.data.sequence_length + 1)
        windows = laboratory.data.training(worker=0, workers=8, seed=0, step=step, shape=shape)
        began = time.perf_counter()
        engine.step(windows, 1e-3)
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each row."""
    return "\n".join([HEAD, *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['attack']:14} {row['slice']:5}  {row['windows']:7}  {row['scale']:5}  "
        f"{'liars' if row['liars'] else 'honest':6}  {row['judged']:6}  {row['helped']:6.1%}  "
        f"{row['neutral']:7.1%}  {row['harmful']:7.1%}  {row['mean_score']:4}  {row['median_t'] or 0:8}  "
        f"{row['audit_ms']}"
    )


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--attack", action="append", choices=[NONE, *ATTACKS])
    parser.add_argument("--n", type=int, action="append", help="peers, so that a slice is 1/n (4, 8, 16)")
    parser.add_argument("--windows", type=int, action="append", help="of an audit (16, 64)")
    parser.add_argument("--scale", type=float, action="append", help=f"of the step ({SCALE})")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--rule", default="default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--round-steps", type=int, default=500, help="inner steps of a real round")
    parser.add_argument("--copies", action="store_true", help="judge copies of earlier contributions instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    options.windows = options.windows or [16, 64]
    options.scale = options.scale or [SCALE]
    torch.set_num_threads(1)
    laboratory, rows = Laboratory(), []
    if options.copies:
        rows = [row for n in options.n or [8] for row in measure_copies(options, laboratory, n)]
        sys.stdout.write((json.dumps(rows, indent=1) if options.json else table_of_copies(rows)) + "\n")
        return 0
    for n in options.n or [4, 8, 16]:
        for name in options.attack or [NONE, *ATTACKS]:
            rows += measure(options, laboratory, name, n)
            if not options.json:
                sys.stderr.write(f"{n} peers, {name}\n")
    sys.stdout.write((json.dumps(rows, indent=1) if options.json else table(rows)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
