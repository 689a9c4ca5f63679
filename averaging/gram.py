"""Inner products of all updates with each other: what distances, and so most robust rules, are made of.

A rule whose result is a weighted sum of the updates (centered clipping, geometric median, Krum, mixing) needs
nothing else to find its weights: every vector on its way is such a sum, and the squared distance of update i
to sum_j s_j x_j is G_ii - 2 sum_j s_j G_ij + sum_jk s_j s_k G_jk. So however many iterations a rule has, the
updates are read twice: for the products, and to be added up.
"""

from collections.abc import Sequence
from math import fsum
from typing import TypeAlias

import torch

from talkoot.averaging.group import Group
from talkoot.compression.arithmetic import SUM_BLOCK, add_products_, fold_

Matrix: TypeAlias = list[list[float]]
"""Rows of float64."""

LANES = 2**12
"""Sums beside each other for each pair of up to 16 updates: what the cache holds."""

MANY_LANES = 2**10
"""The same for more updates."""

MANY = 16


class Gram:
    """Collects the products of N vectors slice by slice.

    Slices of whole `SUM_BLOCK`s give the same bits however the vectors are cut. Products of float32 are
    exact in float64; they are added in lanes, each block's lanes are folded as a tree, and `math.fsum` adds
    the blocks.
    """

    def __init__(self, num_vectors: int) -> None:
        self._num = num_vectors
        lanes = LANES if num_vectors <= MANY else MANY_LANES
        self._wide = torch.zeros(num_vectors, lanes, dtype=torch.float64)
        self._sums = torch.zeros(num_vectors * (num_vectors + 1) // 2, lanes, dtype=torch.float64)
        ends = [number * num_vectors - number * (number - 1) // 2 for number in range(num_vectors + 1)]
        self._rows = [  # products of vector i with i, i + 1, ...: views into the same memory
            (self._sums[ends[i] : ends[i + 1]], self._wide[i : i + 1], self._wide[i:])
            for i in range(num_vectors)
        ]
        self._blocks: list[list[float]] = []

    def add(self, slices_N: Sequence[torch.Tensor]) -> None:
        """The next elements of each vector, float32 on the CPU."""
        lanes, numel = self._wide.shape[1], slices_N[0].numel()
        for block in range(0, numel, SUM_BLOCK):
            self._sums.zero_()
            for start in range(block, min(block + SUM_BLOCK, numel), lanes):
                stop = min(start + lanes, numel)
                if stop - start < lanes:
                    self._wide.zero_()
                for wide, values in zip(self._wide, slices_N, strict=True):
                    wide[: stop - start].copy_(values[start:stop])
                for sums, one, others in self._rows:
                    add_products_(sums, one, others)
            self._blocks.append(fold_(self._sums))

    def matrix(self) -> Matrix:
        """G: N rows of N."""
        found = iter([fsum(terms) for terms in zip(*self._blocks, strict=True)])
        gram = [[0.0] * self._num for _ in range(self._num)]
        for i in range(self._num if self._blocks else 0):
            for j in range(i, self._num):
                gram[i][j] = gram[j][i] = next(found)
        return gram


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
