"""Aggregation: robust rules `(updates_NP, weights_N) -> aggregate_P`, and a round's parts by the same rules.

The rules stand in files of their own and are imported from here. All of them are consensus arithmetic: peers
are combined in the given order, one operation a kernel, so every machine gets the same bits. The value of a
rule does not depend on the order of the peers, but where it says so of ties; its last bits may.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from talkoot.averaging.centered_clip import centered_clip
from talkoot.averaging.contribution import Entry
from talkoot.averaging.coordinates import coordinate_median, trimmed_mean
from talkoot.averaging.digest import content_hash
from talkoot.averaging.geometric_median import geometric_median
from talkoot.averaging.krum import krum
from talkoot.averaging.means import mean, norm_capped_mean
from talkoot.averaging.mixing import bucketing, nearest_neighbor_mixing
from talkoot.averaging.parts import Part
from talkoot.averaging.rules import Rules
from talkoot.compression.codec import Codec, CodecError

__all__ = [
    "EncodedPart",
    "Source",
    "aggregate_part",
    "bucketing",
    "centered_clip",
    "combine",
    "combine_chunk",
    "coordinate_median",
    "decode_part",
    "geometric_median",
    "krum",
    "mean",
    "nearest_neighbor_mixing",
    "norm_capped_mean",
    "trimmed_mean",
]


@dataclass(frozen=True, slots=True)
class Source:
    """One contribution as a reducer of one part holds it."""

    coefficient: float
    """Weight times norm cap; the same for all parts."""
    chunks: Sequence[bytes | memoryview]
    """Encoded chunks of the part, in order."""
    entries: Sequence[Entry]
    """Their index entries."""
    codec: Codec
    """Which they are in."""


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """A part's aggregate as it travels: every peer, the reducer too, decodes these bytes."""

    chunks: tuple[bytes, ...]
    hashes: tuple[bytes, ...]
    """Content hash of each chunk."""


def aggregate_part(part: Part, sources: Sequence[Source], *, codec: Codec, rules: Rules) -> EncodedPart:
    """Aggregate one part of a cut and encode the result in `codec`, chunk by chunk.

    A chunk that does not decode, or whose squared norm is not the one that its contributor signed, counts
    as zeros in this part: a rule that anybody who holds the signed bytes can repeat. So does a sum that
    `codec` cannot hold, so that no contributions whatever keep a round from ending.
    """
    total, scratch = torch.empty(rules.chunk_size), torch.empty(rules.chunk_size)
    chunks = []
    for offset, chunk in enumerate(part.chunks):
        numel = rules.chunk_numel(chunk)
        acc = total[:numel]
        _add_up(sources, offset, acc, scratch[:numel])
        try:
            chunks.append(codec.encode(acc))
        except CodecError:
            chunks.append(codec.encode(acc.zero_()))
    return EncodedPart(tuple(chunks), tuple(content_hash(chunk) for chunk in chunks))


def combine(sources: Sequence[Source], *, rules: Rules, out_P: torch.Tensor) -> None:
    """Aggregate whole contributions into `out_P`, by the same rule as `aggregate_part` but unquantised."""
    scratch = torch.empty(rules.chunk_size)
    for chunk in range(rules.num_chunks):
        start, numel = chunk * rules.chunk_size, rules.chunk_numel(chunk)
        combine_chunk(sources, chunk, out_P[start : start + numel], scratch[:numel])


def combine_chunk(sources: Sequence[Source], offset: int, out: torch.Tensor, scratch: torch.Tensor) -> None:
    """Aggregate chunk number `offset` of the sources into `out`; `scratch` has the same size."""
    _add_up(sources, offset, out, scratch)
    if not bool(torch.isfinite(out).all()):
        out.zero_()


def _add_up(sources: Sequence[Source], offset: int, acc: torch.Tensor, scratch: torch.Tensor) -> None:
    """Sum of one chunk over all sources, in their order, into `acc`."""
    acc.zero_()
    for source in sources:
        if source.coefficient == 0 or not _decode_checked(source, offset, scratch):
            continue
        torch.mul(scratch, source.coefficient, out=scratch)
        torch.add(acc, scratch, out=acc)


def _decode_checked(source: Source, offset: int, out: torch.Tensor) -> bool:
    data = source.chunks[offset]
    try:
        return source.codec.decode_with_norm(data, out) == source.entries[offset].norm2
    except CodecError:
        return False


def decode_part(
    part: Part,
    chunks: Sequence[bytes | memoryview],
    *,
    codec: Codec,
    rules: Rules,
    out_P: torch.Tensor,
) -> None:
    """Decode a part's aggregate into its place in the flat vector. Raises CodecError."""
    for chunk, data in zip(part.chunks, chunks, strict=True):
        start = chunk * rules.chunk_size
        codec.decode_into(data, out_P[start : start + rules.chunk_numel(chunk)])
