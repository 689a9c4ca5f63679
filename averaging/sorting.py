"""Sorting N vectors coordinate by coordinate with elementwise operations.

A network of comparators (Batcher 1968, odd-even merge sort) needs only minima and maxima of whole vectors,
which are the same on every machine and, for the few peers of a round, many times faster than a library's sort
of millions of short columns.
"""

from collections.abc import Sequence
from functools import cache

import torch


@cache
def comparators(num: int) -> tuple[tuple[int, int], ...]:
    """Pairs (low, high), in order, that sort `num` items: the network of the next power of two, without
    what would touch items beyond `num` (they would be the largest and stay where they are)."""
    size = 1 << max(0, num - 1).bit_length()
    pairs: list[tuple[int, int]] = []
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for j in range(k % p, size - k, 2 * k):
                starts = range(j, j + min(k, size - j - k))
                pairs += [(i, i + k) for i in starts if i // (2 * p) == (i + k) // (2 * p)]
            k //= 2
        p *= 2
    return tuple((low, high) for low, high in pairs if high < num)


def sort_(rows_NP: list[torch.Tensor]) -> None:
    """Sort each coordinate over the rows, ascending, in place. -0.0 counts as 0.0 and may become it."""
    scratch = torch.empty_like(rows_NP[0])
    for low, high in comparators(len(rows_NP)):
        torch.minimum(rows_NP[low], rows_NP[high], out=scratch)
        torch.maximum(rows_NP[low], rows_NP[high], out=rows_NP[high])
        rows_NP[low], scratch = scratch, rows_NP[low]


RANK_BITS = 16
"""Room for ranks in a packed key."""


def sort_ranked_(rows_NP: list[torch.Tensor], ranks_N: Sequence[int]) -> list[torch.Tensor]:
    """Sort each coordinate over the rows; returns the rank that came with each value now in `rows_NP`.

    Equal values are ordered by rank (0 to 2**16 - 1), so that the order of the rows does not matter. Value
    and rank are packed into one integer: for float32 without -0.0 the order of the bits, those of negative
    numbers turned over, is that of the values.
    """
    keys = []
    for row, rank in zip(rows_NP, ranks_N, strict=True):
        bits = torch.add(row, 0.0).view(torch.int32)
        bits = torch.bitwise_xor(bits, torch.bitwise_and(bits >> 31, 0x7FFF_FFFF))
        keys.append((bits.to(torch.int64) << RANK_BITS) | rank)
    sort_(keys)
    ranks = []
    for i, key in enumerate(keys):
        bits = (key >> RANK_BITS).to(torch.int32)
        bits = torch.bitwise_xor(bits, torch.bitwise_and(bits >> 31, 0x7FFF_FFFF))
        rows_NP[i] = bits.view(torch.float32)
        ranks.append(torch.bitwise_and(key, (1 << RANK_BITS) - 1))
    return ranks
