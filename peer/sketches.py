"""What a node remembers of the last rounds' contributions: a few thousand values of each, at secret places.

Enough to see that a contribution was there before (`talkoot.averaging.staleness`), however it is mixed of
earlier ones. Nobody else knows the places. A restart forgets them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from blake3 import blake3

from talkoot.averaging.staleness import highest_scores, new_shares

PLACES = 2048
"""Values that are kept of a chunk."""

MAX_REMEMBERED = 256
"""Contributions and aggregates that are remembered at most: 8 MiB at four chunks."""

MAX_ROUNDS = 3
"""Rounds that are remembered. What is older helps nobody who sends it; and the more there is to compare with,
the more of an honest contribution it explains."""

ROOM = 4
"""Values that are compared for each contribution remembered, at least: fewer would explain anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sketch:
    """Of one round: for each chunk a row of values for each contribution that is here, and last one of the
    aggregate of the round before, zeros where that is not known."""

    rows: Sequence[int]
    """Numbers of the contributions in the cut."""
    chunks: Mapping[int, torch.Tensor]

    def at(self, chunks: Sequence[int]) -> torch.Tensor:
        """The rows over all of these chunks."""
        return torch.cat([self.chunks[number] for number in chunks], dim=1)


class Sketches:
    """Of the last rounds."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._past: list[Sketch] = []
        """Newest first."""

    def places(self, chunk: int, length: int) -> torch.Tensor:
        """Which of `length` values of a chunk are kept; the same in each round."""
        if length <= PLACES:
            return torch.arange(length)
        seed = blake3(self._secret + chunk.to_bytes(4, "little"), derive_key_context="talkoot 2026 sketch")
        drawn = torch.Generator().manual_seed(int.from_bytes(seed.digest()[:7], "little"))
        return torch.randint(length, (PLACES,), generator=drawn)

    def compare(self, now: Sketch, counting: Sequence[bool]) -> dict[int, int]:
        """The best verdict for each contribution that is here, by number; `counting` are all those of the
        cut that weigh. Nothing where too little of the last rounds is remembered. Computes for long."""
        for chunks in self._common(now):
            past = [sketch.at(chunks) for sketch in self._past if set(chunks) <= sketch.chunks.keys()]
            rows = now.at(chunks)
            before = torch.cat([rows[-1:], *past])
            before = before[before.isfinite().all(dim=1)]
            before = before[before.any(dim=1)][: rows.shape[1] // ROOM]
            if len(past) and len(before):
                shares = new_shares(rows[:-1], before)
                scores = highest_scores(shares, [counting[number] for number in now.rows])
                return dict(zip(now.rows, scores, strict=True))
        return {}

    def _common(self, now: Sketch) -> list[list[int]]:
        """The chunks of the newest round that has any in common with this one."""
        shared = [sorted(now.chunks.keys() & sketch.chunks.keys()) for sketch in self._past]
        return [chunks for chunks in shared if chunks][:1]

    def remember(self, now: Sketch) -> None:
        """For the next rounds."""
        kept, room = [], MAX_REMEMBERED
        for sketch in (now, *self._past):
            room -= len(sketch.rows) + 1
            if room >= 0:
                kept.append(sketch)
        self._past = kept[:MAX_ROUNDS]
