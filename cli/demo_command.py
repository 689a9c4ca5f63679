"""`talkoot demo`: its options. The work is in `talkoot.cli.demo`."""

import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from talkoot.dht.errors import ConfigError


class Trainer(StrEnum):
    """Which trainer the peers have."""

    TORCH = "torch"
    NUMPY = "numpy"


def demo(
    peers: Annotated[
        int | None,
        typer.Option(min=1, max=32, help="Peers on this machine.", show_default="4; 8 with --chaos"),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.05, max=1440, help="Time of training together.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights, and of the faults.")] = 0,
    kill: Annotated[bool, typer.Option("--kill", help="Kill one peer mid-round and start it again.")] = False,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Faults of all kinds at random times; some need root.")
    ] = False,
    gap: Annotated[
        float, typer.Option(min=1, max=3600, help="With --chaos: mean seconds between two faults.")
    ] = 15.0,
    baseline: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1440,
            help="With --chaos: minutes without faults before, to compare with.",
            show_default="a fifth of --minutes",
        ),
    ] = None,
    trainer: Annotated[
        Trainer | None,
        typer.Option(help="torch, or a tiny numpy model.", show_default="torch; numpy with --chaos"),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the summary as JSON.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset of the swarm.", show_default="what fits --trainer: tiny")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Keep everything here (default: temporary).")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of every peer.")] = "cpu",
) -> None:
    """Train with several real peers on this machine and show what came of it.

    Each peer is a `talkoot run` daemon with its own directory, key, p2pd and trainer, on loopback.
    """
    from talkoot.cli.demo import run_demo
    from talkoot.cli.demo_swarm import ChaosOptions, DemoOptions

    if kill and chaos:
        raise ConfigError("--kill is one fault, --chaos many: choose one of them")
    if trainer is not None and preset is not None:
        raise ConfigError("--preset says which trainer: leave --trainer away")
    numpy = trainer is Trainer.NUMPY or (chaos and trainer is None)
    options = DemoOptions(
        peers=peers or (8 if chaos else 4),
        minutes=minutes,
        seed=seed,
        kill=kill,
        chaos=ChaosOptions(gap_s=gap, baseline_minutes=baseline) if chaos else None,
        json_file=json,
        preset=preset or ("numpy-test" if numpy else "tiny"),
        folder=folder,
        device=device,
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a script had ignored it for us
        signal.signal(number, signal.default_int_handler)
    raise typer.Exit(run_demo(options))
