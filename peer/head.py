"""HEAD of the outer state: the small file that says which generation is committed, and what it is.

SNAPSHOT, in the same form, names the one that is kept for others to download.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
from blake3 import blake3

from talkoot.peer.files import atomic_write, ignore_step

HEAD = "HEAD"
SNAPSHOT = "SNAPSHOT"

MAX_HEAD_BYTES = 16 << 20
"""Longest HEAD that is read; a ledger and a certificate are far below."""

MAGIC = b"talkoot head 1\n\0"
_CHECKSUM_BYTES = 32
_DOMAIN = "talkoot 2026 head of the outer state"


class StoreMissingError(Exception):
    """Nothing was ever committed in this directory."""


class StoreCorruptError(Exception):
    """The disk does not hold what was committed; the state must come from other peers."""


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A committed outer state, all but its two vectors."""

    generation: str
    """Name of the directory with the vectors."""
    round: int
    """Number of committed rounds."""
    digest: bytes
    """32 bytes: digest of vectors and ledger."""
    ledger: bytes
    """Encoded ledger."""
    certificate: bytes
    """Encoded certificate of the last round; empty at genesis."""


def read_head(path: Path, name: str = HEAD) -> Head | None:
    """The HEAD in a store's directory; None if there is none. Raises StoreCorruptError, OSError."""
    try:
        with (path / name).open("rb") as file:
            data = file.read(MAX_HEAD_BYTES + 1)
    except FileNotFoundError:
        return None
    start = len(MAGIC) + _CHECKSUM_BYTES
    body = data[start:]
    if len(data) > MAX_HEAD_BYTES or data[:start] != MAGIC + _checksum(body):
        raise StoreCorruptError(f"{path / name} does not fit its checksum")
    try:
        head = msgspec.msgpack.decode(body, type=Head)
    except (ValueError, RecursionError) as error:
        raise StoreCorruptError(f"{path / name} is malformed: {error}") from error
    if head.generation in ("", ".", "..") or "/" in head.generation:
        raise StoreCorruptError(f"{path / name} names no directory: {head.generation!r}")
    return head


def write_head(
    path: Path, head: Head, *, name: str = HEAD, hook: Callable[[str], None] = ignore_step
) -> None:
    """Replace HEAD. Raises OSError as `atomic_write` does."""
    body = msgspec.msgpack.encode(head)
    atomic_write(path / name, MAGIC + _checksum(body) + body, hook=hook)


def _checksum(body: bytes) -> bytes:
    return blake3(body, derive_key_context=_DOMAIN).digest()
