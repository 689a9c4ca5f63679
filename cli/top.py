"""`talkoot top`: the node and the swarm, live in a terminal; one plain snapshot elsewhere."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from talkoot.cli.errors import CommandError, NoDaemonError
from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.words import as_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from talkoot.cli.local_api import LocalApi
    from talkoot.cli.top_frame import View

ROUNDS = 200
"""Rounds in the curve."""

ANSWER_S = 2.0
"""How long the node may take to answer before it is said to be busy."""

LOOK_S = 0.25
"""Longest time until a changed size of the terminal is seen."""

QUIT = ("q", "Q", "\x1b", "\x04")


def top(
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.2, max=3600, help="Between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and end, as into a pipe.")] = False,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show the node and the swarm, live, until q is pressed.

    Into a pipe, or on a terminal that cannot do more, it prints once. Colours are left out where NO_COLOR is
    set.
    """
    from rich.console import Console

    from talkoot.cli.local_api import LocalApi

    api = LocalApi(state_path(state_dir), timeout_s=ANSWER_S)
    view = look(api)
    if json:
        typer.echo(as_json({"status": view.status, "rounds": view.rounds, "peers": view.peers}))
        return
    console = Console(file=sys.stdout)
    if once or not console.is_terminal or console.is_dumb_terminal:
        typer.echo(snapshot(view, console.width, unicode="utf" in console.encoding))
    else:
        _live(console, api, view, interval)


def look(api: "LocalApi") -> "View":
    """What the node says now. Raises NoDaemonError, CommandError."""
    from talkoot.cli.top_frame import View

    return View(status=api.status(), rounds=api.rounds(ROUNDS), peers=api.peers())


def snapshot(view: "View", width: int, *, unicode: bool) -> str:
    """Everything once, as plain text."""
    from talkoot.cli.top_frame import SNAPSHOT_HEIGHT, frame

    return "\n".join(line.plain for line in frame(view, width, SNAPSHOT_HEIGHT, curve=unicode))


def _live(console: "Console", api: "LocalApi", view: "View", interval: float) -> None:
    """Draw until somebody quits."""
    from rich.live import Live

    from talkoot.cli.keys import keys

    try:
        with keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                due = time.monotonic() + interval
                drawn = None
                while (left := due - time.monotonic()) > 0:
                    if drawn != console.size:
                        drawn = console.size
                        live.update(_screen(view, console), refresh=True)
                    if key(min(LOOK_S, left)) in QUIT:
                        return
                view = _look_again(api, view)
    except (KeyboardInterrupt, EOFError):
        return


def _screen(view: "View", console: "Console") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from talkoot.cli.top_frame import frame

    width, height = console.size
    lines = frame(view, width, height - 1, curve="utf" in console.encoding)
    lines += [Text() for _ in range(height - 1 - len(lines))]
    for line in lines:
        line.no_wrap, line.overflow = True, "crop"
    return Group(*lines, Text("q quits", "dim"))


def _look_again(api: "LocalApi", view: "View") -> "View":
    """What the node says, or what it said last and why there is nothing newer."""
    from dataclasses import replace

    try:
        return look(api)
    except NoDaemonError:
        return replace(view, problem="the daemon has stopped; waiting for it (q quits)")
    except CommandError as error:
        return replace(view, problem=f"{error}; asking again")
