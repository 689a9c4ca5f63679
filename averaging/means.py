"""Weighted means: plain, and with every update's norm capped at the median."""

from collections.abc import Sequence
from math import isfinite, sqrt
from statistics import median_low

import torch

from talkoot.averaging.group import Updates, Weights, group_of, require_finite
from talkoot.compression.arithmetic import sum_squares


def mean(updates_NP: Updates, weights_N: Weights) -> torch.Tensor:
    """sum_i w_i x_i / sum_i w_i (federated averaging, McMahan et al. 2017, algorithm 1). Breakdown point 0.

    Each update is multiplied by its share and added in the given order, in float32. Zeros when all weights
    are 0. Raises ValueError for what is no group (`group_of`) and for values that are not finite.
    """
    group = group_of(updates_NP, weights_N)
    aggregate_P = add_up_(group.rows, group.weights, group.zeros)
    require_finite(aggregate_P)
    return aggregate_P


def norm_capped_mean(updates_NP: Updates, weights_N: Weights) -> torch.Tensor:
    """sum_i w_i x_i min(1, m / |x_i|) / sum_i w_i with m the lower median of the norms |x_i|.

    Norm clipping at the median as SparseLoCo's network Templar does it (Sun et al. 2019 with a relative
    bound). Breakdown point 1/2 of the peers: while fewer than half lie, m is at most the largest honest norm,
    and liars with the share f of the weight add at most f m. It limits how far liars push,
    not where to. Zeros when all weights are 0. Raises ValueError as `mean` does.
    """
    group = group_of(updates_NP, weights_N)
    if not group.rows:
        return group.zeros
    norms_N = [sqrt(sum_squares(row)) for row in group.rows]
    if not all(map(isfinite, norms_N)):
        raise ValueError("an update is not finite")
    cap = median_low(norms_N)
    shares = [
        weight if norm <= cap else weight * (cap / norm)
        for weight, norm in zip(group.weights, norms_N, strict=True)
    ]
    return add_up_(group.rows, shares, group.zeros)


def add_up_(rows_NP: Sequence[torch.Tensor], shares_N: Sequence[float], out_P: torch.Tensor) -> torch.Tensor:
    """Add share times row, for all of them in order, to `out_P`, in float32; rows with share 0 are not looked
    at."""
    scratch = torch.empty_like(out_P)
    for row, share in zip(rows_NP, shares_N, strict=True):
        if share == 0:
            continue
        torch.mul(row, share, out=scratch)
        torch.add(out_P, scratch, out=out_P)
    return out_P
