"""Sharing the vector out among reducers: whole chunks, in proportion to what each link can carry.

In a butterfly all-reduce of n peers, a peer that reduces the share w of the vector sends and receives
1 + (n - 2) w of its size. Minimising the slowest peer's time gives shares by water-filling:
w_i = max(0, (xi * b_i - 1) / (n - 2)) with xi chosen so that they sum to 1.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from statistics import median_low

import msgspec

MAX_CLAIM = 4.0
"""A claimed bandwidth counts for at most so many times the (lower) median."""

UNMEASURED = 1.25e6
"""Bytes/s that a peer is taken for at least where most were not measured: what they sent was gone too soon to
be timed, and few uplinks are slower."""

BANDWIDTHS = (1.0, 1e15)
"""Bytes/s. A claim below counts as none, one above as the limit: what is left cannot overflow."""


class Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A contiguous run of chunks and the peer that aggregates it."""

    reducer: bytes
    first_chunk: int
    num_chunks: int

    @property
    def chunks(self) -> range:
        """Numbers of its chunks."""
        return range(self.first_chunk, self.first_chunk + self.num_chunks)


def water_fill(bandwidths_N: Sequence[float], num_peers: int) -> list[float]:
    """Shares of reducers with the given bandwidths (any unit, > 0) in a group of `num_peers`."""
    count = len(bandwidths_N)
    if num_peers <= 2 or count == 1:
        return [1.0 / count] * count
    order = sorted(range(count), key=lambda i: (-bandwidths_N[i], i))
    shares = [0.0] * count
    for active in range(count, 0, -1):
        chosen = order[:active]
        xi = (num_peers - 2 + active) / sum(bandwidths_N[i] for i in chosen)
        filled = {i: (xi * bandwidths_N[i] - 1) / (num_peers - 2) for i in chosen}
        if min(filled.values()) >= 0:
            for i, share in filled.items():
                shares[i] = share
            break
    return shares


def assign_parts(
    reducers: Sequence[tuple[bytes, float]], num_chunks: int, num_peers: int
) -> tuple[Part, ...]:
    """Parts for reducers given as (key, bandwidth in bytes/s; 0 when not measured: that of most).

    Whole chunks by largest remainder, ties to the earlier reducer; reducers without a chunk get no part.
    """
    if not reducers:
        return ()
    low, high = BANDWIDTHS
    claims = [min(high, bandwidth) if bandwidth >= low else None for _, bandwidth in reducers]
    known = [claim for claim in claims if claim is not None]
    guessed = [UNMEASURED if claim is None else claim for claim in claims]
    typical = max(median_low(known or guessed), median_low(guessed))
    credible = [typical if claim is None else min(MAX_CLAIM * typical, claim) for claim in claims]
    shares = water_fill(credible, num_peers)
    exact = [share * num_chunks for share in shares]
    counts = [int(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: num_chunks - sum(counts)]:
        counts[i] += 1
    parts, first = [], 0
    for (reducer, _), count in zip(reducers, counts, strict=True):
        if count:
            parts.append(Part(reducer, first, count))
            first += count
    return tuple(parts)


def reassign(parts: Sequence[Part], able: Collection[bytes]) -> tuple[Part, ...] | None:
    """The same parts for reducers that are still able, so that they need only what they do not hold.

    The chunks of one that is not go to its neighbours, half to each. None when fewer than half are able:
    then new parts are better.
    """
    kept = [part for part in parts if part.reducer in able]
    if not kept or 2 * len(kept) < len(parts):
        return None
    ends = [(last.first_chunk + last.num_chunks + part.first_chunk + 1) // 2 for last, part in pairwise(kept)]
    starts = [0, *ends]
    ends.append(parts[-1].first_chunk + parts[-1].num_chunks)
    return tuple(
        Part(part.reducer, start, end - start) for part, start, end in zip(kept, starts, ends, strict=True)
    )


def parts_problem(parts: Sequence[Part], num_chunks: int, reducers: set[bytes]) -> str | None:
    """Why these parts do not cover the vector exactly once by allowed reducers, or None."""
    if len({part.reducer for part in parts}) != len(parts):
        return "a reducer has two parts"
    if any(part.reducer not in reducers for part in parts):
        return "a part is given to a peer that may not reduce"
    first = 0
    for part in parts:
        if part.first_chunk != first or part.num_chunks < 1:
            return "parts overlap or leave a hole"
        first += part.num_chunks
    return None if first == num_chunks else "parts do not cover the vector"
