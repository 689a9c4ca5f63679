"""Blockwise absmax int8: one bf16 scale for each block of values, one signed byte for each value.

Body: `ceil(numel / block)` scales (bf16, little-endian), then `numel` codes in -127..127; the value is
`scale * code`. Only single, correctly rounded operations on the way, and scales far from the denormals, so
neither vector width nor flush-to-zero can change a bit.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from talkoot.compression.arithmetic import div_, mul_
from talkoot.compression.base import PIECE, Codec, CodecError, Octets, copy_octets, pieces, refuse_values

LEVELS = 127
"""Largest magnitude of a code; -128 is never written."""
MIN_SCALE_BITS = (127 - 100) << 7
"""bf16 bits of the smallest scale, 2**-100: blocks below it become zeros."""
MAX_SCALE_BITS = ((127 + 121) << 7) | 1
"""bf16 bits of the scale of the largest float32, so the largest one written; 127 times it is finite."""
EXACT_SUM = 1024
"""Squares of codes that float32 adds exactly in any order: 1024 * 127**2 < 2**24."""


class Int8(Codec):
    """Absmax int8 in blocks of `block` values, a power of two from 32 to 4096."""

    wire_id = 4

    def __init__(self, block: int = 256) -> None:
        if not (32 <= block <= 4096 and block & (block - 1) == 0):
            raise CodecError("unknown_codec", f"int8 block must be a power of two, 32 to 4096, not {block}")
        self.block = block
        self.name = "int8" if block == 256 else f"int8:{block}"
        self.parameter = block.bit_length() - 1

    def _num_blocks(self, numel: int) -> int:
        return -(-numel // self.block)

    def _body_size(self, numel: int) -> int:
        return 2 * self._num_blocks(numel) + numel

    def _split(self, body: Octets, numel: int) -> tuple[NDArray[np.uint16], NDArray[np.int8]]:
        """Views of the scales' bits and of the codes."""
        cut = 2 * self._num_blocks(numel)
        return body[:cut].view("<u2"), body[cut:].view(np.int8)

    def _encode_body(self, values_P: torch.Tensor, body: Octets) -> None:
        bits_N, codes_P = self._split(body, values_P.numel())
        scratch_P = torch.empty(min(PIECE, values_P.numel()), dtype=torch.float32, device=values_P.device)
        for start, stop, width in pieces(values_P.numel(), self.block):
            values_NB = values_P[start:stop].view(-1, width)
            work_NB = scratch_P[: stop - start].view(-1, width)
            absmax_N = torch.amax(torch.abs(values_NB, out=work_NB), dim=1)
            if not bool((absmax_N < math.inf).all()):
                raise refuse_values(values_P[start:stop], start, math.inf)
            scale_bits_N = _scale_bits(absmax_N)
            mul_(work_NB, values_NB, _reciprocal(scale_bits_N).view(-1, 1))
            # |code| <= 127: a bf16 scale is at most 1/256 too small, and 127 * 257/256 < 127.5.
            torch.from_numpy(codes_P[start:stop]).view(-1, width).copy_(work_NB.round_())
            first = start // self.block
            bits_N[first : first + len(scale_bits_N)] = scale_bits_N.cpu().numpy()

    def _decode_body(self, body: Octets, out_P: torch.Tensor) -> None:
        for start, codes_NB, scale_N in self._checked(body, out_P.numel()):
            out_NB = out_P[start : start + codes_NB.numel()].view_as(codes_NB)
            out_NB.copy_(codes_NB)
            mul_(out_NB, out_NB, scale_N.to(out_P.device).view(-1, 1))

    def _squared_norm(self, body: Octets, numel: int) -> float:
        terms: list[float] = []
        for _, codes_NB, scale_N in self._checked(body, numel):
            wide = torch.float32 if codes_NB.shape[1] <= EXACT_SUM else torch.float64
            sums_N = codes_NB.to(wide).square_().sum(dim=1).to(torch.float64)  # integers: exact in any order
            scale_N = scale_N.to(torch.float64)
            terms += (sums_N * (scale_N * scale_N)).tolist()  # 26 + 16 bits: exact
        return math.fsum(terms)

    def _checked(self, body: Octets, numel: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yield (start, codes_NB, scale_N) for each piece; raises CodecError at the first piece at fault."""
        bits_N, codes_P = self._split(body, numel)
        scratch_P = torch.empty(min(PIECE, numel), dtype=torch.int8)
        for start, stop, width in pieces(numel, self.block):
            codes_NB = copy_octets(scratch_P[: stop - start], codes_P[start:stop]).view(-1, width)
            first = start // self.block
            piece_bits_N = bits_N[first : first + len(codes_NB)].astype(np.int32)
            _check_piece(piece_bits_N, codes_NB.numpy(), first)
            yield start, codes_NB, _scale(torch.from_numpy(piece_bits_N))


def _scale_bits(absmax_N: torch.Tensor) -> torch.Tensor:
    """bf16 bits (int32) of absmax / 127, rounded to even by integers; zero below the smallest scale."""
    bits_N = div_(torch.empty_like(absmax_N), absmax_N, float(LEVELS)).view(torch.int32)
    rounded_N = (bits_N + 0x7FFF + ((bits_N >> 16) & 1)) >> 16
    return rounded_N.masked_fill_(rounded_N < MIN_SCALE_BITS, 0)


def _scale(scale_bits_N: torch.Tensor) -> torch.Tensor:
    return (scale_bits_N << 16).view(torch.float32)


def _reciprocal(scale_bits_N: torch.Tensor) -> torch.Tensor:
    """1 / scale; zero where the scale is zero."""
    scale_N = _scale(scale_bits_N)
    ones_N = torch.ones_like(scale_N)
    return div_(ones_N, ones_N, scale_N).masked_fill_(scale_bits_N == 0, 0.0)


def _check_piece(bits_N: NDArray[np.int32], codes_NB: NDArray[np.int8], first: int) -> None:
    """Raise CodecError for scales or codes that no encoder writes."""
    zero_N = bits_N == 0
    bad_N = ~zero_N & ((bits_N < MIN_SCALE_BITS) | (bits_N > MAX_SCALE_BITS))
    if bad_N.any():
        block = int(bad_N.argmax())
        raise CodecError("scale", f"scale of block {first + block} has bits {int(bits_N[block]):#06x}")
    if codes_NB.min() < -LEVELS:
        raise CodecError("code", "a code is -128")
    if zero_N.any() and codes_NB[zero_N].any():
        raise CodecError("code", "a block with scale zero has codes that are not zero")
