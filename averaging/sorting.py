"""Sorting N vectors coordinate by coordinate with elementwise operations.

A network of comparators (Batcher 1968, odd-even merge sort) needs only minima and maxima of whole vectors,
which are the same on every machine and, for the few peers of a round, many times faster than a library's sort
of millions of short columns.
"""

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


def sort_with_(rows_NP: list[torch.Tensor], carried_NP: list[torch.Tensor]) -> None:
    """The same with a number that goes along with each value; equal values are ordered by theirs, so that
    the result does not depend on the order of the rows."""
    for low, high in comparators(len(rows_NP)):
        a, b, one, other = rows_NP[low], rows_NP[high], carried_NP[low], carried_NP[high]
        swap = (a > b).logical_or_((a == b).logical_and_(one > other))
        rows_NP[low], rows_NP[high] = torch.where(swap, b, a), torch.where(swap, a, b)
        carried_NP[low], carried_NP[high] = torch.where(swap, other, one), torch.where(swap, one, other)
