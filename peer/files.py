"""Writing files so that a crash at any instant leaves either the old content or the new."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path


def ignore_step(_step: str) -> None:
    """The hook of ordinary runs; tests pass one that fails or kills at a named step."""


def fsync_directory(path: Path) -> None:
    """Make renames and new names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(
    path: Path, data: bytes, *, mode: int = 0o600, hook: Callable[[str], None] = ignore_step
) -> None:
    """Replace the file at `path`: write beside it, fsync, rename, fsync the directory.

    One writer at a time for each path. Raises OSError; then the old content is still there, unless the
    last step failed: in that case either content may be found after a power failure.
    """
    atomic_write_parts(path, (data,), mode=mode, hook=hook)


def atomic_write_parts(
    path: Path,
    parts: Iterable[bytes | memoryview],
    *,
    mode: int = 0o600,
    hook: Callable[[str], None] = ignore_step,
) -> None:
    """As `atomic_write`, with content that is not in one piece."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write_synced(temporary, parts, mode)
        hook(f"{path.name} written")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    hook(f"{path.name} renamed")
    fsync_directory(path.parent)
    hook(f"{path.name} durable")


def _write_synced(path: Path, parts: Iterable[bytes | memoryview], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.writelines(parts)
        file.flush()
        os.fsync(descriptor)
