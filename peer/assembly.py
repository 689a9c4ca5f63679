"""An outer state that is put together, chunk by chunk, in a staged generation.

Every chunk is compared with the hash tree of a certified digest and looked through for numbers that are none
before it is written, wherever it comes from: another peer, an earlier try that was cut off, or the state
that this peer holds already. What fits is not fetched again.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from talkoot.averaging.digest import CHUNK_BYTES, StateTree, leaf, tensor_bytes
from talkoot.peer.generation import Generation
from talkoot.peer.hashing import hash_state
from talkoot.peer.transfer import Vector


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """One chunk of one vector."""

    vector: Vector
    index: int


class WrongChunk(Exception):  # noqa: N818 - reads well where it is caught
    """Bytes that do not have their hash."""


class NotFinite(Exception):  # noqa: N818 - reads well where it is caught
    """The certified state holds a number that is none: no source is to blame, and nobody can use it."""


class Assembly:
    """One state in the making. `take` and `find` block, on the disk and in hashing: call them in threads."""

    def __init__(self, staged: Generation, tree: StateTree) -> None:
        """`tree` is verified; `staged` is nobody else's until this is complete or given up."""
        self.staged = staged
        self.tree = tree
        self._leaves = {"theta": tree.theta, "momentum": tree.momentum}
        self._targets = {"theta": tensor_bytes(staged.theta), "momentum": tensor_bytes(staged.momentum)}
        self.missing: set[Piece] = set(self.pieces())

    def pieces(self) -> Iterator[Piece]:
        """All of them, in order."""
        vectors: tuple[Vector, ...] = ("theta", "momentum")
        for vector in vectors:
            for index in range(len(self._leaves[vector])):
                yield Piece(vector, index)

    def size(self, piece: Piece) -> int:
        """Bytes of a chunk."""
        return len(self._place(piece))

    @property
    def total_bytes(self) -> int:
        """Of both vectors."""
        return sum(len(target) for target in self._targets.values())

    @property
    def missing_bytes(self) -> int:
        """Of chunks that are not in place yet."""
        return sum(self.size(piece) for piece in self.missing)

    def _place(self, piece: Piece) -> memoryview:
        start = piece.index * CHUNK_BYTES
        return self._targets[piece.vector][start : start + CHUNK_BYTES]

    def take(self, piece: Piece, data: bytes | memoryview) -> None:
        """Write a chunk into its place. Raises WrongChunk, NotFinite; then nothing is written."""
        place = self._place(piece)
        if len(data) != len(place) or leaf(data) != self._leaves[piece.vector][piece.index]:
            raise WrongChunk(f"chunk {piece.index} of {piece.vector}")
        _require_finite(data, piece)
        if not _same_memory(place, data):
            np.copyto(np.frombuffer(place, np.uint8), np.frombuffer(data, np.uint8))  # others run meanwhile
        self.missing.discard(piece)

    def find(self, generation: Generation, known: StateTree | None = None) -> None:
        """Take what a generation, perhaps the staged one, holds already. Raises NotFinite.

        `known` are its leaf hashes where they are known: only what they promise is looked at.
        """
        if known is None:
            known = hash_state(generation.theta, generation.momentum, b"")
        sources = {"theta": tensor_bytes(generation.theta), "momentum": tensor_bytes(generation.momentum)}
        there = {"theta": known.theta, "momentum": known.momentum}
        for piece in sorted(self.missing):
            if there[piece.vector][piece.index] == self._leaves[piece.vector][piece.index]:
                start = piece.index * CHUNK_BYTES
                with suppress(WrongChunk):  # it has changed since it was hashed
                    self.take(piece, sources[piece.vector][start : start + CHUNK_BYTES])


def _require_finite(data: bytes | memoryview, piece: Piece) -> None:
    if not np.isfinite(np.frombuffer(data, np.float32)).all():
        raise NotFinite(f"chunk {piece.index} of {piece.vector} holds a number that is none")


def _same_memory(one: memoryview, other: bytes | memoryview) -> bool:
    return np.shares_memory(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
