"""`talkoot simulate`: whole nodes on a virtual clock, faults from a seed, checkers after every step."""

import json as json_module
import sys
from typing import Annotated, Any

import typer

from talkoot.cli.options import JsonOption
from talkoot.dht.errors import ConfigError


def simulate(
    peers: Annotated[int, typer.Option(min=1, max=64, help="Peers in the swarm.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to run, from --seed on.")] = 1,
    faults: Annotated[
        str,
        typer.Option(metavar="KINDS", help="all, none, or some of crash,freeze,hole,partition,cut,slow."),
    ] = "all",
    rounds: Annotated[int, typer.Option(min=1, max=10000, help="Rounds, roughly, under faults.")] = 6,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes at once.")] = 2,
    json: JsonOption = False,
) -> None:
    """Simulate swarms of the daemon's own code; the same seed gives the same run.

    Exit code 1 when something was violated; the command that repeats it is printed.
    """
    from talkoot.peer.simulation.batch import run_batch
    from talkoot.peer.simulation.kinds import KINDS

    kinds = _kinds(faults, KINDS)
    results = []
    numbers = list(range(seed, seed + seeds))
    for result in run_batch(numbers, peers=peers, rounds=rounds, kinds=kinds, jobs=jobs):
        results.append(result)
        if not json:
            _tell(result, rounds, faults)
    results.sort(key=lambda result: result["seed"])
    failed = [r for r in results if r["safety_violations"] or r["liveness_violations"]]
    if json:
        typer.echo(json_module.dumps(results[0] if len(results) == 1 else results, indent=2))
    else:
        rate = sum(r["peer_rounds_per_s"] * r["seconds"] for r in results) / sum(
            r["seconds"] for r in results
        )
        typer.echo(f"{len(results)} seeds, {len(failed)} with violations; {rate:.0f} peer-rounds/s a process")
    for result in failed if json else ():
        typer.echo(_replay(result, rounds, faults), err=True)
    raise typer.Exit(1 if failed else 0)


def _kinds(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    if text == "all":
        return known
    kinds = tuple(kind for kind in text.split(",") if kind and text != "none")
    for kind in kinds:
        if kind not in known:
            raise ConfigError(f"--faults: {kind!r} is unknown; all, none or some of {','.join(known)}")
    return kinds


def _tell(result: dict[str, Any], rounds: int, faults: str) -> None:
    violations = [*result["safety_violations"], *result["liveness_violations"]]
    typer.echo(
        f"seed {result['seed']:6}  {result['rounds_committed']:4} rounds  {result['faults']:3} faults  "
        f"{result['rounds_aborted']:3} attempts given up  "
        f"{result['virtual_s']:7.1f} s in {result['seconds']:.1f} s  "
        + ("ok" if not violations else "VIOLATED: " + "; ".join(violations[:3]))
    )
    if violations:
        for line in result.get("trace", [])[-40:]:
            typer.echo(f"    {line}")
        typer.echo("  repeat it: " + _replay(result, rounds, faults))
    sys.stdout.flush()


def _replay(result: dict[str, Any], rounds: int, faults: str) -> str:
    which = f"--peers {result['peers']} --seed {result['seed']}"
    return f"talkoot simulate {which} --faults {faults} --rounds {rounds}"
