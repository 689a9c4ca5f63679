"""Which robust rule a simulated swarm has: with half of the seeds another one than the default."""

from random import Random
from typing import get_args

from talkoot.averaging.robustness import Before, ClipCenter, NormCap, Robustness, Rule, sparse_problem
from talkoot.peer.manifest import Compression, Exchange

OTHERS = 0.5


def robustness_of(seed: int, exchange: Exchange, compression: Compression) -> Robustness:
    """Drawn by the seed, from a generator of its own; only what the manifest accepts."""
    random = Random(f"robustness {seed}")  # noqa: S311 - a simulation is to be repeatable
    if random.random() >= OTHERS:
        return Robustness()
    drawn = Robustness(
        rule=random.choice(get_args(Rule)),
        norm_cap=random.choice(get_args(NormCap)),
        before=random.choice(get_args(Before)),
        hostile_share=random.choice((0.0, 0.25, 0.49)),
        bucket_size=random.choice((1, 2, 3)),
        clip_center=random.choice(get_args(ClipCenter)),
        clip_iterations=random.choice((1, 3)),
        clip_radius=random.choice((0.5, 1.0, 2.0)),
        arms_at=random.choice((0.0, 0.0, 0.5)),
    )
    problem = sparse_problem(drawn, exchange=exchange, codec=compression.codec)
    return Robustness(norm_cap="chunk") if problem else drawn
