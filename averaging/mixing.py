"""Pre-aggregators: updates are averaged among few before a rule sees them, so that honest ones are closer.

Each is a matrix: row k has the shares of the N updates in the k-th mixed one.
"""

from collections.abc import Sequence
from math import fsum

import torch
from blake3 import blake3

from talkoot.averaging.gram import Matrix, gram_of, pair_distance
from talkoot.averaging.group import Group, Updates, Weights, combine_, group_of

_DOMAIN = "talkoot 2026 buckets"


def nearest_neighbor_mixing(
    updates_NP: Updates, weights_N: Weights, *, num_byzantine: int
) -> tuple[list[torch.Tensor], list[float]]:
    """Each update becomes the weighted mean of the N - num_byzantine ones nearest to it, itself among them
    (Allouah et al. 2023, "Fixing by mixing", algorithm 2). Returns mixed updates and their weights, for a
    rule of the caller's choice; only of those that weigh.

    Breakdown point that of the rule, at best num_byzantine < N / 2: honest updates come closer by a factor of
    about num_byzantine / N, however unlike they were. Equal distances: the update that comes first.

    Raises ValueError unless 0 <= num_byzantine < N / 2, for what is no group (`group_of`), and for values
    that are not finite. Makes no sense of sparse updates: zeros are nearest to all of them.
    """
    group = group_of(updates_NP, weights_N)
    if group.rows and not 0 <= 2 * num_byzantine < len(group.rows):
        raise ValueError(f"num_byzantine must be below half of {len(group.rows)}, not {num_byzantine}")
    if not group.rows:
        return [group.zeros], [0.0]
    mixes = neighbour_mixes(gram_of(group), group.weights, num_byzantine)
    return _mixed(group, mixes), group.weights


def bucketing(
    updates_NP: Updates, weights_N: Weights, *, size: int = 2, seed: bytes = b""
) -> tuple[list[torch.Tensor], list[float]]:
    """The updates are put into buckets of `size` in the order of `bucket_order`, the last one may be smaller;
    each bucket becomes its weighted mean, with the sum of its weights (Karimireddy et al. 2022, "Byzantine-
    robust learning on heterogeneous datasets via bucketing", algorithm 1). Only of those that weigh.

    `seed` is something public that nobody could choose, such as the digest of the state before the round.
    Breakdown point that of the rule over `size`: one liar spoils a bucket; the variance of honest updates
    falls by `size`. Raises ValueError for a size below 1, for what is no group (`group_of`), and for values
    that are not finite.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    group = group_of(updates_NP, weights_N)
    if not group.rows:
        return [group.zeros], [0.0]
    mixes, weights = bucket_mixes(group.weights, size, seed)
    mixed = _mixed(group, mixes)
    for row in mixed:
        if not bool(torch.isfinite(row).all()):
            raise ValueError("an update is not finite")
    return mixed, weights


def neighbour_mixes(gram: Matrix, weights_N: Sequence[float], num_byzantine: int) -> Matrix:
    """The matrix of nearest-neighbour mixing, given the products of the updates."""
    num, mixes = len(gram), []
    for i in range(num):
        order = sorted(range(num), key=lambda j: (j != i, pair_distance(gram, i, j), j))
        mixes.append(_shares(weights_N, order[: num - num_byzantine]))
    return mixes


def bucket_mixes(weights_N: Sequence[float], size: int, seed: bytes) -> tuple[Matrix, list[float]]:
    """The matrix of bucketing, and the weights of the buckets."""
    order = bucket_order(len(weights_N), seed)
    buckets = [order[start : start + size] for start in range(0, len(order), size)]
    mixes = [_shares(weights_N, bucket) for bucket in buckets]
    return mixes, [fsum(weights_N[i] for i in bucket) for bucket in buckets]


def bucket_order(num: int, seed: bytes) -> list[int]:
    """A permutation that everybody draws alike: numbers by their hash with the seed."""
    keyed = blake3(seed, derive_key_context=_DOMAIN).digest()
    return sorted(range(num), key=lambda i: (blake3(i.to_bytes(4, "little"), key=keyed).digest(), i))


def _shares(weights_N: Sequence[float], chosen: Sequence[int]) -> list[float]:
    """Shares in the weighted mean of some."""
    total = fsum(weights_N[i] for i in chosen)
    shares = [0.0] * len(weights_N)
    for i in chosen:
        shares[i] = weights_N[i] / total
    return shares


def _mixed(group: Group, mixes: Matrix) -> list[torch.Tensor]:
    return [combine_(group.zeros, mix, group.rows) for mix in mixes]
