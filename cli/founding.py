"""`talkoot init`: a folder with a commented manifest, ready to be founded by `talkoot run`."""

from pathlib import Path
from typing import Annotated

import typer

from talkoot.dht.errors import ConfigError


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="tiny, small, lan or public: how large, how far apart.")
    ] = "small",
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Name of the swarm (default: DIR's).")
    ] = None,
) -> None:
    """Write a commented manifest for a new swarm into DIR."""
    from talkoot.peer import manifest_file, presets

    path = folder / manifest_file.FILE_NAME
    if path.exists():
        raise ConfigError(f"{path} exists already; choose another folder or edit it")
    try:
        manifest = presets.make(preset, name=name or folder.resolve().name)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    manifest_file.save(manifest, path)
    typer.echo(f"Wrote {path}. Read it, change what you like, then found the swarm:")
    typer.echo(f"  talkoot run {path}")
