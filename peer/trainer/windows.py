"""Which windows of the data a peer draws: a deterministic sequence for (swarm, peer, round), resumable.

Window i of a sequence is a pure function of the seed and i (SplitMix64, Steele et al. 2014), so that the
position is one integer and nothing needs to be replayed.
"""

from typing import Any

import numpy as np
from blake3 import blake3

Windows = np.ndarray[Any, np.dtype[np.int64]]
"""(number of windows, sequence length + 1) token ids: inputs and, shifted by one, targets."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def sequence_seed(swarm_id: bytes, peer: bytes, round_: int) -> int:
    """64 bits for one peer in one round."""
    body = swarm_id + peer + round_.to_bytes(8, "big")
    digest = blake3(body, derive_key_context="talkoot 2026 window sequence").digest()
    return int.from_bytes(digest[:8], "big")


def draws(seed: int, position: int, count: int, bound: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Draws `position` to `position + count` of a sequence, each in [0, bound)."""
    index = np.arange(position + 1, position + count + 1, dtype=np.uint64)
    state = np.uint64(seed) + index * _GOLDEN  # arrays wrap around silently, which is meant
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return (state % np.uint64(bound)).astype(np.int64)


def even_starts(length: int, window: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Starts of at most `count` windows spread evenly over `length` tokens, not overlapping."""
    count = min(count, length // window)
    if count <= 0:
        return np.zeros(0, dtype=np.int64)
    gaps = (length - window) / max(1, count - 1)
    return (np.arange(count) * gaps).astype(np.int64)


def gather(tokens: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], window: int) -> Windows:
    """Windows of `window` tokens from each start, as int64."""
    if not len(starts):
        return np.zeros((0, window), dtype=np.int64)
    out = np.empty((len(starts), window), dtype=np.int64)
    for row, start in zip(out, starts, strict=True):
        row[:] = tokens[start : start + window]
    return out
