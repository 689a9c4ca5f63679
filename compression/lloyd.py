"""Lloyd-Max levels after a random rotation: near the best that one code for each value can do.

Each block of 4096 values (the last, shorter one is cut into powers of two, the largest first) is rounded to
integers on a grid of `GRID_BITS`, rotated, divided by its root mean square, and each value replaced by the
nearest of 4 or 16 levels that are optimal for a Gaussian. The scale minimises the squared error, so the codec
is biased and made for error feedback; EDEN (Vargaftik et al. 2022) has the unbiased one.

Body: the seed (8 bytes, little-endian), a bf16 scale for each block, then the codes, the first in the lowest
bits of a byte, unused bits zero. A block with scale zero has codes zero. The value is the sum of the levels
of its block, all signed by the rotation and exact in float32, times the scale, rounded once.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from talkoot.compression.arithmetic import add_, mul_, normalise_zeros_, squares, sum_squares
from talkoot.compression.base import Codec, CodecError, Octets, pieces, refuse_values
from talkoot.compression.packing import check_padding, levels_of_bytes, pack, packed_size
from talkoot.compression.rotation import WIDTH, random_signs, rotate, unrotate
from talkoot.compression.scales import check_scales, grid, scale, scale_bits

GRID_BITS = 12
"""Values become integers up to 2**12, and up to 2**12 * WIDTH = 2**24 by the rotation."""
PIECE = 2**17
"""Elements worked on at a time: fewer than elsewhere, since each needs more scratch."""
LIMIT = 2.0**100
"""Magnitudes stay below this one."""
MAX_SCALE_BITS = (127 + 96) << 7
"""bf16 bits of 2**96: at most LIMIT / 16, the smallest level, by Cauchy's inequality; decodes to less than
2**96 * 350 * WIDTH."""
LANES = 64
"""Sums of a row that are left for float64."""
STEPS = 50
"""Thresholds are multiples of 1 / 50 of the root mean square: near the best ones of 16 levels (13.0, 26.1,
39.98, 55.0, 71.9, 92.2, 120.04 steps), and up to 127."""

_THRESHOLDS = {2: [49], 4: [13, 26, 40, 55, 72, 92, 120]}
"""Positive thresholds in steps."""
_LEVELS = {2: [58, 193], 4: [16, 50, 84, 121, 161, 207, 265, 350]}
"""Positive levels in 1 / 128 of the root mean square."""


class Lloyd(Codec):
    """2**bits levels, code 0 for the lowest; decodes only what was encoded with the same `seed`."""

    wire_id = 6

    def __init__(self, bits: int, seed: int) -> None:
        self.parameter = self.bits = bits
        self.name = f"lloyd{bits}"
        self.seed = seed
        self._signs_B = random_signs(seed)
        positive = np.array(_LEVELS[bits], np.float32)
        self._levels = np.concatenate([-positive[::-1], positive])
        thresholds = np.array([-t for t in _THRESHOLDS[bits][::-1]] + [0] + _THRESHOLDS[bits])
        steps = np.arange(256).astype(np.uint8).view(np.int8)
        self._codes = (steps[:, None] >= thresholds).sum(axis=1).astype(np.uint8)
        """The code of each number of steps, a signed byte."""
        self._octets = levels_of_bytes(self._levels, bits)

    def _body_size(self, numel: int) -> int:
        return 8 + 2 * _num_blocks(numel) + packed_size(numel, self.bits)

    def _pieces(self, body: Octets, numel: int) -> Iterator[tuple[int, int, NDArray[np.uint16], Octets]]:
        """Yield (start, stop, bits of the scales, bytes of the codes) for each piece; both are views."""
        cut = 8 + 2 * _num_blocks(numel)
        bits_N, packed = body[8:cut].view("<u2"), body[cut:]
        for start, stop, _ in pieces(numel, piece=PIECE):
            octets = packed[packed_size(start, self.bits) : packed_size(stop, self.bits)]
            yield start, stop, bits_N[_num_blocks(start) : _num_blocks(stop)], octets

    def _encode_body(self, values_P: torch.Tensor, body: Octets) -> None:
        body[:8] = np.frombuffer(self.seed.to_bytes(8, "little"), np.uint8)
        signs_B = self._signs_B.to(values_P.device)
        scratch_P = torch.empty(2, min(PIECE, values_P.numel()), dtype=torch.float32, device=values_P.device)
        for start, stop, bits_N, octets in self._pieces(body, values_P.numel()):
            codes = np.zeros(len(octets) * 8 // self.bits, np.uint8)
            for low, high, width in _runs(stop - start):
                values_NB = values_P[start + low : start + high].view(-1, width)
                work_NB, spare_NB = scratch_P[:, : high - low].view(2, -1, width)
                unit_N = _to_grid(values_NB, work_NB, start + low)
                mul_(work_NB, work_NB, signs_B[:width])
                run_bits_N = self._quantise(work_NB, spare_NB, unit_N, codes[low:high])
                first = _num_blocks(low)
                bits_N[first : first + len(run_bits_N)] = run_bits_N
            pack(codes, self.bits, octets)

    def _quantise(
        self, work_NB: torch.Tensor, spare_NB: torch.Tensor, unit_N: NDArray[np.float64], codes: Octets
    ) -> NDArray[np.int32]:
        """Write the codes of the integers in `work_NB`, return the scales' bits; both tensors are lost."""
        inverse_N = _inverse_root(_integer_sums(mul_(spare_NB, work_NB, work_NB)))
        work_NB, spare_NB = rotate(work_NB, spare_NB)
        mul_(spare_NB, work_NB, torch.from_numpy(inverse_N).to(work_NB.device).view(-1, 1))
        steps = spare_NB.floor_().clamp_(-128.0, 127.0).to(torch.int8).cpu().numpy()
        np.take(self._codes, steps.view(np.uint8).reshape(-1), out=codes, mode="clip")
        levels_NB = spare_NB.cpu()  # itself, or on a GPU a copy to write over
        np.take(self._levels, codes, out=levels_NB.view(-1).numpy(), mode="clip")
        levels_NB = levels_NB.to(work_NB.device)
        dots_N = _row_sums(mul_(work_NB, work_NB, levels_NB))
        norms_N = _integer_sums(mul_(levels_NB, levels_NB, levels_NB))
        scale_N = dots_N / norms_N / levels_NB.shape[1] * unit_N
        bits_N: NDArray[np.int32] = scale_bits(torch.from_numpy(scale_N.astype(np.float32))).numpy()
        codes.reshape(len(bits_N), -1)[bits_N == 0] = 0
        return bits_N

    def _decode_body(self, body: Octets, out_P: torch.Tensor) -> None:
        signs_B = self._signs_B.to(out_P.device)
        for start, stop, bits_N, octets in self._checked_pieces(body, out_P.numel()):
            self._decode_piece(bits_N, octets, signs_B, out_P[start:stop])

    def _norm_of(self, body: Octets, out_P: torch.Tensor) -> float:
        return sum_squares(out_P)

    def _squared_norm(self, body: Octets, numel: int) -> float:
        return math.fsum(term for terms in self._squares(body, numel) for term in terms)

    def _squares(self, body: Octets, numel: int) -> Iterator[list[float]]:
        """Yield what `squares` gives for the decoded values of each piece; raises CodecError."""
        scratch_P = torch.empty(min(PIECE, numel), dtype=torch.float32)
        for start, stop, bits_N, octets in self._checked_pieces(body, numel):
            self._decode_piece(bits_N, octets, self._signs_B, scratch_P[: stop - start])
            yield squares(scratch_P[: stop - start])

    def _checked_pieces(
        self, body: Octets, numel: int
    ) -> Iterator[tuple[int, int, NDArray[np.int32], Octets]]:
        """As `_pieces`; raises CodecError for another seed, unused bits, and scales."""
        if body[:8].tobytes() != self.seed.to_bytes(8, "little"):
            raise CodecError("seed", f"{self.name}: the seed is not {self.seed}")
        check_padding(body, numel, self.bits)
        for start, stop, bits_N, octets in self._pieces(body, numel):
            wide_N = bits_N.astype(np.int32)
            check_scales(wide_N, MAX_SCALE_BITS, _num_blocks(start))
            yield start, stop, wide_N, octets

    def _decode_piece(
        self, bits_N: NDArray[np.int32], octets: Octets, signs_B: torch.Tensor, out_P: torch.Tensor
    ) -> None:
        """Decode into `out_P`; raises CodecError for codes in a block with scale zero."""
        levels_P = np.take(self._octets, octets, axis=0, mode="clip").reshape(-1)
        for low, high, width in _runs(len(out_P)):
            levels_NB = levels_P[low:high].reshape(-1, width)
            run_bits_N = bits_N[_num_blocks(low) :][: len(levels_NB)]
            zero_N = run_bits_N == 0
            if zero_N.any() and (levels_NB[zero_N] != self._levels[0]).any():
                raise CodecError("code", "a block with scale zero has codes that are not zero")
            out_NB = out_P[low:high].view(-1, width)
            work_NB = torch.from_numpy(levels_NB).to(out_P.device)
            work_NB, _ = unrotate(work_NB, torch.empty_like(work_NB))
            mul_(work_NB, work_NB, signs_B[:width])
            mul_(out_NB, work_NB, scale(torch.from_numpy(run_bits_N)).to(out_P.device).view(-1, 1))
            normalise_zeros_(out_NB)


