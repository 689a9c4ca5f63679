"""How audits judge contributions that were there before: what others sent some rounds ago, blurred by noise.

For `trainer_audits.py --copies`. Nobody lies in the training; beside what its peers send, auditors judge what
one of them sent `age` rounds ago with noise of `noise` times its norm added, by the loss alone and as nodes
do, which bound the score where they know it again.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch

from talkoot.averaging.verdicts import MAX_SCORE
from talkoot.peer.attacks.exchange import Counted
from talkoot.peer.attacks.rules import parse_rule
from talkoot.peer.attacks.swarm import Laboratory, Setting, Training
from talkoot.peer.judging.score import SCALE, score_of
from talkoot.peer.sketches import Sketch, Sketches

ROUNDS = (1, 2, 4, 6, 10, 15, 20, 27, 33, 39)
"""In which contributions are judged."""

AGES = (1, 4, 12)
NOISES = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0)

HEAD = "age  noise  judged   by the loss: +   0    -     verdict: +   0    -      known as old"


@dataclass(slots=True)
class Tally:
    """Scores by the loss alone, and as they were bounded."""

    measured: list[int] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    known: int = 0

    def add(self, score: int, highest: int) -> None:
        """One audit."""
        self.measured.append(score)
        self.said.append(min(score, highest))
        self.known += highest == -MAX_SCORE

    def row(self) -> dict[str, Any]:
        """Shares."""
        num = len(self.said)
        return {"judged": num, "known": round(self.known / num, 3)} | {
            name: [
                round(sum(s > 0 for s in scores) / num, 3),
                round(sum(s == 0 for s in scores) / num, 3),
                round(sum(s < 0 for s in scores) / num, 3),
            ]
            for name, scores in (("measured", self.measured), ("said", self.said))
        }


class Judged:
    """One training, and what its auditors say of copies in it."""

    def __init__(self, options: argparse.Namespace, laboratory: Laboratory, n: int, seed: int) -> None:
        self._windows = options.windows[0]
        robustness = parse_rule(options.rule)
        self._setting = Setting(
            model=options.model, workers=n, liars=0, rounds=max(ROUNDS) + 1, robustness=robustness, seed=seed
        )
        self._training = Training(laboratory, self._setting, None)
        self._noise = torch.Generator().manual_seed(seed)
        self._sketches = [Sketches(bytes([number])) for number in range(n)]
        self._past: list[list[torch.Tensor]] = []

    def play(self, tallies: dict[tuple[int, float], Tally]) -> None:
        """Add to tallies, by age (0: what is honest) and noise."""
        for number, counted in enumerate(self._training.rounds()):
            for place in range(self._setting.workers):
                if number in ROUNDS:
                    self._judge(counted, place, tallies)
                now = self._sketch(counted, place, counted.decoded)
                self._sketches[place].remember(now)
            self._past.append(counted.decoded)

    def _judge(self, counted: Counted, place: int, tallies: dict[tuple[int, float], Tally]) -> None:
        """What the auditor at this place says of two honest ones, and of copies of another."""
        n = self._setting.workers
        for other in ((place + 1) % n, (place + 3) % n):
            tallies[0, 0.0].add(*self._verdict(counted, place, other, counted.decoded))
        for age in (age for age in AGES if age <= len(self._past)):
            source_P = self._past[-age][(place + 1) % n]
            for noise in NOISES:
                blur_P = torch.randn(source_P.shape, generator=self._noise)
                copy_P = torch.add(source_P, blur_P, alpha=noise * float(source_P.norm() / blur_P.norm()))
                sent = [*counted.decoded, copy_P]
                tallies[age, noise].add(*self._verdict(counted, place, n, sent))

    def _verdict(
        self, counted: Counted, place: int, subject: int, sent: list[torch.Tensor]
    ) -> tuple[int, int]:
        """By the loss alone, and the best that it may be. Only the honest ones weigh."""
        part = counted.value.parts[place]
        auditors = self._training.auditors(self._windows)
        case = auditors.case(counted, part.reducer, counted.value.cut[place - 1].key)
        piece_P = sent[subject][case.start : case.start + case.numel]
        losses = auditors.losses(counted, case, part.reducer, torch.mul(piece_P, SCALE))
        counting = [number < self._setting.workers for number in range(len(sent))]
        highest = self._sketches[place].compare(self._sketch(counted, place, sent), counting)
        return score_of(*losses) or 0, highest.get(subject, MAX_SCORE)

    def _sketch(self, counted: Counted, place: int, sent: list[torch.Tensor]) -> Sketch:
        part, size = counted.value.parts[place], self._training.exchange.rules.chunk_size
        run = slice(part.first_chunk * size, (part.first_chunk + 1) * size)
        values = [piece[run] for piece in (*sent, torch.zeros_like(sent[0]))]
        places = self._sketches[place].places(part.first_chunk, values[0].numel())
        chunk = torch.stack([piece[places] for piece in values])
        return Sketch(rows=range(len(sent)), chunks={part.first_chunk: chunk})


def measure_copies(options: argparse.Namespace, laboratory: Laboratory, n: int) -> list[dict[str, Any]]:
    """Rows by age and noise."""
    tallies: dict[tuple[int, float], Tally] = defaultdict(Tally)
    for seed in range(options.seeds):
        Judged(options, laboratory, n, seed).play(tallies)
    return [
        {"n": n, "windows": options.windows[0], "age": age, "noise": noise, **tally.row()}
        for (age, noise), tally in sorted(tallies.items())
    ]


def table_of_copies(rows: list[dict[str, Any]]) -> str:
    """A line for each row."""
    return "\n".join([HEAD, *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    measured, said = ("  ".join(f"{share:6.1%}" for share in row[name]) for name in ("measured", "said"))
    return f"{row['age']:3}  {row['noise']:5}  {row['judged']:6}  {measured}   {said}   {row['known']:6.1%}"
