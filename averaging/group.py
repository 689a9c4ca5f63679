"""What robust rules work on: the updates that weigh, with weights that sum to 1, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, isfinite
from typing import TypeAlias

import torch

PIECE = 2**16
"""Elements combined at a time: few enough to stay in the cache."""

Updates: TypeAlias = Sequence[torch.Tensor] | torch.Tensor
"""N flat float32 vectors of one length on the CPU, or a matrix of N rows."""

Weights: TypeAlias = Sequence[float] | torch.Tensor
"""N numbers, finite and 0 or more; only their ratios count."""


@dataclass(frozen=True, slots=True)
class Group:
    """The updates of those that weigh. Who weighs nothing has no say in medians and neighbourhoods either."""

    rows: list[torch.Tensor]
    """N of length `numel`."""
    weights: list[float]
    """Above 0; they sum to 1."""
    numel: int

    @property
    def zeros(self) -> torch.Tensor:
        """What every rule makes of a group in which nobody weighs."""
        return torch.zeros(self.numel)


def group_of(updates_NP: Updates, weights_N: Weights) -> Group:
    """Check and gather. Values of the updates are checked by the rules, which look at them anyway.

    Raises ValueError unless there are updates, as many weights, all of one length in float32, and weights
    that are finite and not negative.
    """
    rows, weights = list(updates_NP), [float(weight) for weight in weights_N]
    if not rows or len(rows) != len(weights):
        raise ValueError(
            f"{len(rows)} updates and {len(weights)} weights: one or more and as many are needed"
        )
    numel = rows[0].numel()
    if any(row.dtype != torch.float32 or row.shape != (numel,) for row in rows):
        raise ValueError("updates must be flat float32 vectors of one length")
    if not all(isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError("weights must be finite and not negative")
    total = fsum(weights)
    chosen = [(row, weight / total) for row, weight in zip(rows, weights, strict=True) if weight > 0]
    return Group([row for row, _ in chosen], [weight for _, weight in chosen], numel)


def require_finite(row_P: torch.Tensor) -> None:
    """Raise ValueError for values that are none."""
    if not bool(torch.isfinite(row_P).all()):
        raise ValueError("an update is not finite")


def combine_(out_P: torch.Tensor, shares_N: Sequence[float], rows_NP: Sequence[torch.Tensor]) -> torch.Tensor:
    """out = sum of share times row, in the given order; in float64, rounded to float32 once. Returns `out_P`,
    which may be one of the rows. Rows with share 0 are not looked at; -0.0 comes out as 0.0."""
    chosen = [(share, row) for share, row in zip(shares_N, rows_NP, strict=True) if share != 0]
    total = torch.empty(min(PIECE, out_P.numel()), dtype=torch.float64)
    scratch = torch.empty_like(total)
    for start in range(0, out_P.numel(), PIECE):
        out = out_P[start : start + PIECE]
        acc, term = total[: out.numel()].zero_(), scratch[: out.numel()]
        for share, row in chosen:
            term.copy_(row[start : start + PIECE])
            torch.mul(term, share, out=term)
            torch.add(acc, term, out=acc)
        out.copy_(acc)
    return out_P
