"""The words of `talkoot bench aggregate`."""

import json as json_module
from collections.abc import Sequence
from typing import Any

import typer

from talkoot.cli.errors import CommandError

LEGEND = """\
seconds: of one core, for one reducer that aggregates the whole vector, median of the repetitions; then as
a multiple of the plain mean's. peak: memory beyond what was sent, and by how many fp32 vectors that is
more than the plain mean needs."""


def run(*, peers: int, numel: int, codec: str, chosen: Sequence[str], repetitions: int, json: bool) -> None:
    """Measure and print. Raises ConfigError, CommandError."""
    from talkoot.peer import bench_aggregate
    from talkoot.peer.bench_codec import WorkerError

    try:
        rows = bench_aggregate.measure(
            peers=peers, numel=numel, codec=codec, repetitions=repetitions, chosen=chosen
        )
    except WorkerError as error:
        raise CommandError(str(error)) from error
    typer.echo(json_module.dumps(rows, indent=1) if json else table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a rule, then the legend."""
    lines = [f"{'rule':34}{'seconds':>9}{'x mean':>8}{'peak MB':>9}{'vectors':>9}"]
    for row in rows:
        peak = f"{row['peak_mb']:9.1f}{row['extra_vectors']:9.2f}" if "peak_mb" in row else f"{'-':>9}" * 2
        lines.append(f"{row['rule']:34}{row['seconds']:9.3f}{row['time_ratio']:8.2f}{peak}")
    return "\n".join([*lines, "", LEGEND])
