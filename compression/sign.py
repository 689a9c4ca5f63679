"""One bit for each value, its sign, and one bf16 scale for each block: the mean magnitude.

The mean magnitude is the scale of least squared error, so the codec is biased and made for error feedback
(signSGD with a norm, Karimireddy et al. 2019). Body: `ceil(numel / block)` scales (bf16, little-endian),
then the bits, the first in the lowest bit of a byte, 1 for a negative value; unused bits are zero.
Magnitudes are summed as integers on a grid that is fine enough for each block, so that order does not matter.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from talkoot.compression.arithmetic import div_, mul_
from talkoot.compression.base import PIECE, Codec, CodecError, Octets, pieces, refuse_values
from talkoot.compression.packing import check_padding, levels_of_bytes, packed_size
from talkoot.compression.scales import check_scales, check_zero_blocks, grid, scale, scale_bits

MAX_SCALE_BITS = 0x7F7F
"""bf16 bits of the largest finite scale; means above it become it."""
EXACT_BITS = 24
"""Integers up to 2**24 are exact in float32."""
_SIGNS = levels_of_bytes(np.array([1.0, -1.0], np.float32), 1)
"""The eight signs of each byte."""


class Sign(Codec):
    """Signs in blocks of `block` values, a power of two from 32 to 4096."""

    wire_id = 7

    def __init__(self, block: int = 1024) -> None:
        if not (32 <= block <= 4096 and block & (block - 1) == 0):
            raise CodecError("unknown_codec", f"sign block must be a power of two, 32 to 4096, not {block}")
        self.block = block
        self.name = "sign" if block == 1024 else f"sign:{block}"
        self.parameter = block.bit_length() - 1

    def _num_blocks(self, numel: int) -> int:
        return -(-numel // self.block)

    def _body_size(self, numel: int) -> int:
        return 2 * self._num_blocks(numel) + packed_size(numel, 1)

    def _split(self, body: Octets, numel: int) -> tuple[NDArray[np.uint16], Octets]:
        """Views of the scales' bits and of the signs."""
        cut = 2 * self._num_blocks(numel)
        return body[:cut].view("<u2"), body[cut:]

    def _encode_body(self, values_P: torch.Tensor, body: Octets) -> None:
        bits_N, signs = self._split(body, values_P.numel())
        scratch_P = torch.empty(min(PIECE, values_P.numel()), dtype=torch.float32, device=values_P.device)
        for start, stop, width in pieces(values_P.numel(), self.block):
            values_NB = values_P[start:stop].view(-1, width)
            work_NB = scratch_P[: stop - start].view(-1, width)
            absmax_N = torch.amax(torch.abs(values_NB, out=work_NB), dim=1)
            if not bool((absmax_N < math.inf).all()):
                raise refuse_values(values_P[start:stop], start, math.inf)
            scale_bits_N = self._scale_bits(work_NB, absmax_N)
            first = start // self.block
            bits_N[first : first + len(scale_bits_N)] = scale_bits_N.cpu().numpy()
            negative_NB = _negative(values_NB).logical_and_((scale_bits_N != 0).view(-1, 1))
            packed = np.packbits(negative_NB.view(-1).cpu().numpy(), bitorder="little")
            signs[start // 8 : packed_size(stop, 1)] = packed

    def _scale_bits(self, magnitudes_NB: torch.Tensor, absmax_N: torch.Tensor) -> torch.Tensor:
        """bf16 bits (int32) of the mean of each row; the magnitudes are lost."""
        factor_N, unit_N = grid(absmax_N, EXACT_BITS + 1 - self.block.bit_length())
        mul_(magnitudes_NB, magnitudes_NB, factor_N.view(-1, 1)).round_()
        sums_N = magnitudes_NB.sum(dim=1).to(torch.float64)  # integers up to 2**24: exact in any order
        mean_N = div_(sums_N, sums_N, float(magnitudes_NB.shape[1])).mul_(unit_N)
        return scale_bits(mean_N.to(torch.float32)).clamp_(max=MAX_SCALE_BITS)

    def _decode_body(self, body: Octets, out_P: torch.Tensor) -> None:
        for start, stop, scale_N, signs in self._checked(body, out_P.numel()):
            out_NB = out_P[start:stop].view(len(scale_N), -1)
            _unpack(signs, out_P[start:stop])
            mul_(out_NB, out_NB, scale_N.to(out_P.device).view(-1, 1))

    def _squared_norm(self, body: Octets, numel: int) -> float:
        return math.fsum(term for terms in self._squares(body, numel) for term in terms)

    def _squares(self, body: Octets, numel: int) -> Iterator[list[float]]:
        """Yield the exact sums of the squared values of the blocks of each piece; raises CodecError."""
        for start, stop, scale_N, _ in self._checked(body, numel):
            wide_N = scale_N.to(torch.float64)
            yield (wide_N * wide_N * ((stop - start) // len(scale_N))).tolist()  # 16 + 12 bits

    def _checked(self, body: Octets, numel: int) -> Iterator[tuple[int, int, torch.Tensor, Octets]]:
        """Yield (start, stop, scale_N, signs) for each piece; raises CodecError."""
        bits_N, signs = self._split(body, numel)
        check_padding(signs, numel, 1)
        for start, stop, width in pieces(numel, self.block):
            first = start // self.block
            piece_bits_N = bits_N[first : first + (stop - start) // width].astype(np.int32)
            piece = signs[start // 8 : packed_size(stop, 1)]
            check_scales(piece_bits_N, MAX_SCALE_BITS, first)
            check_zero_blocks(piece_bits_N, piece)
            yield start, stop, scale(torch.from_numpy(piece_bits_N)), piece


def _negative(values: torch.Tensor) -> torch.Tensor:
    """Where a value is below zero; by integers, which see denormals on every machine."""
    bits = values.view(torch.int32)
    return (bits < 0).logical_and_(bits != torch.iinfo(torch.int32).min)


def _unpack(signs: Octets, out_P: torch.Tensor) -> None:
    """Write +1 or -1 into the float32 `out_P` on any device."""
    if out_P.device.type == "cpu" and len(out_P) % 8 == 0:
        np.take(_SIGNS, signs, axis=0, out=out_P.detach().numpy().reshape(-1, 8), mode="clip")
    else:
        out_P.copy_(torch.from_numpy(_SIGNS[signs].reshape(-1)[: len(out_P)]))
