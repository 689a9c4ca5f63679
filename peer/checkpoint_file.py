"""The checkpoint file: one committed outer state as safetensors, which anybody can load.

Tensors are the parameters by the names that the model gives them (one flat `talkoot.theta` where these are
not known), then `talkoot.momentum`, flat; so the data are the two vectors of the outer state, one behind the
other. The metadata hold manifest, ledger and certificates in base64. The header is a function of these, byte
for byte: what a reader accepts could have been written no other way.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON, data). The library writes a
dictionary of whole tensors; here chunks are checked while they are copied, so only tests use it.
"""

import base64
import binascii
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from talkoot.averaging.certificate import (
    MAX_CERTIFICATE_BYTES,
    Certificate,
    CertificateError,
    decode_certificate,
)
from talkoot.averaging.digest import CHUNK_BYTES, StateTree, content_hash, leaf
from talkoot.averaging.ledger import MAX_LEDGER_BYTES, Ledger, LedgerError, decode_ledger
from talkoot.peer.manifest import MAX_MANIFEST_BYTES, Manifest, from_canonical
from talkoot.peer.tensor_names import FLAT, Names, check_names
from talkoot.peer.trainer.layout import Flat

VERSION = "1"
"""Of this format; in the metadata under `talkoot_checkpoint`."""

MOMENTUM_NAME = "talkoot.momentum"
THETA_NAME = "talkoot.theta"
"""All parameters in one vector, where their names are not known."""

MAX_HEADER_BYTES = 16 << 20
"""Longest header that is read: about 100,000 tensors. The safetensors library has 100 MB."""

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_MAX_BASE64 = {
    "manifest": MAX_MANIFEST_BYTES,
    "ledger": MAX_LEDGER_BYTES,
    "certificate": MAX_CERTIFICATE_BYTES,
    "certificate_before": MAX_CERTIFICATE_BYTES,
}
"""Most bytes of what stands in base64 under these names."""


class NotACheckpointError(Exception):
    """No checkpoint of this version; one line says what it is instead."""


class CheckpointDamagedError(Exception):
    """A checkpoint of this version that does not hold; one line says why."""


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the header."""

    dtype: Literal["F32"]
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """All of a checkpoint but its two vectors."""

    manifest: Manifest
    """Sealed."""
    ledger: Ledger
    certificate: Certificate
    """Of the last round."""
    before: Certificate | None
    """Of the round before, which names the voters of the last; None where it was not at hand."""
    names: Names = FLAT
    """Names and shapes of the parameters, in order."""

    @property
    def numel(self) -> int:
        """Number of parameters."""
        return self.manifest.model.numel

    def header(self) -> bytes:
        """Everything before the data, the length included; a multiple of 8 bytes."""
        entries: dict[str, Any] = {_METADATA: self._metadata()}
        start = 0
        for name, shape in (*(self.names or ((THETA_NAME, (self.numel,)),)), (MOMENTUM_NAME, (self.numel,))):
            end = start + 4 * prod(shape)
            entries[name] = _Tensor("F32", shape, (start, end))
            start = end
        text = msgspec.json.encode(entries)
        text += b" " * (-len(text) % 8)  # so that the data are aligned
        return len(text).to_bytes(_LENGTH_BYTES, "little") + text

    def _metadata(self) -> dict[str, str]:
        swarm, value = self.manifest.swarm, self.certificate.value
        return {
            "format": "pt",  # for loaders that ask for it
            "talkoot_checkpoint": VERSION,
            "swarm": swarm.name,
            "swarm_id": self.manifest.swarm_id.hex(),
            "license": swarm.license,
            "rounds": str(self.ledger.round),
            "tokens": str(self.ledger.tokens),
            "digest": value.digest.hex(),
            "manifest": _base64(self.manifest.canonical()),
            "ledger": _base64(self.ledger.encode()),
            "certificate": _base64(self.certificate.encode()),
            "certificate_before": _base64(self.before.encode() if self.before else b""),
        }


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A checkpoint whose header is read and whose size fits it. What is in it is not verified yet."""

    path: Path
    contents: Contents
    data_start: int
    """Where the parameters begin in the file; momentum follows them."""

    def tree(self, before_each: Callable[[], None] = lambda: None) -> StateTree:
        """The hash tree of what the file holds now, read in pieces; `before_each` may end it by raising.

        Raises CheckpointDamagedError, OSError.
        """
        num_bytes = 4 * self.contents.numel
        with self.path.open("rb", buffering=0) as file:
            theta = tuple(file_leaves(file, self.data_start, num_bytes, before_each))
            momentum = tuple(file_leaves(file, self.data_start + num_bytes, num_bytes, before_each))
        ledger = content_hash(self.contents.ledger.encode())
        return StateTree(theta=theta, momentum=momentum, ledger=ledger)


