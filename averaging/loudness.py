"""How large the aggregate of a part can be, by what its contributors signed: whoever votes can tell.

A reducer that lies is proven after the round, which then stands; what it may do until then is bounded here.
The bounds hold for every rule and need nothing but signed norms: of the part's chunks where the
contributions' indexes are known, as they are to reducers, else of whole contributions.

With u_i the capped norms of those that weigh: a weighted mean, and whatever rule comes to one, is no longer
than the largest u_i. A coordinate-wise rule is no longer than sqrt(sum u_i^2), and where k values of each
side are left out in each coordinate, sqrt(sum u_i^2 / (k + 1)), since k + 1 of them are at least as large as
the result. What late contributions have above one round's worth goes on top of that, by their weights.

Where the defence arms only at need, a chunk is that, r, or the plain mean, which is no longer than the mean
of the norms v_i without caps, and within `arms_at` median distances of r. The median distance is no longer
than |r| and the median of v_i, one round's worth of each, together. Where chunks' norms are not known: of n
contributions at least n // 2 + 1 are as long as the lower median in a chunk.
"""

from collections.abc import Mapping, Sequence
from math import fsum, hypot, sqrt
from statistics import median_low

import torch

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.contribution import Entry, Index
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.parts import Part
from talkoot.averaging.robustness import COORDINATEWISE, Robustness
from talkoot.averaging.rules import NEARLY_LOSSLESS, Rules
from talkoot.averaging.source import Caps, source_of
from talkoot.averaging.succession import Weighed, weigh

SLACK = 2.0
"""What encoding the aggregate may add at most: rounding to the nearest level at most doubles a value."""

FINE_SLACK = 1.1
"""The same for codecs that lose next to nothing: of a block's 127 levels, all others than its largest value
could be halves at worst."""

TINY = 1e-30
"""Norms below are nobody's business: scales have a floor."""


def loudest(
    part: Part, cut: Sequence[Contribution], indexes: Mapping[bytes, Index], ledger: Ledger, rules: Rules
) -> float:
    """The largest norm that this part of the aggregate of this cut can have, decoded.

    `indexes` by contributor, as far as they are known; `ledger`: before the round.
    """
    weighed = [item for item in weigh(cut, ledger, rules) if item.weight > 0]
    known = all(item.contribution.key in indexes for item in weighed)
    rows: list[Sequence[Entry]] = []
    for item in weighed:
        header = item.contribution
        whole = [Entry(bytes(32), header.norm2)]
        rows.append([indexes[header.key].entries[chunk] for chunk in part.chunks] if known else whole)
    caps = Caps(
        [source_of(item, (), row) for item, row in zip(weighed, rows, strict=True)], rules.robustness.norm_cap
    )
    capped2 = [
        [cap**2 * row[offset].norm2 for cap, row in zip(caps.at(offset), rows, strict=True)]
        for offset in range(len(rows[0]) if rows else 0)
    ]
    if not rules.robustness.arms_at:
        whole2 = [fsum(column) for column in zip(*capped2, strict=True)]
        limit2 = _bound(whole2, weighed, rules.robustness)
    else:
        limit2 = fsum(
            _armed(_bound(norms2, weighed, rules.robustness), column, weighed, rules.robustness, known)
            for norms2, column in zip(capped2, zip(*rows, strict=True), strict=True)
        )
    fine = ledger.aggregate_codec.partition(":")[0] in NEARLY_LOSSLESS
    return (FINE_SLACK if fine else SLACK) * sqrt(limit2) + TINY


def _armed(
    robust2: float, entries: Sequence[Entry], weighed: Sequence[Weighed], robustness: Robustness, known: bool
) -> float:
    """Of the squared norm of a chunk that is the plain mean or the robust rule's, whose is at most `robust2`;
    or where only whole contributions are known, of all chunks of a part."""
    robust = sqrt(robust2)
    mean = fsum(item.weight * sqrt(entry.norm2) for item, entry in zip(weighed, entries, strict=True))
    single2 = [entry.norm2 / item.allowance**2 for item, entry in zip(weighed, entries, strict=True)]
    median2 = median_low(single2) if known else fsum(single2) / (len(single2) // 2 + 1)
    near = robust + robustness.arms_at * (sqrt(median2) + robust)
    either = max(robust, mean) if known else hypot(robust, mean)
    return min(either, near) ** 2


def _bound(norms2: Sequence[float], weighed: Sequence[Weighed], robustness: Robustness) -> float:
    """Of the aggregate's squared norm, by those of the contributions after all caps."""
    largest = max(norms2, default=0.0)
    if robustness.rule not in COORDINATEWISE:
        centered = robustness.rule == "centered_clip" and robustness.clip_center == "coordinate_median"
        return fsum(norms2) if centered else largest
    single = [norm2 / item.allowance**2 for norm2, item in zip(norms2, weighed, strict=True)]
    total = fsum(single) if robustness.before == "none" else len(single) * max(single, default=0.0)
    late = fsum(item.weight * (item.allowance - 1.0) for item in weighed)
    return total / (_trimmed(len(single), robustness) + 1) * (1.0 + late) ** 2


def _trimmed(num: int, robustness: Robustness) -> int:
    """Values that are left out on each side, at least."""
    if robustness.rule != "trimmed_mean" or robustness.before != "none" or not num:
        return 0
    return min(int(robustness.hostile_share * num), (num - 1) // 2)


def is_louder(aggregate_P: torch.Tensor, part: Part, rules: Rules, limit: float) -> bool:
    """Whether a part of the aggregate is larger than that, or no number."""
    end = min(rules.numel, (part.first_chunk + part.num_chunks) * rules.chunk_size)
    piece = aggregate_P[part.first_chunk * rules.chunk_size : end]
    norm = float(torch.linalg.vector_norm(piece, dtype=torch.float64))
    return not norm <= limit
