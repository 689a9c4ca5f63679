"""Krum and multi-Krum: the updates that have the closest neighbours."""

from collections.abc import Sequence
from math import fsum

import torch

from talkoot.averaging.gram import Matrix, gram_of, pair_distance
from talkoot.averaging.group import Updates, Weights, combine_, group_of


def krum(
    updates_NP: Updates, weights_N: Weights, *, num_byzantine: int, num_selected: int = 1
) -> torch.Tensor:
    """The weighted mean of the `num_selected` updates with the lowest scores; the score of one is the sum of
    its squared distances to its N - num_byzantine - 2 nearest others (Blanchard et al. 2017, section 4;
    `num_selected` above 1: multi-Krum).

    Breakdown point num_byzantine, up to (N - 3) / 2, for num_selected <= N - num_byzantine: with at most so
    many liars the scores of what is selected are no higher than honest ones, so that the result is no further
    than 1 + 2 sqrt(N - num_byzantine - 2) times R from the honest mean, R being how far the furthest honest
    update is. Equal scores: the update that
    comes first; with few peers (one or two without a liar) all scores are 0. Zeros when all weights are 0.

    Raises ValueError unless 0 <= num_byzantine, 2 num_byzantine + 3 <= N (or num_byzantine is 0) and
    1 <= num_selected <= N, for what is no group (`group_of`), and for values that are not finite. N counts
    the updates that weigh. Makes no sense of sparse updates: the closest to all of them is a vector of zeros.
    """
    group = group_of(updates_NP, weights_N)
    num = len(group.rows)
    if num and not (num_byzantine == 0 or 0 < 2 * num_byzantine <= num - 3):
        raise ValueError(f"num_byzantine must be 0 to {max(0, (num - 3) // 2)} of {num}, not {num_byzantine}")
    if num and not 1 <= num_selected <= num:
        raise ValueError(f"num_selected must be 1 to {num}, not {num_selected}")
    if not num:
        return group.zeros
    shares = selected(gram_of(group), group.weights, num_byzantine=num_byzantine, num_selected=num_selected)
    return combine_(group.zeros, shares, group.rows)


def selected(
    gram: Matrix, weights_N: Sequence[float], *, num_byzantine: int, num_selected: int
) -> list[float]:
    """Shares of the updates in what multi-Krum selects, given their products."""
    num = len(gram)
    neighbours = max(0, num - num_byzantine - 2)
    scores = []
    for i in range(num):
        others = sorted(pair_distance(gram, i, j) for j in range(num) if j != i)
        scores.append(fsum(others[:neighbours]))
    best = set(sorted(range(num), key=lambda i: (scores[i], i))[:num_selected])
    total = fsum(weights_N[i] for i in best)
    return [weights_N[i] / total if i in best else 0.0 for i in range(num)]
