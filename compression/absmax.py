"""Blockwise absmax: one bf16 scale for each block of values, one small signed integer for each value.

Body: `ceil(numel / block)` scales (bf16, little-endian), then the codes, packed; the value is `scale * code`
and the largest code of a block is about the largest there is. Only single, correctly rounded operations on
the way, and scales far from the denormals, so neither vector width nor flush-to-zero can change a bit.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from talkoot.compression.arithmetic import div_, mul_
from talkoot.compression.base import PIECE, Codec, Octets, pieces, refuse_values
from talkoot.compression.packing import packed_size
from talkoot.compression.scales import check_scales, check_zero_blocks, reciprocal, scale, scale_bits


class Absmax(Codec):
    """Absmax in blocks of `block` values, a power of two; a subclass packs its codes."""

    bits: ClassVar[int]
    """Bits of a code."""
    levels: ClassVar[int]
    """Largest magnitude of a code. It is never exceeded: a bf16 scale is at most 1/256 too small, and
    levels * 257/256 < levels + 1/2."""
    max_scale_bits: ClassVar[int]
    """bf16 bits of the scale of the largest float32, so the largest one written; `levels` times it is
    finite."""
    block: int

    @abstractmethod
    def _pack(self, codes_P: torch.Tensor, packed: Octets) -> None:
        """Write all of `packed` from integers in a float32 tensor on any device."""

    @abstractmethod
    def _check_codes(self, packed: Octets, numel: int) -> None:
        """Raise CodecError unless `packed` holds `numel` codes in -levels..levels."""

    @abstractmethod
    def _unpack(self, packed: Octets, out_P: torch.Tensor) -> None:
        """Write the codes into the float32 `out_P` on any device."""

    @abstractmethod
    def _square_sums(self, packed: Octets, num_blocks: int) -> NDArray[np.float64]:
        """Exact sum of the squared codes of each of `num_blocks` equal blocks."""

    def _num_blocks(self, numel: int) -> int:
        return -(-numel // self.block)

    def _body_size(self, numel: int) -> int:
        return 2 * self._num_blocks(numel) + packed_size(numel, self.bits)

    def _split(self, body: Octets, numel: int) -> tuple[NDArray[np.uint16], Octets]:
        """Views of the scales' bits and of the codes."""
        cut = 2 * self._num_blocks(numel)
        return body[:cut].view("<u2"), body[cut:]

    def _part(self, packed: Octets, start: int, stop: int) -> Octets:
        """The bytes of the codes from `start`, the first of a block, to `stop`."""
        return packed[packed_size(start, self.bits) : packed_size(stop, self.bits)]

    def _encode_body(self, values_P: torch.Tensor, body: Octets) -> None:
        bits_N, packed = self._split(body, values_P.numel())
        scratch_P = torch.empty(min(PIECE, values_P.numel()), dtype=torch.float32, device=values_P.device)
        for start, stop, width in pieces(values_P.numel(), self.block):
            values_NB = values_P[start:stop].view(-1, width)
            work_NB = scratch_P[: stop - start].view(-1, width)
            absmax_N = torch.amax(torch.abs(values_NB, out=work_NB), dim=1)
            if not bool((absmax_N < math.inf).all()):
                raise refuse_values(values_P[start:stop], start, math.inf)
            scale_bits_N = scale_bits(div_(absmax_N, absmax_N, float(self.levels)))
            mul_(work_NB, values_NB, reciprocal(scale_bits_N).view(-1, 1))
            self._pack(work_NB.round_().view(-1), self._part(packed, start, stop))
            first = start // self.block
            bits_N[first : first + len(scale_bits_N)] = scale_bits_N.cpu().numpy()

    def _decode_body(self, body: Octets, out_P: torch.Tensor) -> None:
        for start, stop, scale_N, packed in self._checked(body, out_P.numel()):
            self._unpack(packed, out_P[start:stop])
            out_NB = out_P[start:stop].view(len(scale_N), -1)
            mul_(out_NB, out_NB, scale_N.to(out_P.device).view(-1, 1))

    def _squared_norm(self, body: Octets, numel: int) -> float:
        return math.fsum(term for terms in self._squares(body, numel) for term in terms)

    def _squares(self, body: Octets, numel: int) -> Iterator[list[float]]:
        """Yield the exact sums of the squared values of the blocks of each piece; raises CodecError."""
        for _, _, scale_N, packed in self._checked(body, numel):
            wide_N = scale_N.numpy().astype(np.float64)
            sums_N = self._square_sums(packed, len(wide_N))
            terms: list[float] = (sums_N * (wide_N * wide_N)).tolist()  # 26 + 16 bits
            yield terms

    def _checked(self, body: Octets, numel: int) -> Iterator[tuple[int, int, torch.Tensor, Octets]]:
        """Yield (start, stop, scale_N, packed codes) for each piece; raises CodecError."""
        bits_N, packed = self._split(body, numel)
        for start, stop, width in pieces(numel, self.block):
            first = start // self.block
            piece_bits_N = bits_N[first : first + (stop - start) // width].astype(np.int32)
            piece = self._part(packed, start, stop)
            check_scales(piece_bits_N, self.max_scale_bits, first)
            self._check_codes(piece, stop - start)
            check_zero_blocks(piece_bits_N, piece)
            yield start, stop, scale(torch.from_numpy(piece_bits_N)), piece
