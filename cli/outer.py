"""Reads the manifest and the committed parameters of a peer, also while its daemon runs; without torch."""

from pathlib import Path
from typing import TYPE_CHECKING

from talkoot.cli.errors import CommandError
from talkoot.dht.errors import ConfigError
from talkoot.peer.head import Head, StoreCorruptError, read_head
from talkoot.peer.statedir import StateDir

if TYPE_CHECKING:
    from talkoot.peer.manifest import Manifest
    from talkoot.peer.trainer.layout import Flat

THETA = "theta.f32"
"""Name of the parameters in a generation (`talkoot.peer.generation.THETA`, which needs torch)."""

MAX_TRIES = 100


def read_parameters(state_dir: Path) -> "tuple[Head, Flat]":
    """The committed head and a copy of its parameters: flat little-endian fp32.

    A daemon overwrites a generation only after it committed the other one, so the copy is whole if the head
    is the same afterwards. Raises ConfigError where nothing was committed, CommandError where it is damaged.
    """
    import numpy as np

    outer = StateDir(state_dir).outer
    head = _head(outer)
    for _ in range(MAX_TRIES):
        try:
            theta = np.fromfile(outer / head.generation / THETA, dtype="<f4")
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from error
        after = _head(outer)
        if after.round == head.round and after.digest == head.digest:
            return head, theta
        head = after
    raise CommandError("the outer state changes faster than it can be read")


def _head(outer: Path) -> Head:
    try:
        head = read_head(outer)
    except StoreCorruptError as error:
        raise CommandError(str(error)) from error
    if head is None:
        raise ConfigError(f"{outer.parent} holds no model yet")
    return head


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
