"""Absmax int4: half a byte for each value, the first of a pair in the lower half."""

import numpy as np
import torch
from numpy.typing import NDArray

from talkoot.compression.absmax import Absmax
from talkoot.compression.base import CodecError, Octets
from talkoot.compression.packing import check_padding, levels_of_bytes, pack

_PAIRS = levels_of_bytes(np.array([*range(8), *range(-8, 0)], np.float32), 4)
"""The two codes of each byte."""
_SQUARES = np.square(_PAIRS).sum(axis=1, dtype=np.float32)
"""Sum of their squares."""


class Int4(Absmax):
    """Codes in -7..7 (-8 is never written) in blocks of 32 or 64; a last half byte without value is zero."""

    wire_id = 5
    bits = 4
    levels = 7
    max_scale_bits = ((127 + 125) << 7) | 18

    def __init__(self, block: int = 64) -> None:
        if block not in (32, 64):
            raise CodecError("unknown_codec", f"int4 block must be 32 or 64, not {block}")
        self.block = block
        self.name = "int4" if block == 64 else f"int4:{block}"
        self.parameter = block.bit_length() - 1

    def _pack(self, codes_P: torch.Tensor, packed: Octets) -> None:
        codes = np.zeros(2 * len(packed), np.int8)
        torch.from_numpy(codes)[: len(codes_P)].copy_(codes_P)
        pack(np.bitwise_and(codes, 0x0F, out=codes).view(np.uint8), 4, packed)

    def _check_codes(self, packed: Octets, numel: int) -> None:
        if ((packed & 0x0F) == 0x08).any() or ((packed & 0xF0) == 0x80).any():
            raise CodecError("code", "a code is -8")
        check_padding(packed, numel, 4)

    def _unpack(self, packed: Octets, out_P: torch.Tensor) -> None:
        if out_P.device.type == "cpu" and len(out_P) % 2 == 0:
            pairs = out_P.detach().numpy().view(np.uint64)
            np.take(_PAIRS.view(np.uint64)[:, 0], packed, out=pairs, mode="clip")
        else:
            out_P.copy_(torch.from_numpy(_PAIRS[packed].reshape(-1)[: len(out_P)]))

    def _square_sums(self, packed: Octets, num_blocks: int) -> NDArray[np.float64]:
        sums_N: NDArray[np.float64] = _SQUARES[packed].reshape(num_blocks, -1).sum(axis=1).astype(np.float64)
        return sums_N  # integers, at most 64 * 7**2: exact in any order
