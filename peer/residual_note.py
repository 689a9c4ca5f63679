"""The residual on the disk, a note of what it stands for and the vector: a file that is replaced whole."""

import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch
from blake3 import blake3

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.digest import tensor_bytes
from talkoot.peer.contribution_log import Dropped
from talkoot.peer.files import atomic_write_parts, ignore_step

log = logging.getLogger("talkoot.work")

NAME = "residual.kept"
MAGIC = b"talkoot residual 2\n"

OLD_NAME = "residual.note"
"""Of format 1: a note alone, which an orderly stop left beside the working copy of the vector."""
OLD_MAGIC = b"talkoot residual 1\n"

MAX_NOTE_BYTES = 16 << 20
"""Longest note that is read."""

_CHECKSUM_BYTES = 32
_LENGTH = struct.Struct("<I")
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
    latest: bytes = b""
    """Root of the contribution that holds all of the vector; empty where none does."""


def hash_of(carry_P: torch.Tensor) -> bytes:
    """For `Note.carry`."""
    return blake3(tensor_bytes(carry_P), derive_key_context=_DOMAIN).digest()


def write(
    folder: Path, note: Note, carry_P: torch.Tensor, *, hook: Callable[[str], None] = ignore_step
) -> None:
    """Durable on return; until then what was kept before is still there. Raises OSError."""
    body = msgspec.msgpack.encode(note)
    head = MAGIC + _checksum(body) + _LENGTH.pack(len(body)) + body
    atomic_write_parts(folder / NAME, (head, tensor_bytes(carry_P)), hook=hook)


def read(folder: Path, carry_P: torch.Tensor) -> Note | None:
    """The note, with `carry_P` filled; None where there is none, and where note or vector are damaged.

    With a note of format 1 `carry_P` has to be the working copy, as its process left it. Raises OSError.
    """
    try:
        with (folder / NAME).open("rb") as file:
            note = _decoded(file.read(len(MAGIC) + _CHECKSUM_BYTES), file.read(_LENGTH.size), file)
            if note is not None and file.readinto(tensor_bytes(carry_P)) != 4 * carry_P.numel():
                note = None
    except FileNotFoundError:
        note = _read_old(folder / OLD_NAME)
        if note is None:
            return None
    if note is None or note.carry != hash_of(carry_P):
        log.warning("%s is damaged; what was carried over is lost", folder / NAME)
        return None
    return note


def is_old(folder: Path) -> bool:
    """Whether there is a note of format 1."""
    return (folder / OLD_NAME).exists()


def remove_old(folder: Path) -> None:
    """Remove the note of format 1, once its content was written in the new one. Raises OSError."""
    (folder / OLD_NAME).unlink(missing_ok=True)


def _decoded(start: bytes, length: bytes, file: BinaryIO) -> Note | None:
    """The note that follows in `file`."""
    if len(length) != _LENGTH.size:
        return None
    body = file.read(min(*_LENGTH.unpack(length), MAX_NOTE_BYTES))
    if start != MAGIC + _checksum(body):
        return None
    return _note(body)


def _read_old(path: Path) -> Note | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    start = len(OLD_MAGIC) + _CHECKSUM_BYTES
    note = _note(data[start:]) if data[:start] == OLD_MAGIC + _checksum(data[start:]) else None
    if note is None:
        log.warning("%s is damaged; what was carried over is lost", path)
    return note


def _note(body: bytes) -> Note | None:
    try:
        return msgspec.msgpack.decode(body, type=Note)
    except ValueError:
        return None


def _checksum(body: bytes) -> bytes:
    return blake3(body, derive_key_context=_DOMAIN).digest(_CHECKSUM_BYTES)
