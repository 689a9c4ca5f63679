"""`talkoot page`: the address of the page that shows the running node, with the right to pause it."""

import webbrowser
from typing import Annotated

import typer

from talkoot.cli.errors import CommandError
from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.words import as_json


def page(
    opened: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Print the address of the node's page. Whoever has it may pause and end the node: keep it secret."""
    from talkoot.cli.local_api import LocalApi

    address = LocalApi(state_path(state_dir)).page()
    typer.echo(as_json({"url": address}) if json else address)
    if opened and not webbrowser.open(address):
        raise CommandError("no browser can be opened here: open the address yourself")
