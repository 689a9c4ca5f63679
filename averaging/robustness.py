"""How a swarm's rounds aggregate: section [robustness] of the manifest, and part of the rules of a round."""

from dataclasses import dataclass
from typing import Literal

Rule = Literal["mean", "coordinate_median", "trimmed_mean", "geometric_median", "krum", "centered_clip"]
NormCap = Literal["none", "whole", "part", "chunk"]
Before = Literal["none", "nearest_neighbors", "buckets"]
ClipCenter = Literal["zero", "coordinate_median"]

COORDINATEWISE = ("coordinate_median", "trimmed_mean")
"""Rules that look at each coordinate by itself, and whose result is no weighted sum of the contributions."""

MAX_HOSTILE_SHARE = 0.49
MAX_BUCKET = 64
MAX_CLIP_ITERATIONS = 64
MAX_CLIP_RADIUS = 1000.0
MAX_ARMS_AT = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Robustness:
    """Section [robustness]: how contributions become one aggregate, some of which may lie."""

    rule: Rule = "mean"
    """`mean`: their weighted mean. `coordinate_median`, `trimmed_mean`: in each coordinate the weighted
    median, or the mean without the `hostile_share` largest and smallest. `geometric_median`: the point with
    the least sum of distances to all. `krum`: the mean of those that have the closest neighbours, without
    `hostile_share` of them. `centered_clip`: everybody pulls the result by at most a bounded distance. All
    but `mean` need dense contributions. Each part of the vector is aggregated by itself."""
    norm_cap: NormCap = "whole"
    """Contributions are scaled down to the median norm before that. `whole`: by the norm of all of it. `part`
    and `chunk`: then also each part (dense exchange only), or each chunk of 2**18 parameters, to the median
    for it, so that nobody hides a poisoned piece under a normal norm. `none`: for peers that trust each
    other."""
    before: Before = "none"
    """`nearest_neighbors`: each contribution is replaced by the mean of all but `hostile_share` of them,
    those nearest to it. `buckets`: contributions are averaged in random buckets of `bucket_size`. Both bring
    honest contributions on different data together before `rule` compares them."""
    hostile_share: float = 0.25
    """Part of the peers of a round that may lie, rounded down, for `trimmed_mean`, `krum` and
    `nearest_neighbors`."""
    bucket_size: int = 2
    """Contributions in a bucket; as many times more peers are spoiled by a liar."""
    clip_center: ClipCenter = "zero"
    """Where `centered_clip` begins: at zero, or at the coordinate-wise median."""
    clip_iterations: int = 3
    """Iterations of `centered_clip`. They cost nothing: distances follow from inner products."""
    clip_radius: float = 1.0
    """How far a contribution may pull in `centered_clip`, in median distances to the centre."""
    arms_at: float = 0.0
    """Where above 0, all this counts only where it matters: a chunk of 2**18 parameters is the plain weighted
    mean, without caps, unless that is farther from what the rule comes to than so many median distances of
    the contributions. What liars move by less than that passes. Dense contributions only."""

    def __post_init__(self) -> None:
        _require(0 <= self.hostile_share <= MAX_HOSTILE_SHARE, "hostile_share", f"0 to {MAX_HOSTILE_SHARE}")
        _require(1 <= self.bucket_size <= MAX_BUCKET, "bucket_size", f"1 to {MAX_BUCKET}")
        limit = MAX_CLIP_ITERATIONS
        _require(1 <= self.clip_iterations <= limit, "clip_iterations", f"1 to {limit}")
        limits = f"above 0, at most {MAX_CLIP_RADIUS:g}"
        _require(0 < self.clip_radius <= MAX_CLIP_RADIUS, "clip_radius", limits)
        _require(0 <= self.arms_at <= MAX_ARMS_AT, "arms_at", f"0 to {MAX_ARMS_AT:g}")

    @property
    def plain(self) -> bool:
        """Whether contributions are only scaled and added up, each chunk by itself."""
        return self.rule == "mean" and self.before == "none" and self.arms_at == 0

    @property
    def compares(self) -> bool:
        """Whether a chunk of the aggregate depends on all of the part, as the contributions' distances do."""
        return self.before == "nearest_neighbors" or self.rule not in ("mean", *COORDINATEWISE)


def sparse_problem(robustness: Robustness, *, exchange: Literal["dense", "sparse"], codec: str) -> str | None:
    """Why these rules make no sense of what this exchange or codec carries, as "field must be ...", or None.

    Top-k vectors of honest peers hold mostly different coordinates: "not sent" would vote for 0 in a
    coordinate-wise rule, and to a rule that compares distances a vector of zeros is nearer to everybody than
    honest peers are to each other. In a sparse exchange every peer aggregates, replays included, chunk by
    chunk as the bytes come.
    """
    sparse = "contributions of codec " + codec if codec.partition(":")[0] == "topk" else ""
    sparse = "a sparse exchange" if exchange == "sparse" else sparse
    if not sparse:
        return None
    if robustness.rule != "mean":
        return (
            f'robustness.rule must be "mean" with {sparse}: to other rules a value that was not sent is a '
            "vote for 0; robustness.norm_cap works"
        )
    if robustness.before != "none":
        return f'robustness.before must be "none" with {sparse}: zeros would be nearest to everybody'
    if robustness.arms_at:
        return f"robustness.arms_at must be 0 with {sparse}: their distances say who sent which coordinates"
    if exchange == "sparse" and robustness.norm_cap == "part":
        return 'robustness.norm_cap must not be "part" with a sparse exchange, which has none: try "chunk"'
    return None


def _require(condition: bool, field: str, bound: str) -> None:
    if not condition:
        raise ValueError(f"robustness.{field} must be {bound}")
