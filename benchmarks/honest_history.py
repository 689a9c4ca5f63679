"""Honest peers whom histories must not suspect, recorded: norms and inner products of a real training.

   nice python benchmarks/honest_history.py [--model llama] [--seed 0] [--out FILE]

Eight workers train on different stretches of the standard library's sources (`talkoot.peer.attacks`). One
joins late, one is left out of rounds now and then and comes back with all of their work, one is late every
second round, and the learning rate falls to a tenth. Prints what was odd, who was suspected (nobody should
be), and the most that anybody was. `--out` writes what `tests/testdata/honest_rounds.json` has.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from talkoot.averaging import watch
from talkoot.peer.attacks.exchange import Counted
from talkoot.peer.attacks.swarm import MODELS, Laboratory, Setting, Training
from talkoot.peer.attacks.watching import held_of
from talkoot.peer.presets import make

ROUNDS = 40
NEWCOMER, JOINS = 7, 12
"""A worker, and its first round."""
OFTEN_LATE, ALWAYS_LATE = 3, 5
LATE = {8, 15, 16, 17, 24, 25, 26, 27, 28, 29}
"""Rounds that leave one worker out: 1, 3 and 6 in a row."""
SLOWER_FROM = 32
"""The learning rate is a tenth from this round on."""


class Honest(Training):
    """One run."""

    def played(self) -> Iterator[Counted]:
        """Its rounds."""
        for number in range(ROUNDS):
            late = {OFTEN_LATE} if number in LATE else set()
            late |= {ALWAYS_LATE} if number % 2 == 0 and number > 6 else set()
            away = {NEWCOMER} if number < JOINS else set()
            sent = [
                None if worker in away else self._sent(self._train(worker, number))
                for worker in range(self._setting.workers)
            ]
            yield self.exchange.round(sent, late=late)

    def _rate(self, step: int) -> float:
        slower = step >= SLOWER_FROM * self._setting.inner_steps
        return super()._rate(step) * (0.1 if slower else 1.0)


def main() -> None:
    """Train, watch, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", choices=MODELS, default="bigram")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    setting = Setting(
        model=options.model,
        workers=8,
        liars=0,
        rounds=ROUNDS,
        inner_steps=options.steps,
        codec=options.codec,
        robustness=make("public", name="honest").robustness,
        seed=options.seed,
    )
    watching, before_P, rows = watch.Watch(), None, []
    most: dict[int, float] = {}
    for number, counted in enumerate(Honest(Laboratory(), setting, None).played()):
        held = held_of(counted, before_P)
        before_P = counted.aggregate
        for turn in watching.see(
            number, counted.value.cut, counting=[True] * len(counted.value.cut), held=held
        ):
            print(f"round {number}: {turn.key[0] - 1} suspected: {turn.record}")
        for key, record in watching.records.items():
            most[key[0] - 1] = max(most.get(key[0] - 1, 0.0), record.history.suspicion)
            if record.last == number and record.signs:
                print(f"round {number}: {key[0] - 1} {record.signs} {record.norm:.1f} {record.direction:.1f}")
        rows.append(row_of(counted, held.gram))
    print("most suspicion by worker:", {worker: round(value, 2) for worker, value in sorted(most.items())})
    if options.out is not None:
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        options.out.write_text(f"[\n{lines}\n]\n")


def row_of(counted: Counted, gram: list[list[float]]) -> dict[str, Any]:
    """A round as the test reads it: workers, squared norms, rounds carried, the products' lower triangle."""
    return {
        "worker": [item.key[0] - 1 for item in counted.value.cut],
        "norm2": [_short(item.norm2) for item in counted.value.cut],
        "carried": [item.carried for item in counted.value.cut],
        "gram": [[_short(row[j]) for j in range(i + 1)] for i, row in enumerate(gram)],
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
