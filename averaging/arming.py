"""Whether a defence arms: the plain mean stands where it is near what the robust rule comes to."""

from collections.abc import Sequence
from math import isfinite, sqrt
from statistics import median_low

import torch

from talkoot.averaging.group import Updates, Weights, group_of, require_finite
from talkoot.averaging.means import add_up_
from talkoot.compression.arithmetic import sum_squares


def mean_unless_far(
    updates_NP: Updates, weights_N: Weights, robust_P: torch.Tensor, *, arms_at: float
) -> torch.Tensor:
    """The weighted mean m where |m - r| <= arms_at * median_i |x_i - r| (lower median), else r = `robust_P`,
    which a robust rule makes of the same updates. Ours: without liars a rule costs what it drops of honest
    work, and its result and the mean differ by little; what liars add, moves the mean away from it.

    Liars can move the result by `arms_at` median distances from r at most. Breakdown point: that of the rule,
    and at most 1/2 of the peers, as fewer liars cannot raise the lower median above the largest distance of
    an honest update. `arms_at` 0: r, but where m is equal to it.

    Zeros when all weights are 0. Raises ValueError for what is no group (`group_of`), values that are not
    finite, a negative or non-finite `arms_at`, and a `robust_P` of another length.
    """
    if not 0 <= arms_at < float("inf"):
        raise ValueError("arms_at must be 0 or more and finite")
    group = group_of(updates_NP, weights_N)
    fits = robust_P.dtype == torch.float32 and robust_P.shape == (group.numel,)
    if not fits or not bool(torch.isfinite(robust_P).all()):
        raise ValueError(f"robust_P must be a flat float32 vector of {group.numel} finite values")
    for row in group.rows:
        require_finite(row)
    if not group.rows:
        return group.zeros
    mean_P = add_up_(group.rows, group.weights, group.zeros)
    distances = [distance(row, robust_P) for row in group.rows]
    return mean_P if stands(mean_P, robust_P, distances, arms_at) else robust_P.clone()


def distance(a_P: torch.Tensor, b_P: torch.Tensor) -> float:
    """|a - b|, the difference rounded to float32."""
    return sqrt(sum_squares(torch.sub(a_P, b_P)))


def stands(
    mean_P: torch.Tensor, robust_P: torch.Tensor, distances_N: Sequence[float], arms_at: float
) -> bool:
    """Whether the mean is near enough, by the updates' distances to `robust_P`."""
    off = distance(mean_P, robust_P)
    return isfinite(off) and off <= arms_at * median_low(distances_N)
