"""Rules that look at each coordinate by itself: weighted median and trimmed mean."""

from collections.abc import Callable, Sequence
from math import isclose

import torch

from talkoot.averaging.group import PIECE, Updates, Weights, group_of, require_finite
from talkoot.averaging.sorting import sort_, sort_ranked_

WEIGHT_UNITS = 2**17
"""The median counts weights in units of the largest one over this: whole numbers, added exactly (in float32
for the peers of one group). Half of the weight is half to within half a unit for each."""


def coordinate_median(updates_NP: Updates, weights_N: Weights) -> torch.Tensor:
    """In each coordinate the weighted median (Yin et al. 2018, definition 1): the value below and above which
    lies at most half of the weight each; the middle between two where exactly half lies on either side.

    Breakdown point 1/2 of the weight: below it every coordinate stays within the range of the honest values.
    Zeros when all weights are 0. Raises ValueError for what is no group (`group_of`) and for values that are
    not finite. Makes no sense of sparse updates: a value that was not sent would vote for 0.
    """
    group = group_of(updates_NP, weights_N)
    for row in group.rows:
        require_finite(row)
    return median_(group.zeros, group.rows, group.weights)


def trimmed_mean(updates_NP: Updates, weights_N: Weights, *, trim: int) -> torch.Tensor:
    """In each coordinate the weighted mean without the `trim` largest and the `trim` smallest values
    (Yin et al. 2018, definition 2, with trim = beta N).

    Breakdown point trim of the N updates that weigh: with at most so many liars every coordinate stays within
    the range of the honest values. Zeros when all weights are 0. Raises ValueError unless 0 <= 2 trim < N,
    and as `coordinate_median` does. Makes no sense of sparse updates either.
    """
    group = group_of(updates_NP, weights_N)
    if group.rows and not 0 <= 2 * trim < len(group.rows):
        raise ValueError(f"trim must be 0 or more and below half of {len(group.rows)} updates, not {trim}")
    for row in group.rows:
        require_finite(row)
    return trimmed_(group.zeros, group.rows, group.weights, trim)


def median_(out_P: torch.Tensor, rows_NP: Sequence[torch.Tensor], weights_N: Sequence[float]) -> torch.Tensor:
    """Write the weighted median of finite rows, weights above 0, into `out_P` and return it."""
    if not rows_NP:
        return out_P.zero_()
    largest = max(weights_N)
    units = [round(weight / largest * WEIGHT_UNITS) for weight in weights_N]
    middle = _median if len(set(units)) == 1 else _weighted_median
    return _by_pieces(out_P, rows_NP, lambda pieces, _where: middle(pieces, units))


def trimmed_(
    out_P: torch.Tensor,
    rows_NP: Sequence[torch.Tensor],
    weights_N: Sequence[float],
    trim: int,
    late: Sequence[tuple[float, torch.Tensor]] = (),
) -> torch.Tensor:
    """Write the weighted trimmed mean of finite rows, weights above 0, into `out_P` and return it.

    With `late`, shares and rows: plus share times row for each, in every coordinate held to the range of the
    values that are not trimmed.
    """
    if not rows_NP:
        return out_P.zero_()
    equal = all(isclose(weight, weights_N[0], rel_tol=1e-12) for weight in weights_N)
    average = _trimmed if equal else _weighted_trimmed

    def rule(pieces: list[torch.Tensor], where: slice) -> torch.Tensor:
        result = average(pieces, weights_N, trim)  # sorts them
        low, high = pieces[trim], pieces[len(pieces) - 1 - trim]
        for share, row in late:
            held = torch.minimum(torch.maximum(row[where], low), high)
            torch.mul(held, share, out=held)
            torch.add(result, held, out=result)
        return result

    return _by_pieces(out_P, rows_NP, rule)


def _by_pieces(
    out_P: torch.Tensor,
    rows_NP: Sequence[torch.Tensor],
    rule: Callable[[list[torch.Tensor], slice], torch.Tensor],
) -> torch.Tensor:
    """Apply a rule that uses up its rows to copies of a few elements at a time; -0.0 becomes 0.0."""
    for start in range(0, out_P.numel(), PIECE):
        where = slice(start, start + PIECE)
        result = rule([row[where].clone() for row in rows_NP], where)
        torch.add(result, 0.0, out=result)
        out_P[where].copy_(result)
    return out_P


def _middle(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """(low + high) / 2, halved first so that nothing overflows."""
    return torch.add(torch.mul(low, 0.5), torch.mul(high, 0.5))


def _median(rows: list[torch.Tensor], units: Sequence[int]) -> torch.Tensor:
    sort_(rows)
    low, high = rows[(len(rows) - 1) // 2], rows[len(rows) // 2]
    return low if low is high else _middle(low, high)


def _weighted_median(rows: list[torch.Tensor], units: Sequence[int]) -> torch.Tensor:
    """From the top down, the sum of the units up to each value, exactly: total minus what lies above."""
    carried = _sort_with(rows, units, torch.float32 if sum(units) < 2**24 else torch.float64)
    half, rounding = sum(units) / 2, len(units) / 2
    low, high = rows[-1], rows[-1]
    up_to = torch.full_like(carried[0], float(sum(units)))
    for row, above in zip(rows[-2::-1], carried[:0:-1], strict=True):
        torch.sub(up_to, above, out=up_to)
        low = torch.where(up_to >= half - rounding, row, low)
        high = torch.where(up_to > half + rounding, row, high)
    return torch.where(low == high, low, _middle(low, high))


def _trimmed(rows: list[torch.Tensor], weights_N: Sequence[float], trim: int) -> torch.Tensor:
    sort_(rows)
    kept = rows[trim : len(rows) - trim]
    total = torch.zeros(rows[0].numel(), dtype=torch.float64)
    for row in kept:
        torch.add(total, row.double(), out=total)
    return torch.div(total, torch.full((1,), float(len(kept)), dtype=torch.float64)).float()


def _weighted_trimmed(rows: list[torch.Tensor], weights_N: Sequence[float], trim: int) -> torch.Tensor:
    carried = _sort_with(rows, weights_N, torch.float64)
    total = torch.zeros(rows[0].numel(), dtype=torch.float64)
    weight = torch.zeros_like(total)
    for row, share in list(zip(rows, carried, strict=True))[trim : len(rows) - trim]:
        torch.add(total, torch.mul(row.double(), share), out=total)
        torch.add(weight, share, out=weight)
    return torch.div(total, weight).float()


def _sort_with(rows: list[torch.Tensor], numbers: Sequence[float], dtype: torch.dtype) -> list[torch.Tensor]:
    """Sort each coordinate; returns the number of the peer from whom each value is."""
    order = sorted(range(len(numbers)), key=lambda i: numbers[i])
    table = torch.tensor([numbers[i] for i in order], dtype=dtype)
    ranks = {i: rank for rank, i in enumerate(order)}
    return [table[rank] for rank in sort_ranked_(rows, [ranks[i] for i in range(len(rows))])]
