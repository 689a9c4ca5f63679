"""The words of `talkoot bench attacks`."""

import json as json_module
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import typer

from talkoot.dht.errors import ConfigError

Row = dict[str, Any]

DIVERGED = 100.0
"""Nats a byte: no model that learned anything is so bad."""

HEAD = "  n  f  attack                  loss        %    worst  detected  honest  suspected  honest  rule"

LEGEND = """\
loss: held out, nats a byte, mean over the seeds. %: above the plain mean without attack, mean and worst seed.
detected: rounds until all liars are left out or banned, by audits (with the default rule) or proofs (in so
many seeds), and honest peers that ever were. suspected: the same for what histories point at; nobody is left
out for that."""


def run(
    *,
    n: Sequence[int],
    f: Sequence[int],
    attacks: Sequence[str],
    rules: Sequence[str],
    out: Path | None,
    json: bool,
    **settings: Any,
) -> None:
    """Measure and print. Raises ConfigError."""
    from talkoot.peer.attacks.bench import Plan, measure
    from talkoot.peer.attacks.catalogue import ATTACKS, MESSAGES, NONE
    from talkoot.peer.attacks.nodes import SwarmStuck

    if len(n) != len(f):
        raise ConfigError(f"--n and --f must come in pairs; here are {len(n)} and {len(f)}")
    plan = Plan(
        sizes=list(zip(n, f, strict=True)),
        attacks=list(attacks) or [NONE, *ATTACKS, *MESSAGES],
        rules=list(rules) or ["default", "mean"],
        **settings,
    )
    _one_thread()
    rows = []
    try:
        with _nodes_silent():
            for row in measure(plan, out):
                rows.append(row)
                _progress(f"{row['n']} peers, {row['attack']}, {row['rule']}, seed {row['seed']}")
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: {error.strerror or error}") from error
    except SwarmStuck as error:
        typer.echo(f"bench attacks: after {len(rows)} rows a run did not come to its end: {error}", err=True)
        raise typer.Exit(1) from error
    _progress("")
    typer.echo(json_module.dumps(rows, indent=1) if json else table(rows))


@contextmanager
def _nodes_silent() -> Iterator[None]:
    """Whole nodes would say whom they ban."""
    logger = logging.getLogger("talkoot")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _one_thread() -> None:
    """Small models are slower on several cores, and two benches side by side use two."""
    import torch

    torch.set_num_threads(1)


def _progress(words: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{words}")
        sys.stderr.flush()


def table(rows: Sequence[Row]) -> str:
    """A line for each attack, size and rule; seeds together."""
    groups: dict[tuple[int, int, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["n"], row["f"], row["rule"], row["attack"]), []).append(row)
    lines = [HEAD]
    for (n, f, rule, attack), found in groups.items():
        above = [100 * (row["loss"] / row["loss_clean"] - 1) for row in found]
        out = sum((row["honest_left_out"] or 0) + (row["honest_banned"] or 0) for row in found)
        suspected = sum(row["honest_suspected"] for row in found)
        lines.append(
            f"{n:3}{f:3}  {attack:20}{_loss(mean(row['loss'] for row in found)):>8}"
            f"{_percent(mean(above)):>9}{_percent(max(above)):>9}"
            f"{_after(found, 'detected_after'):>10}{out:8}"
            f"{_after(found, 'suspected_after'):>11}{suspected:8}  {rule}"
        )
    return "\n".join([*lines, "", LEGEND])


def _after(rows: Sequence[Row], name: str) -> str:
    """Mean number of rounds, and in how many of the rows there is one."""
    after = [row[name] for row in rows if row[name] is not None]
    return f"{mean(after):.0f} ({len(after)}/{len(rows)})" if after else "-"


def _loss(value: float) -> str:
    return f"{value:.4f}" if value < DIVERGED else "diverged"


def _percent(value: float) -> str:
    return f"{value:+.2f}" if value < 100 * DIVERGED else "-"
