"""What every codec is: a tensor becomes bytes of exactly known size, and back, the same everywhere."""

import io
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Bytes: TypeAlias = "bytes | bytearray | memoryview"
Octets: TypeAlias = NDArray[np.uint8]

Reason = Literal[
    "unknown_codec",
    "length",
    "header",
    "seed",
    "scale",
    "code",
    "position",
    "not_finite",
    "negative_zero",
    "too_large",
]

MAGIC = b"tc"
HEADER = struct.Struct("<2sBBQ")
"""Magic, wire id, parameter, number of elements."""

PIECE = 2**18
"""Elements worked on at a time: 1 MiB of fp32, few enough to stay in the cache and enough to hide the calls.
A multiple of every block size, so that pieces never change a result."""


class CodecError(ValueError):
    """Bytes that no encoder writes, a tensor that no codec takes, or a codec that does not exist.

    `reason` is one of a closed list, to be counted; the text says more.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason


class Codec(ABC):
    """A way to write `numel` float32 values; stateless, so one object serves all threads.

    Encoding is canonical: one vector gives one string of bytes on any machine, with any number of threads.
    Decoding refuses what encoding cannot produce. Tensors are one-dimensional, contiguous and float32, on
    the CPU or on a GPU; another kind of tensor is a ValueError. Beyond its result a call needs a few
    scratch buffers of `PIECE` elements.
    """

    name: str
    """As written in a manifest; `get(name)` gives this codec back."""
    wire_id: ClassVar[int]
    """Names the kind of codec on the wire; never reused."""
    parameter: int
    """The one parameter byte of the header."""

    def encoded_size(self, numel: int) -> int:
        """Exact length in bytes of `numel` encoded elements, header included."""
        if numel < 0:
            raise ValueError(f"numel must not be negative, got {numel}")
        return HEADER.size + self._body_size(numel)

    def encode(self, values_P: torch.Tensor) -> bytes:
        """Encode `values_P`.

        Raises CodecError("not_finite") or ("too_large") naming the index of the first value at fault.
        """
        stream = io.BytesIO()
        size = self.encoded_size(values_P.numel())
        stream.seek(size - 1)
        stream.write(b"\0")
        with stream.getbuffer() as view:  # written in place: `bytes` without a second copy
            self.encode_into(values_P, view)
        return stream.getvalue()

    def encode_into(self, values_P: torch.Tensor, out: bytearray | memoryview) -> int:
        """Encode into the front of the writable `out` and return the length; raises like `encode`.

        After an error what `out` holds is unspecified. An `out` that is too short is a ValueError.
        """
        _check_tensor(values_P)
        size = self.encoded_size(values_P.numel())
        octets = np.frombuffer(out, np.uint8)
        if octets.size < size:
            raise ValueError(f"out has {octets.size} bytes, {size} are needed")
        HEADER.pack_into(out, 0, MAGIC, self.wire_id, self.parameter, values_P.numel())
        with torch.no_grad():
            self._encode_body(values_P, octets[HEADER.size : size])
        return size

    def decode(self, data: Bytes, numel: int) -> torch.Tensor:
        """Decode exactly `numel` elements onto the CPU; header and length are checked before allocating.

        Raises CodecError for anything that `encode` does not produce from `numel` values.
        """
        body = self._body(data, numel)
        out_P = torch.empty(numel, dtype=torch.float32)
        with torch.no_grad():
            self._decode_body(body, out_P)
        return out_P

    def decode_into(self, data: Bytes, out_P: torch.Tensor) -> None:
        """Decode exactly `out_P.numel()` elements into `out_P`; raises like `decode`.

        After an error what `out_P` holds is unspecified.
        """
        _check_tensor(out_P)
        body = self._body(data, out_P.numel())
        with torch.no_grad():
            self._decode_body(body, out_P)

    def squared_norm(self, data: Bytes, numel: int) -> float:
        """Squared L2 norm of the decoded values, the same on every machine; raises like `decode`."""
        body = self._body(data, numel)
        with torch.no_grad():
            return self._squared_norm(body, numel)

    def decode_with_norm(self, data: Bytes, out_P: torch.Tensor) -> float:
        """As `decode_into`; returns the `squared_norm`, for less than the price of both."""
        _check_tensor(out_P)
        body = self._body(data, out_P.numel())
        with torch.no_grad():
            self._decode_body(body, out_P)
            return self._norm_of(body, out_P)

    def _norm_of(self, body: Octets, out_P: torch.Tensor) -> float:
        """The squared norm of a `body` that is decoded into `out_P`."""
        return self._squared_norm(body, out_P.numel())

    def _body(self, data: Bytes, numel: int) -> Octets:
        """The bytes after the header. Raises CodecError unless both fit `numel` elements."""
        octets = np.frombuffer(data, np.uint8)
        size = self.encoded_size(numel)
        if octets.size != size:
            raise CodecError("length", f"{self.name}: {octets.size} bytes for {numel} elements, not {size}")
        header = HEADER.unpack_from(data)
        expected = (MAGIC, self.wire_id, self.parameter, numel)
        if header != expected:
            raise CodecError("header", f"{self.name}: header {header}, expected {expected}")
        return octets[HEADER.size :]

    @abstractmethod
    def _body_size(self, numel: int) -> int:
        """Bytes after the header."""

    @abstractmethod
    def _encode_body(self, values_P: torch.Tensor, body: Octets) -> None:
        """Write all of `body`; raises CodecError."""

    @abstractmethod
    def _decode_body(self, body: Octets, out_P: torch.Tensor) -> None:
        """Check `body` and write all of `out_P`; raises CodecError."""

    @abstractmethod
    def _squared_norm(self, body: Octets, numel: int) -> float:
        """Check `body` and sum the squares; raises CodecError."""


def pieces(numel: int, block: int = 1, piece: int = PIECE) -> Iterator[tuple[int, int, int]]:
    """Cut `numel` elements into (start, stop, width): whole blocks of width `block`, then one short block.

    At most `piece` elements, a multiple of `block`, are in each.
    """
    full = numel - numel % block
    for start in range(0, full, piece):
        yield start, min(start + piece, full), block
    if full < numel:
        yield full, numel, numel - full


def refuse_values(values: torch.Tensor, start: int, limit: float) -> CodecError:
    """The error for the first of `values`, a slice that begins at `start`, that is not below `limit`."""
    index = int(torch.nonzero(~(values.abs() < limit))[0])
    value = float(values[index])
    if value - value == 0.0:
        return CodecError("too_large", f"value {value} at index {start + index} is too large for this codec")
    return CodecError("not_finite", f"value {value} at index {start + index} is not finite")


def copy_octets(target: torch.Tensor, source: NDArray[Any]) -> torch.Tensor:
    """Fill the CPU tensor `target` with the bytes of `source`, which may be read-only and unaligned."""
    np.copyto(target.numpy().view(np.uint8), source.view(np.uint8))
    return target


def _check_tensor(values_P: torch.Tensor) -> None:
    if values_P.dtype != torch.float32 or values_P.dim() != 1 or not values_P.is_contiguous():
        raise ValueError(
            f"a codec takes a contiguous 1-D float32 tensor, not {values_P.dim()}-D {values_P.dtype}"
        )
