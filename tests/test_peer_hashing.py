"""Threads hash the same tree as one thread does."""

import pytest
import torch

from talkoot.averaging.digest import CHUNK_BYTES, leaves, state_tree, tensor_bytes
from talkoot.peer.hashing import PIECE_BYTES, hash_leaves, hash_state

CHUNK = CHUNK_BYTES // 4
PIECE = PIECE_BYTES // 4


@pytest.mark.parametrize("numel", [1, CHUNK, CHUNK + 1, PIECE, PIECE + 1, 2 * PIECE + 5 * CHUNK + 7])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_tree_does_not_depend_on_threads(numel: int, threads: int) -> None:
    theta = torch.arange(numel, dtype=torch.float32)
    momentum = theta.flip(0)
    assert hash_leaves(tensor_bytes(theta), threads=threads) == tuple(leaves(tensor_bytes(theta)))
    assert hash_state(theta, momentum, b"l", threads=threads) == state_tree(theta, momentum, b"l")
