"""`talkoot bench`: measurements that anybody can repeat."""

from pathlib import Path
from typing import Annotated

import typer

from talkoot.cli.options import ExchangeMode, ExchangeOption, JsonOption

app = typer.Typer(
    help="Measure parts of talkoot on this machine.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    pass


@app.command("round")
def bench_round(
    peers: Annotated[int, typer.Option(min=2, max=16, help="Peers, each a process on loopback.")] = 4,
    numel: Annotated[int, typer.Option(min=1, help="Elements of the parameter vector.")] = 25_000_000,
    codec: Annotated[str, typer.Option(help="Codec of contributions.")] = "int8",
    aggregate_codec: Annotated[
        str | None,
        typer.Option(help="Codec of aggregates; by default the same, or lloyd4 for sign and topk."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds to measure.")] = 5,
    exchange: ExchangeOption = ExchangeMode.dense,
    json: JsonOption = False,
) -> None:
    """Time one round (network and arithmetic, no training): bytes, seconds, error."""
    from talkoot.peer.bench_round import main as measure

    raise typer.Exit(
        measure(
            peers=peers,
            numel=numel,
            codec=codec,
            aggregate_codec=aggregate_codec,
            rounds=rounds,
            exchange=exchange.value,
            json=json,
        )
    )


@app.command("aggregate")
def bench_aggregate(
    peers: Annotated[int, typer.Option(help="Contributions, 1 to 64.")] = 8,
    numel: Annotated[int, typer.Option(help="Elements of the parameter vector.")] = 25_000_000,
    codec: Annotated[str, typer.Option(help="Codec of contributions.")] = "int8",
    rule: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this rule and the mean; may be repeated.")
    ] = None,
    repetitions: Annotated[int, typer.Option(help="Runs of each rule.")] = 3,
    json: JsonOption = False,
) -> None:
    """Measure robust rules on one core: time and peak of memory beside the plain mean's."""
    from talkoot.cli.bench_aggregate import run

    run(peers=peers, numel=numel, codec=codec, chosen=rule or [], repetitions=repetitions, json=json)


@app.command("codec")
def bench_codec(
    numel: Annotated[int, typer.Option(help="Elements of the vectors.")] = 2**24,
    codec: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this codec; may be repeated.")
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A pseudo-gradient of your own, as safetensors (default: made now)."
        ),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot distortion over bits as SVG.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure codecs on one core, ours and hivemind's: bits, error against theory, MB/s, memory."""
    from talkoot.cli.bench_codec import run

    run(numel=numel, chosen=codec or [], recorded=recorded, svg=svg, json=json)


@app.command("attacks")
def bench_attacks(
    n: Annotated[list[int] | None, typer.Option("--n", help="Peers; may be repeated (default: 8).")] = None,
    f: Annotated[
        list[int] | None, typer.Option("--f", help="Liars among them, one for each --n (default: a quarter).")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this attack, or none; may be repeated.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="default, mean, or fields of [robustness] such as rule=centered_clip,clip_radius=0.5; "
            "may be repeated (default: default and mean).",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each kind.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds of a run.")] = 40,
    steps: Annotated[int, typer.Option(help="Inner steps of a round.")] = 10,
    model: Annotated[str, typer.Option(help="llama, or bigram: a table of byte pairs.")] = "llama",
    codec: Annotated[str, typer.Option(help="Codec of contributions and aggregates.")] = "int8",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep rows in FILE as JSON; those that it has are not run again."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train a swarm in which some peers lie: held-out loss under each attack and rule. Takes long."""
    from talkoot.cli.bench_attacks import run

    sizes = n or [8]
    run(
        n=sizes,
        f=f if f is not None else [size // 4 for size in sizes],
        attacks=attack or [],
        rules=rule or [],
        out=out,
        json=json,
        seeds=seeds,
        rounds=rounds,
        steps=steps,
        model=model,
        codec=codec,
    )
