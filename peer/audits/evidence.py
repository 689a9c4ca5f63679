"""What the last rounds were aggregated from, kept so that others can check our part: bounded, in memory.

The newest round always stays, since whoever reduced it is asked for it; the one before as long as both are
within `KEEP_BYTES`, and a few more where all are small: small vectors make short rounds, which end faster
than audits of them. These are references to bytes that the round had in memory anyway.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from talkoot.averaging.contribution import Chunks, Index, LocalContribution
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.slices import Slice

KEEP_BYTES = 512 << 20
"""What an older round may add up to, together with the newest."""

KEEP_ROUNDS = 2
"""Rounds that are kept at most, unless they are small."""

SMALL_BYTES = 64 << 20
"""What more rounds than that may add up to, our own contributions counted."""

KEEP_SMALL_ROUNDS = 8
"""Rounds that are kept at most."""


def due_rounds(part_bytes: int) -> int:
    """For how many rounds everybody keeps slices of a part that add up to so much."""
    return KEEP_ROUNDS if KEEP_ROUNDS * part_bytes <= KEEP_BYTES // 2 else 1  # parts and codecs change


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
        """Of its chunks."""
        return self.chunks.nbytes if isinstance(self.chunks, Chunks) else sum(map(len, self.chunks.values()))


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
        while len(self._rounds) > 1 and not self._may_stay():
            del self._rounds[next(iter(self._rounds))]

    def _may_stay(self) -> bool:
        """Whether what is here is no more than may be."""
        small = len(self._rounds) <= KEEP_SMALL_ROUNDS and self._all_bytes <= SMALL_BYTES
        return self.num_bytes <= KEEP_BYTES and (len(self._rounds) <= KEEP_ROUNDS or small)

    def find(self, prior: bytes, contributor: bytes) -> Kept | None:
        """What we hold of a contribution."""
        return self._rounds.get(prior, {}).get(contributor)

    @property
    def num_bytes(self) -> int:
        """Bytes of all slices; our own contribution of the last round or two is kept by others, too."""
        return sum(kept.num_bytes for kept in self._all if not isinstance(kept.chunks, Chunks))

    @property
    def _all_bytes(self) -> int:
        return sum(kept.num_bytes for kept in self._all)

    @property
    def _all(self) -> Iterator[Kept]:
        return (kept for held in self._rounds.values() for kept in held.values())
