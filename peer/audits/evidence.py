"""What the last rounds were aggregated from, kept so that others can check our part: bounded, in memory.

The newest round always stays, since whoever reduced it is asked for it; the one before as long as both are
within `KEEP_BYTES`. These are references to bytes that the round had in memory anyway.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from talkoot.averaging.contribution import Chunks, Index, LocalContribution
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.slices import Slice

KEEP_BYTES = 512 << 20
"""What an older round may add up to, together with the newest."""

KEEP_ROUNDS = 2
"""Rounds that are kept at most."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Chunks of one contribution: those of our part, or all of our own."""

    index: Index
    chunks: Mapping[int, Bytes] | Chunks
    numbers: range
    """Which there are; of a slice perhaps not all."""

    def chunk(self, number: int) -> Bytes | None:
        """One encoded chunk."""
        if isinstance(self.chunks, Chunks):
            return self.chunks[number] if number in self.numbers else None
        return self.chunks.get(number)

    @property
    def num_bytes(self) -> int:
        """Of its chunks; our own is kept by others, too."""
        return 0 if isinstance(self.chunks, Chunks) else sum(map(len, self.chunks.values()))


class Evidence:
    """By the outer state before the round, and by contributor."""

    def __init__(self) -> None:
        self._rounds: dict[bytes, dict[bytes, Kept]] = {}

    def keep(self, prior: bytes, slices: Mapping[bytes, Slice], own: LocalContribution | None) -> None:
        """A round is over of which we reduced a part, or to which we contributed, or both."""
        kept = {
            key: Kept(piece.index, piece.chunks, range(0))
            for key, piece in slices.items()
            if piece.index is not None and piece.chunks
        }
        if own is not None:
            kept[own.header.key] = Kept(own.index, own.chunks, range(len(own.index.entries)))
        self._rounds.pop(prior, None)
        self._rounds[prior] = kept
        while len(self._rounds) > 1 and (len(self._rounds) > KEEP_ROUNDS or self.num_bytes > KEEP_BYTES):
            del self._rounds[next(iter(self._rounds))]

    def find(self, prior: bytes, contributor: bytes) -> Kept | None:
        """What we hold of a contribution."""
        return self._rounds.get(prior, {}).get(contributor)

    @property
    def num_bytes(self) -> int:
        """Bytes of all slices."""
        return sum(kept.num_bytes for held in self._rounds.values() for kept in held.values())
