"""How much of a contribution is new: what is left of it once everything that came before is taken away.

A copy of what others sent in the round before still lowers the loss, only less than work does, so the loss
alone lets it pass. But nothing in it is new, whichever of the earlier contributions, or mixture of them, it
is; only the noise that hides it. The new share of x is |x - Bb|^2 / |x|^2 with the b that makes it smallest,
where the columns of B are the earlier contributions. Honest ones repeat much of each other, too, early on
most of all, so the share is compared with what is usual in the same round. By this measure a copy under a
third of its norm of noise, or more, is nearly as new as work.

An opinion of whoever remembers: nothing that others compute may depend on it.
"""

from collections.abc import Sequence
from statistics import median_low

import torch

from talkoot.averaging.verdicts import MAX_SCORE

STALE = 0.25
"""Times the usual new share, below which a contribution is taken for one that was there before. Honest
ones had half of it or more in small trainings, late ones included."""

DOUBTFUL = 0.5
"""The same, below which it earns nothing, though it is not held against anybody."""

NOTHING_NEW = 0.02
"""Usual new share below which nothing is said: then honest work is hardly more than what codecs leave."""

RANK = 1e-9
"""Smallest eigenvalue, relative to the largest, that counts: copies of copies say nothing more."""


def new_shares(now_ND: torch.Tensor, before_MD: torch.Tensor) -> list[float]:
    """Of N contributions, given M earlier ones at the same D places, D above M: each 0 to 1; 1 for zeros, in
    which nothing is old. Both are finite. In float64."""
    now_ND, before_MD = _unit(now_ND), _unit(before_MD)
    values_M, vectors_MM = torch.linalg.eigh(before_MD @ before_MD.T)
    kept = values_M > RANK * values_M.max()
    along_NM = now_ND @ before_MD.T @ vectors_MM[:, kept]
    explained_N = (along_NM.square() / values_M[kept]).sum(1)
    return [float(share) for share in (1.0 - explained_N).clamp_(0.0, 1.0)]


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """As float64, each row of length 1, or zeros."""
    wide = rows.to(torch.float64)
    norms = wide.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, wide / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def highest_scores(shares_N: Sequence[float], counting_N: Sequence[bool]) -> list[int]:
    """The best verdict that each of N contributions of a round may get: the worst there is for one that is
    as good as nothing but old, 0 where that is doubtful.

    The usual share is the lower median of those that count (of all where nobody does), so that newcomers
    move it nowhere, and fewer than half of those that count may be copies.
    """
    counting = counting_N if any(counting_N) else [True] * len(shares_N)
    usual = median_low([share for share, counts in zip(shares_N, counting, strict=True) if counts])
    if usual < NOTHING_NEW:
        return [MAX_SCORE] * len(shares_N)
    return [_highest(share, usual) for share in shares_N]


def _highest(share: float, usual: float) -> int:
    if share < STALE * usual:
        return -MAX_SCORE
    return 0 if share < DOUBTFUL * usual else MAX_SCORE
