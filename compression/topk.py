"""The largest few of each chunk: their positions, signs, and one of two magnitudes; all others become zero.

A chunk of 4096 values keeps the k with the largest magnitudes, of equal ones those with the lower index; a
shorter chunk at the end keeps `ceil(k * length / 4096)`. Magnitudes below 2**-100 count as zero, and zeros
are never kept: a chunk with fewer other values leaves slots empty. Kept values become `+-level`, of two
levels for each chunk (`two_levels`). Body: one record for each chunk (`slots`); with k = 64 it has 84 bytes,
0.164 bits a value.

Everything is decided by integers, on the CPU: tensors of a GPU are copied piece by piece.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from talkoot.compression import slots, two_levels
from talkoot.compression.base import Codec, CodecError, Octets, pieces, refuse_values
from talkoot.compression.slots import Chunks, Layout

CHUNK = 4096
MIN_KEY = (127 - 100) << 23
"""float32 bits of 2**-100, the smallest magnitude that is kept."""
MIN_LEVEL_BITS = MIN_KEY >> 16
MAX_SLOTS = 2**13
"""Slots that are worked on at a time."""
_MAGNITUDE = 0x7FFF_FFFF
_INFINITE = 0x7F80_0000


class Topk(Codec):
    """The `k` largest of 4096, a power of two from 8 to 1024."""

    wire_id = 8

    def __init__(self, k: int = 64) -> None:
        if not (8 <= k <= 1024 and k & (k - 1) == 0):
            raise CodecError("unknown_codec", f"topk takes a power of two, 8 to 1024, not {k}")
        self.k = k
        self.name = "topk" if k == 64 else f"topk:{k}"
        self.parameter = k.bit_length() - 1

    def _layout(self, width: int) -> Layout:
        return Layout(width=width, low_bits=(CHUNK // self.k).bit_length() - 1)

    def _body_size(self, numel: int) -> int:
        full, rest = divmod(numel, CHUNK)
        return full * self._layout(CHUNK).size + (self._layout(rest).size if rest else 0)

    def _records(self, body: Octets, numel: int) -> Iterator[tuple[int, int, Layout, Octets]]:
        """Yield (start, stop, layout, records) of each piece."""
        record = self._layout(CHUNK).size
        step = CHUNK * (MAX_SLOTS // self.k)
        for first, last, width in pieces(numel, CHUNK):
            layout = self._layout(width)
            for start in range(first, last, step):
                stop = min(start + step, last)
                num, at = (stop - start) // width, start // CHUNK * record
                yield start, stop, layout, body[at : at + num * layout.size].reshape(num, -1)

    def _encode_body(self, values_P: torch.Tensor, body: Octets) -> None:
        for start, stop, layout, records in self._records(body, values_P.numel()):
            values = values_P[start:stop].detach()
            bits_NC = values.cpu().numpy().view(np.int32).reshape(-1, layout.width)
            key_NC = bits_NC & _MAGNITUDE
            if key_NC.max() >= _INFINITE:
                raise refuse_values(values, start, math.inf)
            cut_N1 = _cut(key_NC, layout.slots)
            np.bitwise_and(bits_NC, _MAGNITUDE, out=key_NC)
            slots.write(_chunks(bits_NC, _select(key_NC, cut_N1, layout.slots), layout), layout, records)

    def _decode_body(self, body: Octets, out_P: torch.Tensor) -> None:
        for start, stop, layout, chunks in self._checked(body, out_P.numel()):
            out = out_P[start:stop].zero_()
            index, values = _scattered(chunks, layout)
            out.index_copy_(
                0, torch.from_numpy(index).to(out.device), torch.from_numpy(values).to(out.device)
            )

    def _squared_norm(self, body: Octets, numel: int) -> float:
        terms: list[float] = []
        for _, _, layout, chunks in self._checked(body, numel):
            upper_N = chunks.upper.sum(axis=1)
            count_N2 = np.stack((_count(chunks, layout) - upper_N, upper_N), axis=1)
            level_N2 = (chunks.levels << 16).view(np.float32).astype(np.float64)
            terms += (count_N2 * (level_N2 * level_N2)).ravel().tolist()  # 11 + 16 bits: exact
        return math.fsum(terms)

    def _checked(self, body: Octets, numel: int) -> Iterator[tuple[int, int, Layout, Chunks]]:
        """Yield (start, stop, layout, chunks) of each piece; raises CodecError at the first at fault."""
        for start, stop, layout, records in self._records(body, numel):
            chunks = slots.read(records, layout)
            _check_levels(chunks, layout)
            yield start, stop, layout, chunks


def _chunks(bits_NC: NDArray[np.int32], index: NDArray[np.int64], layout: Layout) -> Chunks:
    """What is kept of the values with `bits_NC`: those at the flat `index`, which increases."""
    row = index // layout.width
    count_N = np.bincount(row, minlength=len(bits_NC))
    slot = np.arange(len(index)) - (np.cumsum(count_N) - count_N)[row]
    kept_NK = np.zeros((len(bits_NC), layout.slots), np.int32)
    kept_NK[row, slot] = bits_NC.reshape(-1)[index]
    position_NK = np.full(kept_NK.shape, layout.slots << layout.low_bits, np.int64)
    position_NK[row, slot] = index - row * layout.width
    level_N2, upper_NK = two_levels.fit(kept_NK & _MAGNITUDE)
    return Chunks(positions=position_NK, negative=kept_NK < 0, upper=upper_NK, levels=level_N2)


def _cut(key_NC: NDArray[np.int32], num: int) -> NDArray[np.int32]:
    """The smallest key of each row that may be kept, `(N, 1)`; puts the keys out of order."""
    width = key_NC.shape[1]
    # Zeros become small numbers that differ: numpy's partition is slow where many are equal.
    np.maximum(key_NC, np.arange(width, dtype=np.int32), out=key_NC)
    key_NC.partition(width - num, axis=1)
    return np.maximum(key_NC[:, width - num, np.newaxis], MIN_KEY)


def _select(key_NC: NDArray[np.int32], cut_N1: NDArray[np.int32], num: int) -> NDArray[np.int64]:
    """Flat indices, increasing, of the `num` largest keys of each row; fewer where the rest is too small."""
    num_rows, width = key_NC.shape
    index: NDArray[np.int64] = np.flatnonzero(key_NC >= cut_N1)
    count_N = np.bincount(index // width, minlength=num_rows)
    tied_T = np.flatnonzero(count_N > num)
    if len(tied_T) == 0:
        return index
    kept_NC = key_NC >= cut_N1
    equal_TC = key_NC[tied_T] == cut_N1[tied_T]
    surplus_T1 = count_N[tied_T, np.newaxis] - num
    from_end_TC = np.cumsum(equal_TC[:, ::-1], axis=1, dtype=np.int16)[:, ::-1]
    kept_NC[tied_T] &= ~(equal_TC & (from_end_TC <= surplus_T1))
    index = np.flatnonzero(kept_NC)
    return index


def _scattered(chunks: Chunks, layout: Layout) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Flat indices into the piece, and the values there."""
    level_NK = np.where(chunks.upper, chunks.levels[:, 1:], chunks.levels[:, :1])
    bits_NK = (level_NK << 16) | (chunks.negative.astype(np.int32) << 31)
    index_NK = chunks.positions + np.arange(len(bits_NK))[:, np.newaxis] * layout.width
    used_NK = chunks.positions < layout.width
    return index_NK[used_NK], bits_NK[used_NK].view(np.float32)


def _count(chunks: Chunks, layout: Layout) -> NDArray[np.int64]:
    """Slots in use."""
    count_N: NDArray[np.int64] = (chunks.positions < layout.width).sum(axis=1)
    return count_N


def _check_levels(chunks: Chunks, layout: Layout) -> None:
    """Raise CodecError for levels, or for a use of them, that no encoder writes."""
    low_N, high_N = chunks.levels[:, 0], chunks.levels[:, 1]
    count_N, upper_N = _count(chunks, layout), chunks.upper.sum(axis=1)
    fits_N = (low_N >= MIN_LEVEL_BITS) & (low_N <= high_N) & (high_N <= two_levels.MAX_LEVEL_BITS)
    if not np.where(count_N > 0, fits_N, (low_N | high_N) == 0).all():
        raise CodecError("scale", "the levels of a chunk are not two positive numbers in order")
    both_N = (upper_N > 0) & (upper_N < count_N)
    if not np.where(low_N < high_N, both_N, upper_N == 0).all():
        raise CodecError("code", "a level of a chunk is not used, or equal ones are told apart")
