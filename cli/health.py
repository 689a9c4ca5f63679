"""`talkoot healthcheck`: for containers and supervisors, which want an exit code."""

import typer

from talkoot.cli.errors import CommandError, NoDaemonError
from talkoot.cli.options import StateDirOption, state_path

TIMEOUT_S = 5.0


def healthcheck(state_dir: StateDirOption = None) -> None:
    """Say whether the daemon answers and has not failed: exit code 0, else 1. A paused node is healthy."""
    from talkoot.cli.local_api import LocalApi

    try:
        answer = LocalApi(state_path(state_dir), timeout_s=TIMEOUT_S).health()
    except NoDaemonError as error:
        raise CommandError(str(error)) from error
    typer.echo(" ".join(str(answer[name]) for name in ("state", "reason") if answer.get(name)))
