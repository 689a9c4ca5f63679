"""`talkoot verify`: checks a checkpoint or a state directory; no daemon is needed, and none is disturbed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkoot.cli.errors import FAILED
from talkoot.cli.options import JsonOption
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.verify import Report


def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Checkpoint file, or state directory.")],
    json: JsonOption = False,
) -> None:
    """Check a checkpoint or a state directory: format, digest, signatures, chain of voters.

    Exit code 0: all that could be checked holds. 1: something does not. 2: there is nothing to check.
    """
    from talkoot.peer.checkpoint_file import NotACheckpointError
    from talkoot.peer.verify import verify as check

    try:
        report = check(path)
    except NotACheckpointError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (FileNotFoundError, PermissionError) as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    typer.echo(_json(report) if json else report_text(report))
    if not report.ok:
        raise typer.Exit(FAILED)


def report_text(report: "Report") -> str:
    """A line for each fact and each check, and the verdict; nothing in them acts on a terminal."""
    from talkoot.peer.model_card import plain

    lines = [f"{name:12} {plain(str(value))}" for name, value in report.facts.items()]
    lines += [f"{check.result:12} {check.name}: {plain(check.words)}" for check in report.checks]
    lines.append("verified" if report.ok else f"{report.path} does not hold")
    return "\n".join(lines)


def _json(report: "Report") -> str:
    import msgspec

    values = msgspec.to_builtins(report) | {"ok": report.ok}
    return msgspec.json.format(msgspec.json.encode(values), indent=2).decode()
