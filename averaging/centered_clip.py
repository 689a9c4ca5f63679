"""Centered clipping: updates pull the result towards them, none with more than a bounded force."""

from collections.abc import Sequence
from math import fsum, sqrt
from statistics import median_low
from typing import Literal, TypeAlias

import torch

from talkoot.averaging.coordinates import coordinate_median
from talkoot.averaging.gram import Matrix, gram_of, squared_distances
from talkoot.averaging.group import Updates, Weights, combine_, group_of

ITERATIONS = 3

Center: TypeAlias = torch.Tensor | Literal["zero", "coordinate_median"]
"""Where clipping begins: a vector such as the aggregate of the round before, or one of these two."""


def centered_clip(
    updates_NP: Updates,
    weights_N: Weights,
    *,
    tau: float | None = None,
    iterations: int = ITERATIONS,
    center: Center = "zero",
) -> torch.Tensor:
    """v <- v + sum_i w_i (x_i - v) min(1, tau / |x_i - v|) / sum_i w_i, `iterations` times from `center` on
    (Karimireddy et al. 2021, "Learning from history", section 4; weighted as in Gorbunov et al. 2022, BTARD).

    `tau` is a distance in the units of the updates; None: in each iteration the lower median of the distances
    |x_i - v|, so that half of the updates count in full. Liars with the share f of the weight move v by at
    most f tau in an iteration, whatever they send. Breakdown point: none with a given tau; with the median
    1/2 of the peers, as fewer liars cannot raise it above the largest distance of an honest update. Tau 0 or
    a median of 0: only updates that equal v count, so v stays.

    Zeros when all weights are 0. Raises ValueError for what is no group (`group_of`), values that are not
    finite, a negative or non-finite tau, fewer than 1 iteration, and a center of another length.
    """
    if iterations < 1 or (tau is not None and not 0 <= tau < float("inf")):
        raise ValueError("iterations must be at least 1, and tau 0 or more and finite")
    group = group_of(updates_NP, weights_N)
    if not group.rows:
        return group.zeros
    start = _start(center, group.numel, updates_NP, weights_N)
    shares = clipped(gram_of(group, *start), group.weights, tau=tau, iterations=iterations)
    return combine_(group.zeros, shares, [*group.rows, *start])


def _start(
    center: Center, numel: int, updates_NP: Updates, weights_N: Weights
) -> tuple[()] | tuple[torch.Tensor]:
    """The vector to begin at; none for zero."""
    if isinstance(center, torch.Tensor):
        if center.dtype != torch.float32 or center.shape != (numel,):
            raise ValueError(f"center must be a flat float32 vector of {numel}")
        return (center,)
    if center == "zero":
        return ()
    if center == "coordinate_median":
        return (coordinate_median(updates_NP, weights_N),)
    raise ValueError('center must be a vector, "zero" or "coordinate_median"')


def clipped(
    gram: Matrix,
    weights_N: Sequence[float],
    *,
    tau: float | None = None,
    iterations: int = ITERATIONS,
    radius: float = 1.0,
) -> list[float]:
    """Shares of the N updates, and of the centre if the products have a row more, in what clipping comes to.

    `radius` multiplies the median distance where `tau` is None.
    """
    num = len(weights_N)
    shares = [0.0] * num + [1.0] * (len(gram) - num)
    for _ in range(iterations):
        distances = [sqrt(distance2) for distance2 in squared_distances(gram, shares)[:num]]
        bound = radius * median_low(distances) if tau is None else tau
        pulls = [
            weight if distance <= bound else weight * (bound / distance)
            for weight, distance in zip(weights_N, distances, strict=True)
        ]
        stays = 1.0 - fsum(pulls)
        shares = [stays * share for share in shares]
        shares[:num] = [share + pull for share, pull in zip(shares, pulls, strict=False)]
    return shares
