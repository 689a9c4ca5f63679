"""What came of the demo, on the same held-out windows: initial weights, outer parameters, a single worker.

The work is done in processes of their own, one after the other, when the peers are gone.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from talkoot.cli.demo_report import Losses
from talkoot.cli.errors import CommandError

WINDOWS = 256
"""Held-out windows of every loss in the summary."""
LIMIT_S = 1800.0
"""Longest time for one of the processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the comparison needs to know of the finished swarm."""

    manifest: Path
    """The sealed manifest in canonical form."""
    final: Path
    """The outer parameters after the last round."""
    initial: Path | None
    """Copy of the initial parameters, where there was time to make it."""
    steps: int
    """Mean inner steps of a peer behind `final`: those of the single worker."""
    device: str
    threads: int
    """CPU threads that each trainer had; more of them are slower on a busy machine."""


Say = Callable[[str], None]
Compare = Callable[[Outcome, Say], Losses]


def measure(outcome: Outcome, say: Say) -> Losses:
    """Evaluate the swarm's parameters and train a single worker. Raises CommandError, OSError."""
    say(f"Measuring the swarm's model on {WINDOWS} held-out windows.")
    files = [outcome.final] if outcome.initial is None else [outcome.final, outcome.initial]
    common = ["--manifest", str(outcome.manifest), "--windows", str(WINDOWS), "--device", outcome.device]
    losses = _run("talkoot.cli.demo_evaluate", [*common, *map(str, files)])["losses"]
    say(f"Training a single worker for the same {outcome.steps} steps.")
    single = _run(
        "talkoot.peer.trainer.solo",
        [*common, "--steps", str(outcome.steps), "--threads", str(outcome.threads), "--json"],
    )
    say(f"The single worker took {single['step_ms']:.0f} ms a step.")
    return Losses(
        start=losses[1] if outcome.initial is not None else single["loss_start"],
        end=losses[0],
        single=single["loss_end"],
        single_steps=single["steps"],
        single_curve=[(float(step), float(loss)) for step, loss in single["curve"]],
    )


def _run(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `python -m module` and read the JSON object on the last line of its output."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as trainers have it; torch has its own
    try:
        done = subprocess.run(  # noqa: S603 - ours
            command, capture_output=True, timeout=LIMIT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{module} took more than {LIMIT_S:.0f} s") from error
    lines = (
        (done.stdout if done.returncode == 0 else done.stderr).decode(errors="replace").strip().splitlines()
    )
    if done.returncode != 0 or not lines:
        raise CommandError(f"{module} failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return msgspec.json.decode(lines[-1], type=dict[str, Any])
