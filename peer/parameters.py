"""Reads the committed parameters of a peer, also while its daemon runs; without torch."""

from pathlib import Path
from typing import TYPE_CHECKING

from talkoot.dht.errors import ConfigError
from talkoot.peer.head import Head, StoreCorruptError, read_head
from talkoot.peer.statedir import StateDir

if TYPE_CHECKING:
    from talkoot.peer.trainer.layout import Flat

THETA = "theta.f32"
"""Name of the parameters in a generation (`talkoot.peer.generation.THETA`, which needs torch)."""

MAX_TRIES = 100


def read_parameters(state_dir: Path) -> "tuple[Head, Flat]":
    """The committed head and a copy of its parameters: flat little-endian fp32.

    A daemon overwrites a generation only after it committed the other one, so the copy is whole if the head
    is the same afterwards. Raises ConfigError where nothing was committed, StoreCorruptError where it is
    damaged or changes all the time, OSError.
    """
    import numpy as np

    outer = StateDir(state_dir).outer
    head = _head(outer)
    for _ in range(MAX_TRIES):
        theta = np.fromfile(outer / head.generation / THETA, dtype="<f4")
        after = _head(outer)
        if after.round == head.round and after.digest == head.digest:
            return head, theta
        head = after
    raise StoreCorruptError("the outer state changes faster than it can be read")


def _head(outer: Path) -> Head:
    head = read_head(outer)
    if head is None:
        raise ConfigError(f"{outer.parent} holds no model yet")
    return head
