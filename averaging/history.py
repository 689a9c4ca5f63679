"""What a peer's own past says about its contribution: scores of its norm and of its direction.

EDiT (Cheng et al. 2024, arXiv:2412.07210, algorithm 2) keeps a running mean and variance of each worker's
pseudo-gradient norm and throws out what lies too far above. Six things differ here. What was flagged does
not enter the averages: in EDiT's published code it does on one path, so that a loud liar teaches them to
accept it. Norms are taken relative to the median of their round, since all of them fall by an order of
magnitude in training. Both sides count: nothing at all is as odd as ten times too much. Direction is watched
besides length; but only what does not pull along with the others is odd, because honest peers' directions
part suddenly when the learning rate falls. Spreads have a floor, so that a peer that was regular by chance is
not flagged for a hair's breadth. And a peer that was left out of rounds may come back with the work of all of
them: its length is read as that of any number of rounds in between, whichever suits its past, and nothing is
learned from it.

All of this is opinion: it weighs in audits and warnings, and proves nothing. Honest peers whose data change
are flagged at times, so no ban may follow from it. Arithmetic is float64 in fixed order, without exp or log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median_low

from talkoot.averaging.gram import Matrix
from talkoot.averaging.reasons import SIGNS, Sign

LOUDEST = 4.0
"""Median norms above which norms are told apart no more: one such would outweigh all others in a mean."""

WARM_ROUNDS = 5
"""Contributions that are learned from before any is judged."""

MEMORY = 0.1
"""Share of the newest contribution in the running averages, once there are enough: ten rounds."""

OUTLIER = 4.0
"""Spreads from the mean at which a contribution is flagged, and not learned from."""

NORM_FLOOR = 0.1
COSINE_FLOOR = 0.05
"""Least spreads."""

CONTRARY = 0.4
"""How far a peer's cosines to the aggregates before may lie below the others' on the average. Measured: 0.2
and more for an honest peer with odd data, 0.5 to 0.65 with wrong targets."""

ALONG = 0.1
"""Cosine to the aggregate before from which on no direction is odd because it was another one until now.
Measured: an honest peer of 8 with odd data fell from 0.7 to 0.06 to 0.3 when the learning rate fell to a
tenth, for some rounds."""

WELL_ALONG = 0.3
"""The same for one that always pulls against the others. Measured: 0.25 and less with wrong targets."""

LATE_SLACK = 2.0
"""How many times further a late contribution's norm may lie from the past: nobody knows how rounds add up."""

FORGETTING = 0.8
"""Share of a suspicion that is left a round later."""

SUSPECT = 0.5
"""Suspicion from which a peer is one to look at: four odd contributions in a row, or as good as."""


