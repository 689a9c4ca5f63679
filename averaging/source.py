"""One contribution as whoever aggregates it holds it, with its weight and norm caps."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import median_low

import torch

from talkoot.averaging.contribution import Entry
from talkoot.averaging.robustness import NormCap
from talkoot.averaging.rotation import contribution_codec
from talkoot.averaging.succession import Weighed
from talkoot.compression.codec import Codec, CodecError


@dataclass(frozen=True, slots=True)
class Source:
    """A run of chunks of one contribution: those of a part, or all."""

    weight: float
    """Share of the whole, 0 on probation."""
    chunks: Sequence[bytes | memoryview]
    """Encoded chunks, in order."""
    entries: Sequence[Entry]
    """Their index entries."""
    codec: Codec
    """Which they are in."""
    clip: float = 1.0
    """Cap of the whole contribution's norm; the same for all parts."""
    allowance: float = 1.0
    """How many median norms count at most: more than 1 for one that carries earlier rounds' work."""


def source_of(item: Weighed, chunks: Sequence[bytes | memoryview], entries: Sequence[Entry]) -> Source:
    """A contribution, weighed, with some of its chunks."""
    codec = contribution_codec(item.contribution)
    return Source(item.weight, chunks, entries, codec, item.clip, item.allowance)


def decode_checked(source: Source, offset: int, out: torch.Tensor) -> bool:
    """Decode chunk number `offset`; False if it does not decode or has not the norm that was signed."""
    data = source.chunks[offset]
    try:
        return source.codec.decode_with_norm(data, out) == source.entries[offset].norm2
    except CodecError:
        return False


class Caps:
    """The factors that cap the norms of some sources.

    Made of signed norms: a chunk whose norm is another one counts as zeros anyway.
    """

    def __init__(self, sources: Sequence[Source], norm_cap: NormCap) -> None:
        self._sources = sources
        self._by_chunk = norm_cap == "chunk"
        self._fixed = [source.clip for source in sources]
        if norm_cap == "part":
            self._fixed = _capped(sources, [fsum(e.norm2 for e in source.entries) for source in sources])

    def at(self, offset: int) -> list[float]:
        """For chunk number `offset` of each source."""
        if not self._by_chunk:
            return self._fixed
        return _capped(self._sources, [source.entries[offset].norm2 for source in self._sources])


def _capped(sources: Sequence[Source], norms2: Sequence[float]) -> list[float]:
    """Each source's clip, lowered where its norm times that is above the median of those that weigh."""
    norms = [source.clip * sqrt(norm2) for source, norm2 in zip(sources, norms2, strict=True)]
    counting = [norm for source, norm in zip(sources, norms, strict=True) if source.weight > 0]
    median = median_low(counting) if counting else 0.0
    return [
        source.clip if norm <= (cap := median * source.allowance) else source.clip * (cap / norm)
        for source, norm in zip(sources, norms, strict=True)
    ]
