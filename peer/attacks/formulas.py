"""What liars send: each attack on updates as a formula. Pure; vectors are flat float32, sums are in float64.

`honest_NP` are the updates (pseudo-gradients) of the honest peers of a round, which a liar is assumed to
know.
"""

from collections.abc import Callable, Sequence

import torch

Vectors = Sequence[torch.Tensor]

Foresee = Callable[[torch.Tensor], torch.Tensor]
"""What the aggregate of a round would be, if all liars sent this."""

STRENGTHS = tuple(0.25 * 2 ** (k / 2) for k in range(13))
"""How far a tailored attack goes: 0.25 to 16."""

MEDIAN_NORMS = 10.0
"""How loud noise is, in median norms of the honest updates."""

DRIP_ROUNDS = 40
"""Rounds after which a slow drip has reached its full strength."""


def mean_of(honest_NP: Vectors) -> torch.Tensor:
    """m = sum_i x_i / N."""
    return torch.stack([row.double() for row in honest_NP]).mean(dim=0).float()


def sign_flip(honest_NP: Vectors, *, scale: float = 1.0) -> torch.Tensor:
    """-scale m: what helps most, turned round (Allen-Zhu et al. 2020, "Byzantine-resilient non-convex SGD").

    Scales far above 1 as in Gorbunov et al. 2022 (BTARD, section 4) blow up a mean in one round.
    """
    return torch.mul(mean_of(honest_NP), -scale)


def inner_product_manipulation(honest_NP: Vectors, *, strength: float) -> torch.Tensor:
    """-strength m, so that the aggregate's inner product with m becomes small or negative (Xie et al. 2019,
    "Fall of Empires", section 4). Strengths below 1 look shorter than honest updates and slip under
    bounds."""
    return torch.mul(mean_of(honest_NP), -strength)


def a_little_is_enough(honest_NP: Vectors, *, deviations: float = 1.5) -> torch.Tensor:
    """m + deviations s with s the standard deviation of the honest updates in each coordinate, N - 1 in the
    denominator (Baruch et al. 2019, "A little is enough", section 3). Closer to m than many honest updates.
    Needs two honest updates."""
    rows = torch.stack([row.double() for row in honest_NP])
    return (rows.mean(dim=0) + deviations * rows.std(dim=0, correction=1)).float()


def deviation(honest_NP: Vectors) -> torch.Tensor:
    """s_j = sqrt(sum_i (x_ij - m_j)^2 / (N - 1)). Needs two honest updates."""
    return torch.stack([row.double() for row in honest_NP]).std(dim=0, correction=1).float()


def tailored(
    honest_NP: Vectors, away_P: torch.Tensor, chunks: Sequence[slice], foresee: Foresee
) -> torch.Tensor:
    """m + g p in each chunk, with p = `away_P` and the g among `STRENGTHS` that moves the aggregate furthest
    from m there (Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine", section IV: the liars know the
    rule, search g by trying, and take -m or s for p). It is as loud as pays under a rule, and no louder.
    """
    mean_P = mean_of(honest_NP)
    lie_P, moved = mean_P.clone(), [0.0] * len(chunks)
    for strength in STRENGTHS:
        tried_P = torch.add(mean_P, away_P, alpha=strength)
        off_P = torch.sub(foresee(tried_P), mean_P)
        for number, at in enumerate(chunks):
            if norm(off_P[at]) > moved[number]:
                moved[number] = norm(off_P[at])
                lie_P[at] = tried_P[at]
    return lie_P


def mimic(honest_NP: Vectors, *, victim: int = 0) -> torch.Tensor:
    """x_victim: the same honest peer is copied always, so that its data counts too much (Karimireddy et al.
    2022, "Byzantine-robust learning on heterogeneous datasets via bucketing", section 3)."""
    return honest_NP[victim].clone()


def gaussian(honest_NP: Vectors, noise_P: torch.Tensor) -> torch.Tensor:
    """Noise g of a normal distribution, scaled to |g| = 10 median |x_i| (Blanchard et al. 2017, section 5,
    whose standard deviation of 200 is as far above its gradients)."""
    return torch.mul(noise_P, MEDIAN_NORMS * median_norm(honest_NP) / norm(noise_P))


def zero(honest_NP: Vectors) -> torch.Tensor:
    """0: a free rider; nearest of all to sparse updates, and rewarded by rules that prefer short ones."""
    return torch.zeros_like(honest_NP[0])


def one_part(honest_NP: Vectors, part: slice) -> torch.Tensor:
    """-m restricted to `part`, scaled to the smallest |x_i|: a whole norm's poison in one reducer's part,
    under a norm that nobody caps (ours; the "constrain-and-scale" of Bagdasaryan et al. 2020, section 4.3, in
    space).
    """
    poison_P = torch.zeros_like(honest_NP[0])
    poison_P[part] = mean_of(honest_NP)[part]
    size = norm(poison_P)
    return torch.mul(poison_P, -min(map(norm, honest_NP)) / size) if size else poison_P


def slow_drip(own_P: torch.Tensor, first_P: torch.Tensor, *, round_: int) -> torch.Tensor:
    """x - min(1, t/40) |x| d with x the liar's honest update in round t and d the direction of its first one.

    No step from one round to the next is remarkable, so that a history which learns from what it flags would
    follow (ours, against the running statistics of EDiT, arXiv:2412.07210, algorithm 2).
    """
    size = norm(first_P)
    ramp = min(1.0, round_ / DRIP_ROUNDS)
    return torch.sub(own_P, torch.mul(first_P, ramp * norm(own_P) / size)) if size else own_P.clone()


def norm(vector_P: torch.Tensor) -> float:
    """L2."""
    return float(torch.linalg.vector_norm(vector_P, dtype=torch.float64))


def median_norm(rows_NP: Vectors) -> float:
    """Of the rows; the lower one of two."""
    norms = sorted(map(norm, rows_NP))
    return norms[(len(norms) - 1) // 2]
