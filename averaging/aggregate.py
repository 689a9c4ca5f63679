"""Robust aggregation rules: `(updates_NP, weights_N) -> aggregate_P` in consensus arithmetic.

Peers are combined in the given order, one operation a kernel, so every machine gets the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median_low

import torch

from talkoot.averaging.contribution import Entry
from talkoot.averaging.digest import content_hash
from talkoot.averaging.parts import Part
from talkoot.averaging.rules import Rules
from talkoot.compression.arithmetic import sum_squares
from talkoot.compression.codec import Codec, CodecError


def mean(updates_NP: Sequence[torch.Tensor], weights_N: Sequence[float]) -> torch.Tensor:
    """Weighted sum of the updates; with weights that sum to 1, their mean. Breakdown point 0.

    Each update is multiplied by its weight and added in the given order, in float32.
    """
    aggregate_P = torch.zeros_like(updates_NP[0])
    scratch = torch.empty_like(aggregate_P)
    for update_P, weight in zip(updates_NP, weights_N, strict=True):
        torch.mul(update_P, weight, out=scratch)
        torch.add(aggregate_P, scratch, out=aggregate_P)
    return aggregate_P


def norm_capped_mean(updates_NP: Sequence[torch.Tensor], weights_N: Sequence[float]) -> torch.Tensor:
    """Mean after scaling every update down to at most the median norm (lower median).

    A liar moves the result by no more than a typical honest peer; breakdown point of the cap 1/2.
    """
    norms_N = [sqrt(sum_squares(update_P)) for update_P in updates_NP]
    cap = median_low(norms_N)
    capped_N = [
        weight if norm <= cap else weight * (cap / norm)
        for weight, norm in zip(weights_N, norms_N, strict=True)
    ]
    return mean(updates_NP, capped_N)


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