def map_theta(file: CheckpointFile) -> Flat:
    """Its parameters, mapped read only. Raises OSError."""
    return np.memmap(file.path, "<f4", "r", file.data_start, (file.contents.numel,))


def file_leaves(
    file: Any, start: int, num_bytes: int, before_each: Callable[[], None] = lambda: None
) -> Iterator[bytes]:
    """Leaf hashes of so many bytes of an unbuffered file. Raises CheckpointDamagedError at an early end."""
    buffer = memoryview(bytearray(min(num_bytes, CHUNK_BYTES)))
    file.seek(start)
    for done in range(0, num_bytes, CHUNK_BYTES):
        before_each()
        piece = buffer[: num_bytes - done]
        if read_into(file, piece) < len(piece):
            raise CheckpointDamagedError("it became shorter while it was read")
        yield leaf(piece)


def open_checkpoint(path: Path) -> CheckpointFile:
    """Read a checkpoint's header. Nothing larger than the file is allocated.

    Raises NotACheckpointError, CheckpointDamagedError, OSError.
    """
    with path.open("rb", buffering=0) as file:
        header = _read_header(file, os.fstat(file.fileno()).st_size)
        contents = _parse(header)
        size = os.fstat(file.fileno()).st_size
    expected = len(header) + 8 * contents.numel
    if size != expected:
        raise CheckpointDamagedError(f"{size} bytes instead of {expected}: it was cut short or added to")
    return CheckpointFile(path, contents, len(header))


def read_into(file: Any, piece: memoryview) -> int:
    """Fill `piece` from an unbuffered file; fewer bytes only at its end."""
    done = 0
    while done < len(piece) and (count := file.readinto(piece[done:])):
        done += count
    return done


def _read_header(file: Any, size: int) -> bytearray:
    """The length and the header that follows. Raises NotACheckpointError."""
    start: bytes = file.read(_LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < _LENGTH_BYTES or not 2 <= length <= size - _LENGTH_BYTES:
        raise NotACheckpointError("no safetensors file")
    if length > MAX_HEADER_BYTES:
        raise NotACheckpointError(f"a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
    header = bytearray(start) + bytearray(length)
    if read_into(file, memoryview(header)[_LENGTH_BYTES:]) < length:
        raise NotACheckpointError("no safetensors file")
    return header


def _parse(header: bytearray) -> Contents:
    """Raises NotACheckpointError, CheckpointDamagedError."""
    try:
        entries = msgspec.json.decode(memoryview(header)[_LENGTH_BYTES:], type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(entries.pop(_METADATA, msgspec.Raw(b"{}")), type=dict[str, str])
    except (ValueError, RecursionError) as error:
        raise NotACheckpointError("no safetensors file, or one with a damaged header") from error
    version = metadata.get("talkoot_checkpoint")
    if version is None:
        raise NotACheckpointError("a safetensors file, but no checkpoint of talkoot")
    if version != VERSION:
        raise NotACheckpointError(
            f"a checkpoint of format {version[:20]!r}; this version of talkoot reads {VERSION}"
        )
    contents = _contents(metadata, _names(entries))
    if contents.header() != header:
        raise CheckpointDamagedError("the header is not what talkoot writes for its contents")
    return contents


def _names(entries: dict[str, msgspec.Raw]) -> Names:
    """Names and shapes of the parameters in the order of the header."""
    try:
        tensors = {name: msgspec.json.decode(raw, type=_Tensor) for name, raw in entries.items()}
    except (ValueError, RecursionError) as error:
        raise CheckpointDamagedError(f"the header has an entry that is no float32 tensor: {error}") from error
    tensors.pop(MOMENTUM_NAME, None)
    if tensors.keys() == {THETA_NAME}:
        return FLAT
    return tuple((name, tensor.shape) for name, tensor in tensors.items())


def _contents(metadata: dict[str, str], names: Names) -> Contents:
    parts = {name: _from_base64(metadata.get(name, ""), name) for name in _MAX_BASE64}
    try:
        manifest = from_canonical(parts["manifest"])
        before = parts["certificate_before"]
        contents = Contents(
            manifest=manifest,
            ledger=decode_ledger(parts["ledger"]),
            certificate=decode_certificate(parts["certificate"]),
            before=decode_certificate(before) if before else None,
            names=names,
        )
    except (LedgerError, CertificateError) as error:
        raise CheckpointDamagedError(f"the header: {error}") from error
    except ValueError as error:
        raise CheckpointDamagedError(f"the manifest in the header: {error}") from error
    if not manifest.sealed:
        raise CheckpointDamagedError("the manifest in the header is a draft")
    if names and (problem := check_names(names, manifest)):
        raise CheckpointDamagedError(problem)
    return contents


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_base64(text: str, name: str) -> bytes:
    if len(text) > 4 * (_MAX_BASE64[name] // 3 + 1):
        raise CheckpointDamagedError(f"{name} in the header is longer than it may be")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CheckpointDamagedError(f"{name} in the header is not base64") from error
