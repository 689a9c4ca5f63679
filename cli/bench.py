"""`talkoot bench`: measurements that anybody can repeat."""

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
    codec: Annotated[str, typer.Option(help="Codec in both directions.")] = "int8",
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds to measure.")] = 5,
    exchange: ExchangeOption = ExchangeMode.dense,
    json: JsonOption = False,
) -> None:
    """Time one round (network and arithmetic, no training): bytes, seconds, error."""
    from talkoot.peer.bench_round import main as measure

    raise typer.Exit(
        measure(peers=peers, numel=numel, codec=codec, rounds=rounds, exchange=exchange.value, json=json)
    )
