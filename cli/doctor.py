"""`talkoot doctor`: what this machine and its connection are good for, and what to change."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkoot.cli.errors import CommandError, NoDaemonError
from talkoot.cli.options import JsonOption, StateDirOption, parse_bytes, state_path
from talkoot.cli.words import as_json, printable
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.doctor.consult import Daemon, Question
    from talkoot.peer.doctor.report import Check, Conclusion

NAME_WIDTH = 16
"""Of the column of names."""

STYLES = {"yes": "green", "no": "red", "unknown": "yellow"}

EXAMINE_S = 40.0
"""Longest wait for the daemon's questions to its peers."""


def doctor(
    invite: Annotated[
        str | None, typer.Argument(metavar="[INVITE]", help="A talkoot:// invite: looks at its swarm, too.")
    ] = None,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
    port: Annotated[int, typer.Option(help="TCP port for other peers, as with talkoot run.")] = 0,
    listen: Annotated[list[str] | None, typer.Option(metavar="IP", help="IP address to listen on.")] = None,
    profile: Annotated[str, typer.Option(help="home, lan or test: which addresses are used.")] = "home",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads for training; 0: all cores.")] = 0,
    memory_limit: Annotated[
        str, typer.Option(metavar="SIZE", help="Device memory for training, such as 6GB; 0: no limit.")
    ] = "0",
    relay: Annotated[
        list[str] | None, typer.Option(metavar="ADDR", help="Multiaddr with /p2p/ of a relay to look at.")
    ] = None,
) -> None:
    """Say whether this machine will be counted in a swarm and, for all that is wrong, what to do.

    Looks at Python, torch, GPU, memory, disk, clock, ports and NAT; with an INVITE also at its swarm: asks
    several of its peers to dial this machine, times bytes both ways, and makes a few steps of its model.
    Changes nothing. Takes about a minute; exit code 0 if this peer will take part, 1 if not.
    """
    import asyncio

    from talkoot.peer.doctor.consult import Doctor

    question = _question(
        invite,
        state_path(state_dir),
        {"port": port, "listen": tuple(listen or ()), "profile": profile},
        {"device": device, "threads": threads, "memory_limit_bytes": parse_bytes(memory_limit)},
        tuple(relay or ()),
    )
    screen = _Screen(quiet=json)
    consultation = Doctor(question, screen.check, _daemon(question.paths.path))
    conclusion = asyncio.run(consultation.run())
    if json:
        typer.echo(as_json(_as_dict(consultation.checks, conclusion)))
    else:
        screen.end(consultation.checks, conclusion)
    raise typer.Exit(conclusion.exit_code)


def _question(
    text: str | None,
    path: Path,
    network: dict[str, Any],
    device: dict[str, Any],
    relays: tuple[str, ...],
) -> "Question":
    """Raises ConfigError for what is wrong with an argument."""
    from talkoot.peer import invite
    from talkoot.peer.doctor.consult import Question
    from talkoot.peer.doctor.machine import Device
    from talkoot.peer.network_options import network_config
    from talkoot.peer.options import RunOptions
    from talkoot.peer.statedir import StateDir

    given, other = None, None
    if text is not None:
        try:
            given = invite.decode(text)
        except invite.OtherProtocolError as error:
            if error.theirs == 0:  # there never was such a version
                raise ConfigError("the invite's content is not valid; ask for a new one") from error
            other = error
        except ValueError as error:
            raise ConfigError(str(error)) from error
    try:
        options = RunOptions(state_dir=path, relays=relays, **network, **device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if options.device.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"--device {options.device}: write auto, cpu, cuda, cuda:N or mps")
    return Question(
        paths=StateDir(path),
        config=network_config(options, ()),
        device=Device(**device),
        invite=given,
        other_protocol=other,
        relays=relays,
    )


class _Asked:
    """A running daemon; what it cannot say now is as good as nothing."""

    def __init__(self, path: Path) -> None:
        from talkoot.cli.local_api import LocalApi

        self._api = LocalApi(path, timeout_s=EXAMINE_S)

    def status(self) -> dict[str, Any]:
        try:
            return self._api.status()
        except (NoDaemonError, CommandError):
            return {}

    def examine(self) -> list[dict[str, Any]]:
        try:
            return self._api.examine()
        except (NoDaemonError, CommandError):
            return []


def _daemon(path: Path) -> "Daemon | None":
    """The daemon of the state directory, if one answers."""
    daemon = _Asked(path)
    return daemon if daemon.status() else None


def _as_dict(checks: "list[Check]", conclusion: "Conclusion") -> dict[str, Any]:
    import msgspec

    return {"checks": msgspec.to_builtins(checks), **msgspec.to_builtins(conclusion)}


class _Screen:
    """Tells each check as it is known; says the same without colours."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._quiet = quiet

    def check(self, check: "Check") -> None:
        """One line."""
        if self._quiet:
            return
        from rich.text import Text

        style = "dim" if check.answer == "no" and not check.is_problem else STYLES[check.answer]
        line = Text(f"{check.answer:8}", style=style)
        line.append(f"{check.name:{NAME_WIDTH}}", style="default").append(
            printable(check.words), style="default"
        )
        self._console.print(line)

    def end(self, checks: "list[Check]", conclusion: "Conclusion") -> None:
        """What to do, each fix on a line of its own, and the verdict."""
        from rich.text import Text

        from talkoot.peer.doctor.report import problems

        for number, check in enumerate(problems(checks), 1):
            self._console.print(Text(f"\n{number}. {check.name}: {printable(check.words)}"))
            self._console.print(Text(f"   {check.fix}", style="bold"))
        style = "bold green" if conclusion.exit_code == 0 else "bold red"
        self._console.print(Text(f"\n{printable(conclusion.words)}", style=style))
