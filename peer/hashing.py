"""Hashing the outer state on several threads: BLAKE3 lets go of the interpreter's lock while it works."""

import os
from concurrent.futures import ThreadPoolExecutor

import torch

from talkoot.averaging.digest import CHUNK_BYTES, StateTree, content_hash, leaves, tensor_bytes

MAX_THREADS = 4
"""More would take cores from the trainer that the memory could not feed anyway."""

PIECE_BYTES = 8 * CHUNK_BYTES
"""What one thread hashes at a time: a multiple of a chunk."""


def hash_leaves(data: memoryview, *, threads: int = 0) -> tuple[bytes, ...]:
    """Leaf hashes of a vector given as bytes. `threads` 0: as many as are of use here."""
    if len(data) <= PIECE_BYTES:
        return tuple(leaves(data))
    pieces = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]
    with ThreadPoolExecutor(threads or _threads()) as pool:
        return tuple(leaf for piece in pool.map(leaves, pieces) for leaf in piece)


def hash_state(theta: torch.Tensor, momentum: torch.Tensor, ledger: bytes, *, threads: int = 0) -> StateTree:
    """As `averaging.digest.state_tree`, on several threads."""
    return StateTree(
        theta=hash_leaves(tensor_bytes(theta), threads=threads),
        momentum=hash_leaves(tensor_bytes(momentum), threads=threads),
        ledger=content_hash(ledger),
    )


def _threads() -> int:
    return min(MAX_THREADS, os.cpu_count() or 1)