def _num_blocks(numel: int) -> int:
    return numel // WIDTH + (numel % WIDTH).bit_count()


def _runs(numel: int) -> Iterator[tuple[int, int, int]]:
    """Cut into (start, stop, width): the whole blocks, and the powers of two that make up the rest."""
    full = numel - numel % WIDTH
    if full:
        yield 0, full, WIDTH
    while full < numel:
        width = 1 << (numel - full).bit_length() - 1
        yield full, full + width, width
        full += width


def _to_grid(values_NB: torch.Tensor, out_NB: torch.Tensor, start: int) -> NDArray[np.float64]:
    """Write integers up to 2**GRID_BITS and return what one of them is worth in each row.

    Raises CodecError; the first value has the index `start`.
    """
    absmax_N = torch.amax(torch.abs(values_NB, out=out_NB), dim=1)
    if not bool((absmax_N < LIMIT).all()):
        raise refuse_values(values_NB.view(-1), start, LIMIT)
    factor_N, unit_N = grid(absmax_N, GRID_BITS)
    mul_(out_NB, values_NB, factor_N.view(-1, 1)).round_()
    units: NDArray[np.float64] = unit_N.cpu().numpy()
    return units


def _inverse_root(energy_N: NDArray[np.float64]) -> NDArray[np.float32]:
    """`STEPS` divided by the root mean square after the rotation; zero where all values are zero."""
    roots_N = np.sqrt(energy_N)  # energies grow by the width
    return np.divide(STEPS, roots_N, out=np.zeros_like(roots_N), where=roots_N > 0.0).astype(np.float32)


def _integer_sums(values_NB: torch.Tensor) -> NDArray[np.float64]:
    """Sum of each row of integers up to 2**24: exact in any order."""
    sums_N: NDArray[np.float64] = values_NB.sum(dim=1, dtype=torch.float64).cpu().numpy()
    return sums_N


def _row_sums(values_NB: torch.Tensor) -> NDArray[np.float64]:
    """Sum of each row, a power of two wide, by adding halves, in float64 from `LANES`; values are lost."""
    while values_NB.shape[1] > LANES:
        half = values_NB.shape[1] // 2
        values_NB = add_(values_NB[:, :half], values_NB[:, :half], values_NB[:, half:])
    lanes_NB: NDArray[np.float64] = values_NB.to(torch.float64).cpu().numpy()
    while lanes_NB.shape[1] > 1:
        half = lanes_NB.shape[1] // 2
        lanes_NB = lanes_NB[:, :half] + lanes_NB[:, half:]
    return lanes_NB.reshape(-1)
