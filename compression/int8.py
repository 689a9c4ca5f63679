"""Absmax int8: one signed byte for each value."""

import numpy as np
import torch
from numpy.typing import NDArray

from talkoot.compression.absmax import Absmax
from talkoot.compression.base import CodecError, Octets, copy_octets

EXACT_SUM = 1024
"""Squares of codes that float32 adds exactly in any order: 1024 * 127**2 < 2**24."""


class Int8(Absmax):
    """Codes in -127..127 (-128 is never written), in blocks of a power of two from 32 to 4096."""

    wire_id = 4
    bits = 8
    levels = 127
    max_scale_bits = ((127 + 121) << 7) | 1

    def __init__(self, block: int = 256) -> None:
        if not (32 <= block <= 4096 and block & (block - 1) == 0):
            raise CodecError("unknown_codec", f"int8 block must be a power of two, 32 to 4096, not {block}")
        self.block = block
        self.name = "int8" if block == 256 else f"int8:{block}"
        self.parameter = block.bit_length() - 1

    def _pack(self, codes_P: torch.Tensor, packed: Octets) -> None:
        torch.from_numpy(packed.view(np.int8)).copy_(codes_P)

    def _check_codes(self, packed: Octets, numel: int) -> None:
        if packed.view(np.int8).min() < -self.levels:
            raise CodecError("code", "a code is -128")

    def _unpack(self, packed: Octets, out_P: torch.Tensor) -> None:
        out_P.copy_(_codes(packed))

    def _square_sums(self, packed: Octets, num_blocks: int) -> NDArray[np.float64]:
        codes_NB = _codes(packed).view(num_blocks, -1)
        wide = torch.float32 if codes_NB.shape[1] <= EXACT_SUM else torch.float64
        sums_N: NDArray[np.float64] = codes_NB.to(wide).square_().sum(dim=1).to(torch.float64).numpy()
        return sums_N  # integers: exact in any order


def _codes(packed: Octets) -> torch.Tensor:
    """A copy: `packed` may be read-only, which torch does not know."""
    return copy_octets(torch.empty(len(packed), dtype=torch.int8), packed)
