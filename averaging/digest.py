"""The digest of the outer state: a BLAKE3 hash tree over chunks of 1 MiB.

A leaf is the hash of one chunk; an inner node is the hash of up to `FANOUT` children. The tree lets a
peer fetch, verify and repair single chunks against a digest that a certificate signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from blake3 import blake3

CHUNK_BYTES = 1 << 20
"""Bytes of the state under one leaf."""

FANOUT = 64
"""Children of an inner node."""

HASH_BYTES = 32

_LEAF = "talkoot 2026 state leaf"
_NODE = "talkoot 2026 state node"
_STATE = "talkoot 2026 outer state"
_CONTENT = "talkoot 2026 content"


def content_hash(data: bytes | memoryview) -> bytes:
    """Hash that names a piece of content: an encoded chunk, a message, a ledger."""
    return blake3(data, derive_key_context=_CONTENT).digest()


def leaf(chunk: bytes | memoryview) -> bytes:
    """Hash of one chunk of state, at most `CHUNK_BYTES` long."""
    return blake3(chunk, derive_key_context=_LEAF).digest()


def tensor_bytes(vector: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    array: Any = vector.numpy()  # the stubs do not know that an array is a buffer
    return memoryview(array).cast("B")


def leaves(data: bytes | memoryview) -> list[bytes]:
    """Leaf hashes of a vector given as bytes; an empty vector has none."""
    view = memoryview(data)
    return [leaf(view[start : start + CHUNK_BYTES]) for start in range(0, len(view), CHUNK_BYTES)]


def root(hashes: Sequence[bytes]) -> bytes:
    """Root over leaf hashes. The number of leaves is part of it, so no tree is a prefix of another."""
    level = list(hashes)
    while len(level) > 1:
        level = [_node(level[start : start + FANOUT]) for start in range(0, len(level), FANOUT)]
    top = level[0] if level else b""
    return blake3(len(hashes).to_bytes(8, "little") + top, derive_key_context=_NODE).digest()


def _node(children: Sequence[bytes]) -> bytes:
    return blake3(b"".join(children), derive_key_context=_NODE).digest()


def state_digest(theta: bytes, momentum: bytes, ledger: bytes) -> bytes:
    """The digest of a state, from the roots over its vectors' leaves and its ledger's content hash."""
    return blake3(theta + momentum + ledger, derive_key_context=_STATE).digest()


@dataclass(frozen=True, kw_only=True, slots=True)
class StateTree:
    """Everything that the digest of one outer state is made of."""

    theta: tuple[bytes, ...]
    """Leaf hashes of the parameters (flat fp32, little-endian)."""
    momentum: tuple[bytes, ...]
    """Leaf hashes of the outer momentum."""
    ledger: bytes
    """Content hash of the encoded ledger."""

    @property
    def digest(self) -> bytes:
        """The 32 bytes that name this state."""
        return state_digest(root(self.theta), root(self.momentum), self.ledger)


def state_tree(theta: torch.Tensor, momentum: torch.Tensor, ledger: bytes) -> StateTree:
    """Hash a whole outer state: `theta` and `momentum` flat fp32 on the CPU, `ledger` encoded."""
    return StateTree(
        theta=tuple(leaves(tensor_bytes(theta))),
        momentum=tuple(leaves(tensor_bytes(momentum))),
        ledger=content_hash(ledger),
    )
