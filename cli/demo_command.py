"""`talkoot demo`: its options. The work is in `talkoot.cli.demo`."""

import signal
from pathlib import Path
from typing import Annotated

import typer


def demo(
    peers: Annotated[int, typer.Option(min=1, max=32, help="Peers on this machine.")] = 4,
    minutes: Annotated[float, typer.Option(min=0.05, max=1440, help="Time of training together.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights.")] = 0,
    kill: Annotated[bool, typer.Option("--kill", help="Kill one peer mid-round and start it again.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the summary as JSON.")] = None,
    preset: Annotated[str, typer.Option(help="Preset of the swarm.")] = "tiny",
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Keep everything here (default: temporary).")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of every peer.")] = "cpu",
) -> None:
    """Train with several real peers on this machine and show what came of it.

    Each peer is a `talkoot run` daemon with its own directory, key, p2pd and trainer, on loopback.
    """
    from talkoot.cli.demo import run_demo
    from talkoot.cli.demo_swarm import DemoOptions

    options = DemoOptions(
        peers=peers,
        minutes=minutes,
        seed=seed,
        kill=kill,
        json_file=json,
        preset=preset,
        folder=folder,
        device=device,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the peers as Ctrl-C does
    raise typer.Exit(run_demo(options))
