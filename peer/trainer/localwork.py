"""What a peer has done since the outer parameters it started from, and how that survives an orderly stop.

One safetensors file holds the vectors and, in its metadata, `LocalWork` as JSON: it is there whole, or not
at all.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from talkoot.peer.files import fsync_directory

Vectors = Mapping[str, np.ndarray[Any, Any]]


class LocalWork(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the local parameters come from and how far they are."""

    round: int
    digest: str
    """Of the outer state that local work started from, hex."""
    global_step: int
    """The swarm's step when it was taken up."""
    base: str
    """File that the next rebase subtracts: the latest snapshot, or else the outer parameters."""
    since_start: int = 0
    """Local steps that `global_step` does not count."""
    since_reset: int | None = None
    """Steps since AdamW started cold in the middle of a run."""
    steps: int = 0
    """Since the last snapshot."""
    tokens: int = 0
    """Since the last snapshot."""
    seconds: float = 0.0
    """Inside those steps."""
    position: int = 0
    """Windows drawn of the round's sequence."""


def file_of(state_dir: Path) -> Path:
    """Where local work is saved."""
    return state_dir / "local.safetensors"


def save(state_dir: Path, work: LocalWork, vectors: Vectors) -> None:
    """Write all of it: beside the old file, fsync, rename. Raises OSError."""
    path = file_of(state_dir)
    fresh = path.with_suffix(".new")
    try:
        save_file(dict(vectors), fresh, metadata={"work": msgspec.json.encode(work).decode()})
    except SafetensorError as error:  # how the library reports a full disk
        fresh.unlink(missing_ok=True)
        raise OSError(f"cannot write {fresh}: {error}") from error
    replace_synced(fresh, path)


def load(
    state_dir: Path, *, digest: str, round_: int
) -> tuple[LocalWork, dict[str, np.ndarray[Any, Any]]] | None:
    """Local work that belongs to an outer state, or None when there is none or it is damaged."""
    path = file_of(state_dir)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            work = msgspec.json.decode((file.metadata() or {}).get("work", ""), type=LocalWork)
            if work.digest != digest or work.round != round_:
                return None
            return work, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, ValueError, SafetensorError):
        return None


def discard(state_dir: Path) -> None:
    """Forget what was saved: it is older than what others have seen of this peer."""
    file_of(state_dir).unlink(missing_ok=True)


def write_vector(path: Path, chunks: Callable[[], Any]) -> None:
    """Write pieces of a vector to a new file that takes the place of `path`.

    Who has the old file mapped keeps it. Not fsynced: after a crash nobody needs it. Raises OSError.
    """
    fresh = path.with_suffix(".new")
    try:
        with fresh.open("wb") as file:
            for chunk in chunks():
                file.write(np.ascontiguousarray(chunk, dtype="<f4").view(np.uint8).data)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    fresh.replace(path)


def replace_synced(fresh: Path, path: Path) -> None:
    """fsync `fresh`, rename it to `path`, fsync the folder. Raises OSError."""
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
    fsync_directory(path.parent)
