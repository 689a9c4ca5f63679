"""The digest binds every byte of the state, its length and its order."""

from collections.abc import Sequence

import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.digest import (
    CHUNK_BYTES,
    FANOUT,
    StateTree,
    content_hash,
    leaf,
    leaves,
    root,
    state_tree,
)


def hashes(count: int) -> list[bytes]:
    return [content_hash(number.to_bytes(4, "little")) for number in range(count)]


COUNTS = st.integers(0, 3 * FANOUT)


@examples(40)
@given(st.sets(COUNTS, min_size=2, max_size=8))
def test_a_root_belongs_to_one_number_of_leaves(counts: set[int]) -> None:
    everything = hashes(3 * FANOUT)
    assert len({root(everything[:count]) for count in counts}) == len(counts)


@examples(40)
@given(st.integers(2, 3 * FANOUT), st.data())
def test_a_root_changes_with_any_leaf_and_with_their_order(count: int, data: st.DataObject) -> None:
    before = hashes(count)
    one = data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(0, count - 1).filter(lambda index: index != one))
    changed, swapped = list(before), list(before)
    changed[one] = bytes(32)
    swapped[one], swapped[other] = swapped[other], swapped[one]
    assert len({root(before), root(changed), root(swapped)}) == 3


@pytest.mark.parametrize("count", [2, FANOUT, FANOUT + 1, FANOUT * FANOUT + 1])
def test_a_level_of_a_tree_is_no_tree_with_the_same_root(count: int) -> None:
    below = hashes(count)
    above = [root(below[start : start + FANOUT]) for start in range(0, count, FANOUT)]
    assert root(below) != root(above)
    assert root([root(below)]) != root(below)
    assert root(below) != content_hash(b"".join(below))


def test_a_leaf_is_neither_content_nor_a_node() -> None:
    data = b"".join(hashes(3))
    assert len({leaf(data), content_hash(data), root([data[:32], data[32:64], data[64:]])}) == 3


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_leaves_are_the_hashes_of_whole_chunks(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    expected: list[bytes] = []
    rest = data
    while rest:
        expected.append(leaf(rest[:CHUNK_BYTES]))
        rest = rest[CHUNK_BYTES:]
    assert leaves(data) == expected


def digest(theta: Sequence[float], momentum: Sequence[float], ledger: bytes) -> bytes:
    return state_tree(torch.tensor(theta), torch.tensor(momentum), ledger).digest


def test_the_digest_binds_both_vectors_and_the_ledger() -> None:
    states = [
        ([1.0, 2.0], [3.0, 4.0], b"l"),
        ([3.0, 4.0], [1.0, 2.0], b"l"),
        ([1.0, 2.0], [3.0, 4.0], b"m"),
        ([1.0, 2.0], [3.0, 4.0], b""),
        ([1.0, 2.0], [-3.0, 4.0], b"l"),
        ([1.0, 2.0, 3.0], [4.0], b"l"),
        ([0.0, 2.0], [3.0, 4.0], b"l"),
        ([-0.0, 2.0], [3.0, 4.0], b"l"),
    ]
    assert len({digest(*state) for state in states}) == len(states)


def test_a_chunk_cannot_move_from_one_vector_to_the_other() -> None:
    a, b, c = hashes(3)
    ledger = content_hash(b"l")
    moved = [
        StateTree(theta=(a, b), momentum=(c,), ledger=ledger),
        StateTree(theta=(a,), momentum=(b, c), ledger=ledger),
        StateTree(theta=(a, b, c), momentum=(), ledger=ledger),
    ]
    assert len({tree.digest for tree in moved}) == 3


def test_the_digest_of_a_known_state() -> None:
    theta = torch.arange(300_000, dtype=torch.float32)
    tree = state_tree(theta, theta.flip(0).contiguous(), b"ledger")
    assert (len(tree.theta), len(tree.momentum)) == (2, 2)
    assert tree.digest.hex() == "2a82f7b3ba5217185e81d515751108e5a3afe7e094c5b0732dffd7bbcaee7d24"
