"""The geometric median by Weiszfeld's iteration."""

from collections.abc import Sequence
from math import fsum, sqrt
from statistics import median_low

import torch

from talkoot.averaging.gram import Matrix, gram_of, squared_distances
from talkoot.averaging.group import Updates, Weights, combine_, group_of

ITERATIONS = 100
SMOOTHING = 1e-3
"""nu as a part of the median norm, where no number is given."""

TINY = 1e-150
"""Smallest nu: no update is divided by 0."""


def geometric_median(
    updates_NP: Updates, weights_N: Weights, *, iterations: int = ITERATIONS, nu: float | None = None
) -> torch.Tensor:
    """The point with the least weighted sum of distances to the updates, by smoothed Weiszfeld iterations:

        z <- sum_i b_i x_i / sum_i b_i,  b_i = w_i / max(nu, |z - x_i|)

    from the weighted mean on (Pillutla et al. 2019, RFA, algorithm 2). `nu` is a distance in the units of the
    updates; None: 1/1000 of the lower median of their norms. Breakdown point 1/2 of the weight: with a share
    f < 1/2 of liars the median lies within 2 (1 - f) / (1 - 2 f) times the largest distance of an honest
    update from any one point, of that point (Minsker 2015, lemma 2.1). The mean begins far away where liars
    are loud; an iteration comes nearer by a factor of f / (1 - f). Zeros when all weights are 0.

    Raises ValueError for what is no group (`group_of`), values that are not finite, fewer than 1 iteration
    and a nu that is not positive.
    """
    if iterations < 1 or (nu is not None and not 0 < nu < float("inf")):
        raise ValueError("iterations must be at least 1, and nu positive and finite")
    group = group_of(updates_NP, weights_N)
    if not group.rows:
        return group.zeros
    shares = weiszfeld(gram_of(group), group.weights, iterations=iterations, nu=nu)
    return combine_(group.zeros, shares, group.rows)


def weiszfeld(
    gram: Matrix, weights_N: Sequence[float], *, iterations: int = ITERATIONS, nu: float | None = None
) -> list[float]:
    """Shares of the updates in their geometric median, given their products."""
    norm = sqrt(median_low([max(0.0, row[i]) for i, row in enumerate(gram)]))
    floor = max(TINY, SMOOTHING * norm if nu is None else nu)
    shares = list(weights_N)
    for _ in range(iterations):
        pulls = [
            weight / max(floor, sqrt(distance2))
            for weight, distance2 in zip(weights_N, squared_distances(gram, shares), strict=True)
        ]
        total = fsum(pulls)
        before, shares = shares, [pull / total for pull in pulls]
        if shares == before:
            break
    return shares
