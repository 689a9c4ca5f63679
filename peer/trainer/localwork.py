"""What a peer has done since the outer parameters it started from, and how that survives an orderly stop.

One safetensors file holds the vectors and, in its metadata, `LocalWork` as JSON and a checksum of all: it is
there whole, or not at all.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from talkoot.dht.errors import ConfigError
from talkoot.peer.disk import fault_of
from talkoot.peer.files import fsync_directory

Vector = np.ndarray[Any, Any]
Vectors = Mapping[str, Vector]

FORMAT = "1"
"""Changes when an older version could not make sense of the file."""

BASE = "base"
"""Name of the vector that `LocalWork.base` stands for."""


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


def save(state_dir: Path, work: LocalWork, vectors: Vectors, base: Vector) -> None:
    """Write all of it: beside the old file, fsync, rename. Raises OSError.

    `base` is the vector that the next rebase subtracts: where the swarm has moved on when this peer is back,
    nobody may have it any more.
    """
    path = file_of(state_dir)
    fresh = path.with_suffix(".new")
    whole = {**vectors, BASE: base}
    header = msgspec.json.encode(work).decode()
    try:
        save_file(
            whole, fresh, metadata={"format": FORMAT, "work": header, "checksum": _checksum(header, whole)}
        )
    except SafetensorError as error:  # how the library reports a full disk
        fresh.unlink(missing_ok=True)
        raise OSError(f"cannot write {fresh}: {error}") from error
    replace_synced(fresh, path)


def load(
    state_dir: Path, *, digest: str, round_: int
) -> tuple[LocalWork, dict[str, np.ndarray[Any, Any]]] | None:
    """Saved local work, or None when there is none or it is damaged.

    Where it belongs to another outer state than this one `BASE` is among the vectors.
    Raises ConfigError for a file of another format: it may be of use to the version that wrote it. Raises
    OSError for a fault of the disk that may pass.
    """
    path = file_of(state_dir)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _require_format(path, metadata.get("format", ""))
            header = metadata.get("work", "")
            work = msgspec.json.decode(header, type=LocalWork)
            names = sorted(file.keys())
            found = ((name, file.get_tensor(name)) for name in names)  # one in memory at a time
            if _checksum_of(header, found) != metadata.get("checksum"):
                raise ValueError("it does not fit its checksum")
            if (work.digest, work.round) == (digest, round_):
                names.remove(BASE)
            return work, {name: file.get_tensor(name) for name in names}
    except ConfigError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        if fault_of(error) is not None:
            raise
        sys.stderr.write(f"local work of before the stop is lost, {path} is damaged: {error}\n")
        return None


def _require_format(path: Path, found: str) -> None:
    if found != FORMAT:
        raise ConfigError(
            f"{path} was written by another version of talkoot (format {found[:8] or '?'}, this one reads "
            f"{FORMAT}): start that version once more, or move the file away to go on without that work"
        )


def _checksum(header: str, vectors: Vectors) -> str:
    return _checksum_of(header, sorted(vectors.items()))


def _checksum_of(header: str, vectors: Iterable[tuple[str, Vector]]) -> str:
    hasher = blake3(header.encode(), derive_key_context="talkoot 2026 local work")
    for name, vector in vectors:
        hasher.update(f"\0{name} {vector.dtype.str} {vector.size}\0".encode())
        hasher.update(np.ascontiguousarray(vector).view(np.uint8).data)
    return hasher.hexdigest()


def discard(state_dir: Path) -> None:
    """Forget what was saved, durably: it is older than what others are about to see of this peer."""
    path = file_of(state_dir)
    if path.exists():
        path.unlink()
        fsync_directory(state_dir)


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
