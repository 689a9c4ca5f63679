"""`talkoot doctor`: what this machine and its connection are good for, and what to change."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkoot.cli.errors import CommandError, NoDaemonError
from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.words import as_json, printable
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.config.configuration import Flags
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
    port: Annotated[int | None, typer.Option(help="TCP port for other peers, as with talkoot run.")] = None,
    listen: Annotated[list[str] | None, typer.Option(metavar="IP", help="IP address to listen on.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="home, server, lowpower, lan or test: which addresses are used.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for training; 0: all cores.")] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Device memory for training, such as 6GB; none: no limit."),
    ] = None,
    relay: Annotated[
        list[str] | None, typer.Option(metavar="ADDR", help="Multiaddr with /p2p/ of a relay to look at.")
    ] = None,
) -> None:
    """Say whether this machine will be counted in a swarm and, for all that is wrong, what to do.

    Looks at Python, torch, GPU, memory, disk, clock, ports and NAT; with an INVITE also at its swarm: asks
    several of its peers to dial this machine, times bytes both ways, and makes a few steps of its model.
    Changes nothing. Takes about a minute; exit code 0 if this peer will take part, 1 if not.

    Options that are not given are taken as talkoot run would: from the environment, config.toml, the profile.
    """
    import asyncio

    from talkoot.peer.doctor.consult import Doctor

    given: dict[str, tuple[str, object]] = {
        "network.port": ("--port", port),
        "network.listen": ("--listen", listen),
        "network.relays": ("--relay", relay),
        "node.profile": ("--profile", profile),
        "node.device": ("--device", device),
        "limits.threads": ("--threads", threads),
        "limits.gpu_memory": ("--memory-limit", memory_limit),
    }
    flags = {key: (flag, value) for key, (flag, value) in given.items() if value is not None}
    question = _question(invite, state_path(state_dir), flags)
    screen = _Screen(quiet=json)
    consultation = Doctor(question, screen.check, _daemon(question.paths.path))
    conclusion = asyncio.run(consultation.run())
    if json:
        typer.echo(as_json(_as_dict(consultation.checks, conclusion)))
    else:
        screen.end(consultation.checks, conclusion)
    raise typer.Exit(conclusion.exit_code)


def _question(text: str | None, path: Path, flags: "Flags") -> "Question":
    """Raises ConfigError for what is wrong with an argument or a setting."""
    from talkoot.peer import invite
    from talkoot.peer.config.configuration import Configuration
    from talkoot.peer.doctor.consult import Question
    from talkoot.peer.doctor.machine import Device
    from talkoot.peer.network_options import network_config
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
    options = Configuration.load(path.expanduser().absolute(), os.environ, flags).options()
    return Question(
        paths=StateDir(options.state_dir),
        config=network_config(options, ()),
        device=Device(
            device=options.device, threads=options.threads, memory_limit_bytes=options.memory_limit_bytes
        ),
        invite=given,
        other_protocol=other,
        relays=options.relays,
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
