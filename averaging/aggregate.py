"""Aggregation: robust rules `(updates_NP, weights_N) -> aggregate_P`, and a round's parts by the same rules.

The rules stand in files of their own and are imported from here. All of them are consensus arithmetic: peers
are combined in the given order, one operation a kernel, so every machine gets the same bits. The value of a
rule does not depend on the order of the peers, but where it says so of ties; its last bits may.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from talkoot.averaging.arming import mean_unless_far
from talkoot.averaging.centered_clip import centered_clip
from talkoot.averaging.coordinates import coordinate_median, trimmed_mean
from talkoot.averaging.digest import content_hash
from talkoot.averaging.geometric_median import geometric_median
from talkoot.averaging.krum import krum
from talkoot.averaging.means import mean, norm_capped_mean
from talkoot.averaging.mixing import bucketing, nearest_neighbor_mixing
from talkoot.averaging.parts import Part
from talkoot.averaging.plain_part import PlainPart
from talkoot.averaging.robust_part import RobustPart
from talkoot.averaging.rules import Rules
from talkoot.averaging.source import Source
from talkoot.compression.codec import Codec, CodecError

__all__ = [
    "EncodedPart",
    "Source",
    "aggregate_part",
    "aggregated_chunks",
    "bucketing",
    "centered_clip",
    "combine",
    "combine_chunk",
    "coordinate_median",
    "decode_part",
    "geometric_median",
    "krum",
    "mean",
    "mean_unless_far",
    "nearest_neighbor_mixing",
    "norm_capped_mean",
    "trimmed_mean",
]


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """A part's aggregate as it travels: every peer, the reducer too, decodes these bytes."""

    chunks: tuple[bytes, ...]
    hashes: tuple[bytes, ...]
    """Content hash of each chunk."""
    armed: int = 0
    """Chunks that counted by a robust rule, not as a sum; known to who aggregated them."""


def aggregate_part(
    part: Part, sources: Sequence[Source], *, codec: Codec, rules: Rules, seed: bytes = b""
) -> EncodedPart:
    """Aggregate one part of a cut by the swarm's rule and encode the result in `codec`, chunk by chunk.

    `seed` is the digest of the state before the round. A chunk that does not decode, or whose squared norm is
    not the one that its contributor signed, counts as zeros in this part: a rule that anybody who holds the
    signed bytes can repeat. So does a sum that `codec` cannot hold, so that no contributions whatever keep a
    round from ending.
    """
    numels = [rules.chunk_numel(chunk) for chunk in part.chunks]
    rule = _rule(sources, numels, rules, seed)
    chunks = tuple(_encoded_chunks(rule, numels, range(part.num_chunks), codec))
    return EncodedPart(chunks, tuple(content_hash(chunk) for chunk in chunks), rule.armed)


def aggregated_chunks(
    part: Part, sources: Sequence[Source], offsets: range, *, codec: Codec, rules: Rules, seed: bytes
) -> Iterator[bytes]:
    """What `aggregate_part` makes of some of the part's chunks, one at a time. Unless the rule compares
    (`Robustness.compares`) it reads no other chunks of the sources."""
    numels = [rules.chunk_numel(chunk) for chunk in part.chunks]
    yield from _encoded_chunks(_rule(sources, numels, rules, seed), numels, offsets, codec)


def _encoded_chunks(
    rule: PlainPart | RobustPart, numels: Sequence[int], offsets: range, codec: Codec
) -> Iterator[bytes]:
    total = torch.empty(max(numels))
    for offset in offsets:
        acc = total[: numels[offset]]
        rule.chunk(offset, acc)
        try:
            yield codec.encode(acc)
        except CodecError:
            yield codec.encode(acc.zero_())


def _rule(
    sources: Sequence[Source], numels: Sequence[int], rules: Rules, seed: bytes
) -> PlainPart | RobustPart:
    if rules.robustness.plain:
        return PlainPart(sources, rules.robustness.norm_cap, max(numels))
    return RobustPart(sources, numels, rules.robustness, seed)


def combine(sources: Sequence[Source], *, rules: Rules, out_P: torch.Tensor) -> None:
    """Add up whole contributions into `out_P`, as `aggregate_part` does, but unquantised."""
    plain = PlainPart(sources, rules.robustness.norm_cap, rules.chunk_size)
    for chunk in range(rules.num_chunks):
        start, numel = chunk * rules.chunk_size, rules.chunk_numel(chunk)
        _combine_chunk(plain, chunk, out_P[start : start + numel])


def combine_chunk(sources: Sequence[Source], rules: Rules, out: torch.Tensor) -> None:
    """Add up sources of a single chunk into `out`: what `combine` does with each."""
    _combine_chunk(PlainPart(sources, rules.robustness.norm_cap, out.numel()), 0, out)


def _combine_chunk(plain: PlainPart, offset: int, out: torch.Tensor) -> None:
    plain.chunk(offset, out)
    if not bool(torch.isfinite(out).all()):
        out.zero_()


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
