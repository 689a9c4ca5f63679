"""Codes of 1, 2 or 4 bits in bytes, the first code in the lowest bits."""

import numpy as np
from numpy.typing import NDArray

from talkoot.compression.base import CodecError, Octets


def packed_size(numel: int, bits: int) -> int:
    """Bytes that `numel` codes need."""
    return -(-numel * bits // 8)


def pack(codes: Octets, bits: int, out: Octets) -> None:
    """Fill `out` with codes of 2 or 4 bits, one in each byte of `codes`, which has as many as fit."""
    words = codes.view(f"<u{8 // bits}")  # the codes that share a byte
    merged = words.copy()
    for index in range(1, words.itemsize):
        merged |= words >> index * (8 - bits)
    out[:] = merged & 0xFF


def levels_of_bytes(levels: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """The `levels` (one for each code) of the 8 / bits codes in each of the 256 bytes."""
    shifts = np.arange(0, 8, bits)
    octets: NDArray[np.float32] = levels[np.arange(256)[:, None] >> shifts & (2**bits - 1)]
    return octets


def check_padding(packed: Octets, numel: int, bits: int) -> None:
    """Raise CodecError unless the bits after `numel` codes are zero."""
    used = numel * bits % 8
    if used and packed[-1] >> used:
        raise CodecError("code", "a bit after the last code is not zero")
