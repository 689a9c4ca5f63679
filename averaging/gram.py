"""Inner products of all updates with each other: what distances, and so most robust rules, are made of.

A rule whose result is a weighted sum of the updates (centered clipping, geometric median, Krum, mixing) needs
nothing else to find its weights: every vector on its way is such a sum, and the squared distance of update i
to sum_j s_j x_j is G_ii - 2 sum_j s_j G_ij + sum_jk s_j s_k G_jk. So however many iterations a rule has, the
updates are read twice: for the products, and to be added up.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import fsum
from typing import TypeAlias

import torch

from talkoot.averaging.group import Group
from talkoot.compression.arithmetic import add_products_, fold_

Matrix: TypeAlias = list[list[float]]
"""Rows of float64."""

LANES = (2**10, 2**13)
"""Fewest and most sums beside each other for each pair of updates."""

MAX_SUMS = 2**20
"""Sums of all pairs together, 8 MiB, until there are `LANES[0]` for each."""


class Gram:
    """Collects the products of N vectors slice by slice.

    Slices of whole multiples of `LANES[1]` give the same bits however the vectors are cut. Products of
    float32 are exact in float64; element e goes into lane e mod `lanes_of`, in order, and the lanes are
    folded as a tree in the end.
    """

    def __init__(self, num_vectors: int, num_known: int = 0) -> None:
        """The squares of the first `num_known` vectors are known already: they are given to `matrix`."""
        self._num = num_vectors
        self._firsts = [i + 1 if i < num_known else i for i in range(num_vectors)]
        lanes = lanes_of(num_vectors)
        self._wide = torch.zeros(num_vectors, lanes, dtype=torch.float64)
        self._sums = torch.zeros(self._ends[-1], lanes, dtype=torch.float64)
        self._rows = [  # products of each vector with itself, unless known, and those after it: views
            (self._sums[begin:end], self._wide[i : i + 1], self._wide[first:])
            for i, (first, (begin, end)) in enumerate(zip(self._firsts, pairwise(self._ends), strict=True))
            if end > begin
        ]

    @property
    def _ends(self) -> list[int]:
        """Where the products of each vector end, with a 0 before."""
        return [0, *accumulate(self._num - first for first in self._firsts)]

    def add(self, slices_NB: Sequence[torch.Tensor] | torch.Tensor) -> None:
        """The next elements of each vector, float32 on the CPU."""
        lanes, numel = self._wide.shape[1], slices_NB[0].numel()
        for start in range(0, numel, lanes):
            stop = min(start + lanes, numel)
            if stop - start < lanes:
                self._wide.zero_()
            if isinstance(slices_NB, torch.Tensor):
                self._wide[:, : stop - start].copy_(slices_NB[:, start:stop])
            else:
                for wide, values in zip(self._wide, slices_NB, strict=True):
                    wide[: stop - start].copy_(values[start:stop])
            for sums, one, others in self._rows:
                add_products_(sums, one, others)

    def matrix(self, squares: Sequence[float] = ()) -> Matrix:
        """G: N rows of N; `squares` has those that were known."""
        found = iter(fold_(self._sums.clone()))
        gram = [[0.0] * self._num for _ in range(self._num)]
        for i, square in enumerate(squares):
            gram[i][i] = square
        for i, first in enumerate(self._firsts):
            for j in range(first, self._num):
                gram[i][j] = gram[j][i] = next(found)
        return gram


def lanes_of(num_vectors: int) -> int:
    """Sums beside each other for each pair: a power of two, part of the arithmetic."""
    fits = MAX_SUMS // max(1, num_vectors * (num_vectors + 1) // 2)
    return min(LANES[1], max(LANES[0], 1 << max(0, fits.bit_length() - 1)))


def gram_of(group: Group, *more: torch.Tensor) -> Matrix:
    """Products of the rows of a group, and of further vectors after them.

    Raises ValueError when a value is not finite: then the square of its row is not (float64 holds the square
    of any float32).
    """
    gram = Gram(len(group.rows) + len(more))
    gram.add([*group.rows, *more])
    matrix = gram.matrix()
    if any(row[i] - row[i] != 0 for i, row in enumerate(matrix)):
        raise ValueError("an update is not finite")
    return matrix


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Sum of products, each rounded, their sum exactly."""
    return fsum(x * y for x, y in zip(a, b, strict=True))


def squared_distances(gram: Matrix, shares: Sequence[float]) -> list[float]:
    """Squared distance of each vector to the sum of the vectors with these shares; never negative."""
    products = [dot(row, shares) for row in gram]
    norm2 = dot(products, shares)
    return [max(0.0, fsum((gram[i][i], -2 * products[i], norm2))) for i in range(len(gram))]


def pair_distance(gram: Matrix, i: int, j: int) -> float:
    """Squared distance of two vectors; exactly 0 for equal ones."""
    return max(0.0, fsum((gram[i][i], -2 * gram[i][j], gram[j][j])))


def transformed(gram: Matrix, mixes_KN: Matrix) -> Matrix:
    """The products of K sums of the vectors: M G M^T."""
    half_KN = [[dot(row, mix) for row in gram] for mix in mixes_KN]
    return [[dot(row, mix) for mix in mixes_KN] for row in half_KN]
