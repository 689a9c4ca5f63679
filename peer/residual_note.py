"""What an orderly stop writes down about the residual, beside the vector; a killed process leaves none."""

import logging
from pathlib import Path

import msgspec
import torch
from blake3 import blake3

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.digest import tensor_bytes
from talkoot.peer.contribution_log import Dropped
from talkoot.peer.files import atomic_write, fsync_directory

log = logging.getLogger("talkoot.work")

NAME = "residual.note"
MAGIC = b"talkoot residual 1\n"

_CHECKSUM_BYTES = 32
_DOMAIN = "talkoot 2026 note of the residual"


class Saved(msgspec.Struct, forbid_unknown_fields=True):
    """One entry of the log."""

    header: Contribution
    on_disk: bool
    counted: bool
    live: bool


class Note(msgspec.Struct, forbid_unknown_fields=True):
    """The books."""

    rounds: int
    tokens: int
    entries: list[Saved]
    dropped: Dropped | None
    carry: bytes
    """Hash of the vector that belongs to them."""


def hash_of(carry_P: torch.Tensor) -> bytes:
    """For `Note.carry`."""
    return blake3(tensor_bytes(carry_P), derive_key_context=_DOMAIN).digest()


def write(path: Path, note: Note) -> None:
    """Durable on return. Raises OSError."""
    body = msgspec.msgpack.encode(note)
    atomic_write(path, MAGIC + _checksum(body) + body)


def read(path: Path, carry_P: torch.Tensor) -> Note | None:
    """The note; None where there is none, and where note or vector are damaged. Raises OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    note = _decoded(data)
    if note is None or note.carry != hash_of(carry_P):
        log.warning("%s or its vector is damaged; what was carried over is lost", path)
        return None
    return note


def remove(path: Path) -> None:
    """Remove the note, durably: it must not come back once the vector has changed. Raises OSError."""
    path.unlink(missing_ok=True)
    fsync_directory(path.parent)


def _decoded(data: bytes) -> Note | None:
    start = len(MAGIC) + _CHECKSUM_BYTES
    body = data[start:]
    if data[:start] != MAGIC + _checksum(body):
        return None
    try:
        return msgspec.msgpack.decode(body, type=Note)
    except ValueError:
        return None


def _checksum(body: bytes) -> bytes:
    return blake3(body, derive_key_context=_DOMAIN).digest(_CHECKSUM_BYTES)
