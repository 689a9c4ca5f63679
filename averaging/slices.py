"""Slices of contributions that a reducer holds; they outlive attempts, so a retry sends what is missing."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.contribution import Index
from talkoot.averaging.messages import Held


@dataclass(slots=True)
class Slice:
    """One contribution's chunks, verified, as far as they came."""

    contribution: Contribution
    index: Index | None = None
    chunks: dict[int, bytes | memoryview] = field(default_factory=dict)


class Slices:
    """What one reducer holds in one round. Never more than one part of each contribution of a roster."""

    def __init__(self) -> None:
        self._slices: dict[bytes, Slice] = {}

    def enter(self, contributions: Iterable[Contribution], chunks: range) -> dict[bytes, Slice]:
        """Keep what a new roster needs, forget the rest; the slices by contributor."""
        kept = {}
        for contribution in contributions:
            before = self._slices.get(contribution.key)
            piece = Slice(contribution)
            if before is not None and before.contribution == contribution:
                piece.index = before.index
                piece.chunks = {chunk: data for chunk, data in before.chunks.items() if chunk in chunks}
            kept[contribution.key] = piece
        self._slices = kept
        return kept

    def whole(self) -> dict[bytes, Slice]:
        """By contributor, what came with its index: for who audits our part."""
        return {key: piece for key, piece in self._slices.items() if piece.index is not None}

    def indexes(self, contributions: Iterable[Contribution]) -> dict[bytes, Index]:
        """Indexes of these contributions by contributor, as far as they came."""
        found = {}
        for contribution in contributions:
            piece = self._slices.get(contribution.key)
            if piece is not None and piece.index is not None and piece.contribution == contribution:
                found[contribution.key] = piece.index
        return found

    def held(self, own: bytes) -> tuple[Held, ...]:
        """For a join: the longest run of chunks that we hold of each contribution but our own."""
        runs = []
        for key in sorted(self._slices.keys() - {own}):
            first, count = _longest_run(sorted(self._slices[key].chunks))
            if count:
                runs.append(Held(key, first, count))
        return tuple(runs)


def _longest_run(numbers: list[int]) -> tuple[int, int]:
    """First number and length of the longest run of consecutive numbers."""
    best, start = (0, 0), 0
    for at, number in enumerate(numbers):
        if at and number != numbers[at - 1] + 1:
            start = at
        if at - start + 1 > best[1]:
            best = (numbers[start], at - start + 1)
    return best