@dataclass(frozen=True, slots=True)
class Track:
    """A number of a peer, over its contributions."""

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def score(self, value: float, floor: float) -> float:
        """Spreads that `value` is above (or, negative, below) the mean; 0 while there is too little past."""
        if self.count < WARM_ROUNDS:
            return 0.0
        return (value - self.mean) / max(floor, sqrt(self.variance))

    def learned(self, value: float) -> "Track":
        """With one value more: a plain mean at first, then exponentially forgetting."""
        share = max(MEMORY, 1.0 / (self.count + 1))
        gap = value - self.mean
        mean = self.mean + share * gap
        return Track(self.count + 1, mean, (1.0 - share) * (self.variance + share * gap * gap))


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen of one contribution of a round."""

    norm: float
    """Relative to the median of those in the round."""
    cosine: float | None
    """To the aggregate of the round before; None: not seen."""
    lag: float | None
    """That cosine minus the (lower) median of all in the round; None: not seen."""
    rounds: int = 1
    """Rounds whose work it may be."""


def looks(
    norms_N: Sequence[float],
    cosines_N: Sequence[float | None],
    *,
    counting_N: Sequence[bool],
    rounds_N: Sequence[int],
) -> list[Look]:
    """At each of N contributions, given their norms, and their cosines to the aggregate before where seen.

    Medians (lower ones) are of those that count, so that whoever weighs nothing moves none; of all where
    nobody counts.
    """
    counting = counting_N if any(counting_N) else [True] * len(norms_N)
    middle = median_low([norm for norm, counts in zip(norms_N, counting, strict=True) if counts])
    seen = [
        cosine for cosine, counts in zip(cosines_N, counting, strict=True) if counts and cosine is not None
    ]
    usual = median_low(seen) if seen else None
    return [
        Look(
            norm / middle if middle else (LOUDEST if norm else 1.0),
            cosine,
            None if usual is None or cosine is None else cosine - usual,
            rounds,
        )
        for norm, cosine, rounds in zip(norms_N, cosines_N, rounds_N, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class History:
    """A peer's past."""

    norm: Track = Track()
    """Of `Look.norm` up to `LOUDEST`, without outliers and late ones."""
    lag: Track = Track()
    """Of `Look.lag`, without outliers and late ones."""
    every_lag: Track = Track()
    """Of `Look.lag`, outliers included."""
    suspicion: float = 0.0
    """0 to 1: how many of the last contributions were odd."""

    def scores(self, look: Look) -> tuple[float, float]:
        """Of norm and direction, in spreads. A late one has no direction: it is of more than one round."""
        late = look.rounds > 1
        norm = max(look.norm / look.rounds, min(look.norm, self.norm.mean)) if late else look.norm
        score = self.norm.score(min(LOUDEST, norm), NORM_FLOOR)
        lag = None if late else look.lag
        return (
            score / LATE_SLACK if late else score,
            0.0 if lag is None else self.lag.score(lag, COSINE_FLOOR),
        )

    def signs(self, look: Look) -> tuple[Sign, ...]:
        """What is odd: it differs from this peer's past, or this peer always pulls against what the others
        do."""
        cosine = 1.0 if look.cosine is None or look.rounds > 1 else look.cosine
        norm, lag = self.scores(look)
        turned = lag < -OUTLIER and cosine < ALONG
        against = self.every_lag.count >= WARM_ROUNDS and self.every_lag.mean < -CONTRARY
        odd = {"norm": abs(norm) > OUTLIER, "direction": turned or (against and cosine < WELL_ALONG)}
        return tuple(sign for sign in SIGNS if odd.get(sign))

    def seen(self, look: Look, *, copied: bool = False) -> "History":
        """After this contribution, which may be a copy of another one."""
        signs = self.signs(look)
        lag = look.lag if look.rounds == 1 else None
        learns = look.rounds == 1 and not signs
        return History(
            self.norm.learned(min(LOUDEST, look.norm)) if learns else self.norm,
            self.lag.learned(lag) if learns and lag is not None else self.lag,
            self.every_lag if lag is None else self.every_lag.learned(lag),
            FORGETTING * self.suspicion + (1.0 - FORGETTING) * (1.0 if copied or signs else 0.0),
        )

    @property
    def suspect(self) -> bool:
        """Whether its contributions deserve an audit."""
        return self.suspicion >= SUSPECT


COPY = 0.9
"""Excess of likeness from which two contributions are taken for copies."""


def excess(likeness: float, expected: float) -> float:
    """How much of the way from the expected likeness to identity two contributions are: 1 for equal ones.

    A fixed bound on likeness accuses honest peers early on, when all of them learn the same (cosines of 0.9
    and overlaps of sparse indices above 0.4 in the first rounds); and misses copies with some noise later. 0
    where all are expected to be equal.
    """
    return (likeness - expected) / (1.0 - expected) if expected < 1.0 else 0.0


def copies(likeness_NN: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Pairs i < j that are more like each other than likeness among these peers explains; needs 3 peers.

    `likeness_NN` are cosines or overlaps of indices, at most 1. Expected is the lower median of all pairs, so
    fewer than half of them may be copies. A pair says that one copied, not which one.
    """
    num = len(likeness_NN)
    pairs = [(i, j) for i in range(num) for j in range(i + 1, num)]
    if num < 3:
        return []
    expected = median_low([likeness_NN[i][j] for i, j in pairs])
    return [(i, j) for i, j in pairs if excess(likeness_NN[i][j], expected) > COPY]


def cosines(gram: Matrix) -> Matrix:
    """Of all with all, given inner products; 0 with a vector of zeros."""
    norms = [sqrt(max(0.0, row[i])) for i, row in enumerate(gram)]
    return [
        [min(1.0, value / (a * b)) if a and b else 0.0 for value, b in zip(row, norms, strict=True)]
        for row, a in zip(gram, norms, strict=True)
    ]
