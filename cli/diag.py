"""`talkoot diag`: a bundle for whoever helps, without this node's secrets; with or without a daemon."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkoot.cli.errors import CommandError, NoDaemonError
from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.words import as_json, size
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.diag import Answers

ROUNDS = 200


def diag(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The zip file (default: talkoot-diag-TIME.zip here)."),
    ] = None,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Write a bundle with versions, settings, status, peers, rounds, metrics and the last log lines.

    Keys, tokens, invites, addresses, paths and who peers are, are taken out. Nothing is sent anywhere.
    """
    from talkoot.peer.diag import bundle
    from talkoot.peer.files import atomic_write
    from talkoot.peer.statedir import StateDir

    now = time.time()
    path = out if out is not None else Path(time.strftime("talkoot-diag-%Y%m%d-%H%M%S.zip", time.gmtime(now)))
    if path.exists():
        raise ConfigError(f"{path} exists already: give another --out")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.absolute().parent} is no folder: make it, or give another --out")
    paths = StateDir(state_path(state_dir))
    answers = asked(paths.path)
    data = bundle(paths, answers, now=now)
    try:
        atomic_write(path, data)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
    if json:
        typer.echo(as_json({"path": str(path), "bytes": len(data), "problems": answers.problems}))
        return
    for problem in answers.problems:
        typer.echo(f"note: {problem}")
    typer.echo(
        f"{path} ({size(len(data))}); read README.txt in it, and the rest, before you give it to anybody"
    )


def asked(state_dir: Path) -> "Answers":
    """What the daemon says; what it does not say is a problem of the bundle's."""
    from talkoot.cli.local_api import LocalApi
    from talkoot.peer.diag import Answers

    api, problems = LocalApi(state_dir), list[str]()
    found: dict[str, Any] = {}
    questions: dict[str, Callable[[], object]] = {
        "status": api.status,
        "peers": api.peers,
        "rounds": lambda: api.rounds(ROUNDS),
        "metrics": api.metrics,
    }
    for name, ask in questions.items():
        try:
            found[name] = ask()
        except NoDaemonError as error:
            problems.append(str(error))
            break
        except CommandError as error:
            problems.append(f"{name}: {error}")
    return Answers(**found, problems=problems)
