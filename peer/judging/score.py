"""From paired losses to a verdict: did the slice help, and is that more than chance?

The windows are the same before and after, so what they have in common cancels, and what is left is tested as
Student (1908) does for pairs: t = mean(d) / (sd(d) / sqrt(W)) with d the decrease of the loss on each of W
windows. Gauntlet (arXiv:2505.21684, section 3.1, "LossScore") takes the decrease itself at a scaled step, and
ranks peers by it; here each verdict stands alone, and how much a loss can still fall shrinks by orders of
magnitude in training, so the decrease is measured by its own spread.
"""

from collections.abc import Sequence
from math import copysign, fsum, isfinite, sqrt

from blake3 import blake3

from talkoot.averaging.verdicts import MAX_SCORE

SCALE = 0.25
"""Times which a slice is subtracted from the parameters. A loss is nearly linear for so small a step, so that
a slice is judged by its direction; Gauntlet takes 0.2. docs/experiments.md has what other scales find."""

MOST_WINDOWS = 64
FEWEST_WINDOWS = 8

SIGNIFICANT = 2.5
"""|t| below which a verdict is 0. Chance alone is beyond it on one side once in 160 audits of many windows,
once in 50 of as few as there may be."""

CLEAR = 10.0
"""|t| from which on a score is the largest one."""

LEAST = 1e-6
"""Change relative to the loss that arithmetic alone may cause."""


def windows_seed(digest: bytes, auditor: bytes) -> int:
    """63 bits that choose the windows of an auditor in the round after a state."""
    body = blake3(digest + auditor, derive_key_context="talkoot 2026 audit windows").digest()
    return int.from_bytes(body[:8], "big") >> 1


def ratio_of(before: Sequence[float], after: Sequence[float]) -> float:
    """t of the decrease from `before` to `after`, on the same windows, at least two; infinite where they
    all agree, 0 where nothing changes that could be told from rounding."""
    pairs = list(zip(before, after, strict=True))
    num = len(pairs)
    mean = fsum(b - a for b, a in pairs) / num
    if abs(mean) <= LEAST * fsum(before) / num:
        return 0.0
    spread = sqrt(fsum((b - a - mean) ** 2 for b, a in pairs) / (num - 1))
    return mean / (spread / sqrt(num)) if spread else copysign(float("inf"), mean)


def score_of(before: Sequence[float], after: Sequence[float]) -> int | None:
    """-1000 to 1000; None where the parameters before have no loss themselves.

    A loss that is no number afterwards is the worst.
    """
    if not all(map(isfinite, before)):
        return None
    if not all(map(isfinite, after)):
        return -MAX_SCORE
    ratio = ratio_of(before, after)
    if abs(ratio) < SIGNIFICANT:
        return 0
    return round(MAX_SCORE * max(-1.0, min(1.0, ratio / CLEAR)))
