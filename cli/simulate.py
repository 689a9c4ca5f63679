"""`talkoot simulate`: whole nodes on a virtual clock, faults from a seed, checkers after every step."""

import json as json_module
import sys
import time
from typing import Annotated, Any

import typer

from talkoot.cli.options import ExchangeMode, JsonOption
from talkoot.dht.errors import ConfigError
from talkoot.peer.simulation.kinds import KINDS


def simulate(
    peers: Annotated[
        int, typer.Option(min=0, max=64, help="Peers in the swarm; 0: 4 to 6, by the seed.")
    ] = 5,
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to run, from --seed on.")] = 1,
    faults: Annotated[
        str,
        typer.Option(metavar="KINDS", help="all, none, or some of " + ", ".join(KINDS) + "."),
    ] = "all",
    rounds: Annotated[int, typer.Option(min=1, max=10000, help="Rounds, roughly, under faults.")] = 6,
    exchange: Annotated[
        ExchangeMode | None, typer.Option(help="The rounds' exchange; by the seed if not given.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes at once.")] = 2,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what failed, and the sum.")] = False,
    json: JsonOption = False,
) -> None:
    """Simulate swarms of the daemon's own code; the same seed gives the same run.

    Exit code 1 when something was violated; the command that repeats it is printed.
    """
    from talkoot.peer.simulation.batch import run_batch

    kinds = _kinds(faults, KINDS)
    results, began = [], time.monotonic()
    numbers = list(range(seed, seed + seeds))
    for result in run_batch(
        numbers,
        peers=peers,
        rounds=rounds,
        kinds=kinds,
        jobs=jobs,
        exchange=exchange.value if exchange else "any",
    ):
        results.append(result)
        if not json and (not quiet or _violated(result)):
            _tell(result, rounds, faults, exchange)
    results.sort(key=lambda result: result["seed"])
    failed = [result for result in results if _violated(result)]
    if json:
        typer.echo(json_module.dumps(results[0] if len(results) == 1 else results, indent=2))
    else:
        typer.echo(_sum(results, failed, time.monotonic() - began))
    for result in failed if json else ():
        typer.echo(_replay(result, rounds, faults, exchange), err=True)
    raise typer.Exit(1 if failed else 0)


def _violated(result: dict[str, Any]) -> bool:
    return bool(result["safety_violations"] or result["liveness_violations"])


def _kinds(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    if text == "all":
        return known
    kinds = tuple(kind for kind in text.split(",") if kind and text != "none")
    for kind in kinds:
        if kind not in known:
            raise ConfigError(f"--faults: {kind!r} is unknown; all, none or some of {','.join(known)}")
    return kinds


def _tell(result: dict[str, Any], rounds: int, faults: str, exchange: ExchangeMode | None) -> None:
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
        typer.echo("  repeat it: " + _replay(result, rounds, faults, exchange))
    sys.stdout.flush()


def _sum(results: list[dict[str, Any]], failed: list[dict[str, Any]], seconds: float) -> str:
    rounds, faults, lost = (
        sum(result[name] for result in results) for name in ("peer_rounds", "faults", "rounds_aborted")
    )
    return (
        f"{len(results)} seeds in {seconds:.0f} s, {len(failed)} with violations; {rounds} peer-rounds, "
        f"{rounds / seconds:.0f} a second; {faults} faults, {lost} attempts given up"
    )


def _replay(result: dict[str, Any], rounds: int, faults: str, exchange: ExchangeMode | None) -> str:
    which = f"--peers {result['peers']} --seed {result['seed']}"
    mode = "" if exchange is None else f" --exchange {exchange.value}"
    return f"talkoot simulate {which} --faults {faults} --rounds {rounds}{mode}"
