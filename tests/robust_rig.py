"""Every robust rule as a function of updates and weights alone, and vectors for them."""

import hashlib
from collections.abc import Callable

import torch

from talkoot.averaging import aggregate
from talkoot.compression import selftest

Vectors = list[torch.Tensor]
Rule = Callable[[Vectors, list[float]], torch.Tensor]


def rules(num: int) -> dict[str, Rule]:
    """All of them, as they are for so many peers."""
    f = max(0, (num - 3) // 2)

    def mixed(updates: Vectors, weights: list[float]) -> torch.Tensor:
        return aggregate.coordinate_median(
            *aggregate.nearest_neighbor_mixing(updates, weights, num_byzantine=f)
        )

    def in_buckets(updates: Vectors, weights: list[float]) -> torch.Tensor:
        return aggregate.geometric_median(*aggregate.bucketing(updates, weights, size=2, seed=b"s"))

    def armed(updates: Vectors, weights: list[float]) -> torch.Tensor:
        median = aggregate.coordinate_median(updates, weights)
        return aggregate.mean_unless_far(updates, weights, median, arms_at=0.5)

    return {
        "mean": aggregate.mean,
        "norm_capped_mean": aggregate.norm_capped_mean,
        "coordinate_median": aggregate.coordinate_median,
        "trimmed_mean": lambda u, w: aggregate.trimmed_mean(u, w, trim=(num - 1) // 2),
        "geometric_median": aggregate.geometric_median,
        "krum": lambda u, w: aggregate.krum(u, w, num_byzantine=f, num_selected=max(1, num - f)),
        "centered_clip": aggregate.centered_clip,
        "centered_clip from median": lambda u, w: aggregate.centered_clip(u, w, center="coordinate_median"),
        "centered_clip with tau": lambda u, w: aggregate.centered_clip(u, w, tau=2.0),
        "nearest_neighbor_mixing": mixed,
        "bucketing": in_buckets,
        "mean_unless_far": armed,
    }


NAMES = tuple(rules(1))


def vectors(num: int, numel: int, seed: int, *, spread: float = 1.0, loud: int = 0) -> Vectors:
    """Alike as pseudo-gradients are: a common direction and noise; `loud` of them are 1000 times as long."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(numel, generator=generator)
    made = [common + spread * torch.randn(numel, generator=generator) for _ in range(num)]
    return [1000 * row for row in made[:loud]] + made[loud:]


def digest() -> str:
    """Of what all rules make of five vectors, with equal and with unequal weights."""
    hashed = hashlib.sha256()
    rows = [selftest.golden_values(34_000, seed=i).mul_(1 + 0.5 * i) for i in range(5)]
    for weights in ([1.0] * 5, [1.0, 0.5, 2.0, 1.5, 0.7]):
        for rule in rules(5).values():
            hashed.update(rule(rows, weights).numpy().tobytes())
    return hashed.hexdigest()[:16]
