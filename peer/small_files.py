"""The small files of a state directory: read whole, written whole, and what the operator is told else."""

from pathlib import Path

from talkoot.dht.errors import ConfigError
from talkoot.peer.files import atomic_write

MAX_SMALL_FILE_BYTES = 256 * 1024
"""Longest file that is read; the longest of them is a manifest."""


def read_small(path: Path) -> bytes | None:
    """Its content, None when there is no such file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SMALL_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_SMALL_FILE_BYTES:
        raise ConfigError(f"{path} is damaged: it is longer than {MAX_SMALL_FILE_BYTES} bytes")
    return data


def write_small(path: Path, data: bytes) -> None:
    """Replace it, durably. Raises ConfigError."""
    try:
        atomic_write(path, data)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> ConfigError:
    """How the operator hears of it."""
    return ConfigError(f"cannot write {path}: {error.strerror}")
