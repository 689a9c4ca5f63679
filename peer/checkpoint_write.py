"""Copies a committed outer state into a checkpoint file while rounds go on.

Each chunk is copied once, then compared with its hash in the state's tree: a generation keeps its content
until the second `stage` after its commit, and a copy that was overtaken by that ends there. Nothing larger
than a chunk is in anonymous memory. Calls block on the disk for as long as it takes: a worker thread.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from talkoot.averaging.digest import CHUNK_BYTES, StateTree, leaf, tensor_bytes
from talkoot.peer.checkpoint_file import (
    CheckpointDamagedError,
    Contents,
    NotACheckpointError,
    open_checkpoint,
)
from talkoot.peer.files import fsync_directory, ignore_step

FLUSH_BYTES = 64 << 20
"""So much is written before it is waited for, so that the rounds' own writes never queue behind gigabytes."""


class OvertakenError(Exception):
    """The state was overwritten by a later round while it was copied."""


class StoppedError(Exception):
    """The node ends; the checkpoint is given up."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A committed outer state, as it is now. Its vectors may be overwritten after the next commit."""

    contents: Contents
    tree: StateTree
    """What the vectors must hash to."""
    theta: torch.Tensor
    momentum: torch.Tensor

    @property
    def num_bytes(self) -> int:
        """Of the file that it makes."""
        return len(self.contents.header()) + 8 * self.contents.numel


def write_checkpoint(
    source: Source,
    path: Path,
    *,
    stopped: Callable[[], bool] = lambda: False,
    hook: Callable[[str], None] = ignore_step,
) -> int:
    """Write, verify by reading it back, and only then give it its name. Returns its bytes.

    Raises OvertakenError, StoppedError, CheckpointDamagedError (the disk does not give back what was
    written), OSError; then nothing is left of it, and what had the name before still has it.
    """
    temporary = temporary_of(path)
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0):
            num_bytes = _fill(descriptor, source, stopped)
            hook("checkpoint written")
        _read_back(temporary, source, stopped)
        hook("checkpoint verified")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # it is not there any more where all went well
    hook("checkpoint renamed")
    fsync_directory(path.parent)
    return num_bytes


def temporary_of(path: Path) -> Path:
    """Where a checkpoint is while it is written."""
    return path.with_name(f".{path.name}.tmp")


def _fill(descriptor: int, source: Source, stopped: Callable[[], bool]) -> int:
    header = source.contents.header()
    num_bytes = len(header) + 8 * source.contents.numel
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)  # a full disk is found before anything is written
    _write_all(descriptor, header)
    unflushed = 0
    for vector, leaves in ((source.theta, source.tree.theta), (source.momentum, source.tree.momentum)):
        view = tensor_bytes(vector)
        for index, expected in enumerate(leaves):
            if stopped():
                raise StoppedError("the node ends")
            piece = bytes(view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
            if leaf(piece) != expected:
                raise OvertakenError(f"round {source.contents.ledger.round} was overtaken by later ones")
            _write_all(descriptor, piece)
            unflushed += len(piece)
            if unflushed >= FLUSH_BYTES:
                os.fsync(descriptor)
                unflushed = 0
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # so that the disk is asked, not memory
    return num_bytes


def _read_back(path: Path, source: Source, stopped: Callable[[], bool]) -> None:
    """Raises CheckpointDamagedError, StoppedError, OSError."""

    def go_on() -> None:
        if stopped():
            raise StoppedError("the node ends")

    try:
        written = open_checkpoint(path)
    except NotACheckpointError as error:
        raise CheckpointDamagedError("the disk does not give back what was written") from error
    if written.contents != source.contents or written.tree(go_on).digest != source.tree.digest:
        raise CheckpointDamagedError("the disk does not give back what was written")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
