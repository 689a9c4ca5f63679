"""`talkoot explore`: a swarm as it is seen from outside: in a terminal, as JSON, as a page for everybody."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from talkoot.cli.errors import CommandError
from talkoot.cli.options import JsonOption
from talkoot.cli.words import as_json
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from talkoot.dht.outside.follower import Follower
    from talkoot.dht.outside.reading import Reading
    from talkoot.peer.invite import Invite

PORT = 8470
"""Where the page is served unless another port is named."""

PATIENCE_S = 15.0
"""How long nobody's answer is waited for."""

VISITS_S = 3.0
"""How long one reading waits for the visits of peers once the directory was read."""

FIRST_S = 0.1
"""Between two looks until there is anything to see."""

LOOK_S = 0.25
"""Longest time until a changed size of the terminal is seen."""


class ServeCommand(TyperCommand):
    """`--serve` alone means the usual port."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the port where it was left out."""
        given: list[str] = []
        for number, word in enumerate(args):
            given.append(word)
            following = args[number + 1 : number + 2]
            if word == "--serve" and not (following and following[0].isdigit()):
                given.append(str(PORT))
        return super().parse_args(ctx, given)


def explore(
    invite: Annotated[str, typer.Argument(metavar="INVITE", help="An invite to the swarm.")],
    once: Annotated[bool, typer.Option("--once", help="Print once and end, as into a pipe.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.2, max=3600, help="Between two looks.")
    ] = 1.0,
    serve: Annotated[
        int | None,
        typer.Option(
            "--serve",
            metavar="[PORT]",
            min=0,
            max=65535,
            help=f"Serve a page, JSON, /metrics and /sd for Prometheus (port {PORT}; 0: any).",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="IP", help="Publish what --serve serves: listen here, not on 127.0.0.1."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Follow a swarm from outside: who is there, how they are reached, which round, which loss.

    Takes part in nothing, and needs neither GPU nor PyTorch. Announcements are verified; what they say is
    their owners' word. Until q is pressed; into a pipe it prints once.
    """
    from talkoot.dht.outside import available

    available.check()
    swarm = _invite(invite)
    if host is not None and serve is None:
        raise ConfigError("--host is for what --serve serves: add --serve")
    if serve is not None:
        if once or json:
            raise ConfigError("--serve goes on until it is stopped: leave out --once and --json")
        _serve(swarm, host or "127.0.0.1", serve)
        return
    _show(swarm, once=once, interval=interval, json=json)


def _invite(text: str) -> "Invite":
    from talkoot.peer.invite import decode

    try:
        return decode(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _serve(invite: "Invite", host: str, port: int) -> None:
    import asyncio

    from talkoot.peer.exploring.server import is_published

    is_published(host)  # before anything is loaded that takes a second
    from talkoot.peer.exploring.run import serve
    from talkoot.peer.logs import configure

    configure(sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    try:
        asyncio.run(
            serve(
                invite.swarm,
                invite.addresses,
                host=host,
                port=port,
                started=lambda port: typer.echo(f"http://{shown}:{port}/"),
            )
        )
    except* ConfigError as errors:
        raise errors.exceptions[0] from None


def _show(invite: "Invite", *, once: bool, interval: float, json: bool) -> None:
    from rich.console import Console

    from talkoot.dht.outside.follower import following

    console = Console(file=sys.stdout)
    live = not (once or json) and console.is_terminal and not console.is_dumb_terminal
    with following(invite.swarm, invite.addresses) as follower:
        if live:
            _live(console, follower, invite, interval)
            return
        reading = _one_reading(follower)
        if json:
            typer.echo(as_json(_picture(reading, invite)))
        else:
            from talkoot.cli.explore_frame import snapshot

            typer.echo(snapshot(_picture(reading, invite)))


def _one_reading(follower: "Follower") -> "Reading":
    """The first whole look, with what visits showed within a short time. Raises CommandError."""
    reading = follower.wait(lambda seen: seen.looks > 0, PATIENCE_S)
    if not reading.nodes:
        raise CommandError(
            f"no peer of the invite answered ({', '.join(sorted(reading.failures)) or 'not in time'}); "
            "is the swarm running? Else ask for a new invite"
        )
    return follower.wait(lambda seen: all(peer.visit is not None for peer in seen.peers), VISITS_S)


def _picture(reading: "Reading", invite: "Invite") -> dict[str, object]:
    from talkoot.peer.exploring.view import picture

    return picture(reading, invite.swarm)


def _live(console: "Console", follower: "Follower", invite: "Invite", interval: float) -> None:
    """Draw until somebody quits."""
    from rich.live import Live

    from talkoot.cli.explore_frame import screen
    from talkoot.cli.keys import keys
    from talkoot.cli.top import QUIT

    try:
        with keys() as key, Live(console=console, screen=True, auto_refresh=False) as shown:
            while True:
                reading = follower.reading
                picture = _picture(reading, invite)
                pause_s = interval if reading.peers else FIRST_S
                due, drawn = time.monotonic() + pause_s, None
                while (left := due - time.monotonic()) > 0:
                    if drawn != console.size:
                        drawn = console.size
                        shown.update(screen(picture, *console.size), refresh=True)
                    if key(min(LOOK_S, left)) in QUIT:
                        return
    except (KeyboardInterrupt, EOFError):
        return
