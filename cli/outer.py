"""Reads the manifest and the committed parameters of a peer, also while its daemon runs; without torch."""

from pathlib import Path
from typing import TYPE_CHECKING

from talkoot.cli.errors import CommandError
from talkoot.dht.errors import ConfigError
from talkoot.peer import parameters
from talkoot.peer.head import Head, StoreCorruptError
from talkoot.peer.statedir import StateDir

if TYPE_CHECKING:
    from talkoot.peer.manifest import Manifest
    from talkoot.peer.trainer.layout import Flat


def read_parameters(state_dir: Path) -> "tuple[Head, Flat]":
    """The committed head and a copy of its parameters: flat little-endian fp32.

    Raises ConfigError where nothing was committed, CommandError where it is damaged.
    """
    try:
        return parameters.read_parameters(state_dir)
    except StoreCorruptError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error


def read_manifest(directory: Path) -> "Manifest":
    """The sealed manifest that the daemon kept. Raises ConfigError."""
    from talkoot.peer.manifest import from_canonical

    data = StateDir(directory).load_manifest()
    if data is None:
        raise ConfigError(f"{directory} holds no swarm; give --state-dir, or start with talkoot run")
    try:
        return from_canonical(data)
    except ValueError as error:
        raise ConfigError(f"{directory}: the manifest is damaged: {error}") from error
