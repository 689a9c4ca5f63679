"""A part by a rule that compares contributions with each other.

Every such rule but the coordinate-wise ones comes to a weighted sum of the contributions, whose weights
follow from their inner products over the part. So the part is read twice: each chunk of all contributions is
decoded for the products, and decoded again to be added up. In memory are one chunk of each contribution, one
more of each where they are mixed before a coordinate-wise rule, and the centre, the only one as long as the
part.

What carries earlier rounds' work may be twice as long as others, and rules would take it for an outlier. So
each contribution is compared as one round's worth: divided by its allowance. What it has above that counts by
its weight at most, and only as far as the rule lets it count at all (`_late`, `coordinates.trimmed_`).

Anybody who holds the signed bytes of the cut can repeat it: nothing else goes in but the digest of the state
before the round, from which buckets are drawn.
"""

from collections.abc import Sequence
from math import fsum

import torch

from talkoot.averaging.arming import distance, stands
from talkoot.averaging.centered_clip import clipped
from talkoot.averaging.coordinates import median_, trimmed_
from talkoot.averaging.geometric_median import weiszfeld
from talkoot.averaging.gram import Gram, Matrix, transformed
from talkoot.averaging.group import combine_
from talkoot.averaging.krum import selected
from talkoot.averaging.means import add_up_
from talkoot.averaging.mixing import bucket_mixes, neighbour_mixes
from talkoot.averaging.robustness import COORDINATEWISE, Robustness
from talkoot.averaging.source import Caps, Source, decode_checked


class RobustPart:
    """Aggregates a run of chunks of some contributions. Making it reads them once, if the rule needs that."""

    def __init__(
        self, sources: Sequence[Source], numels: Sequence[int], robustness: Robustness, seed: bytes
    ) -> None:
        """`numels` has the elements of each chunk. Who weighs nothing is not even decoded."""
        self._sources = [source for source in sources if source.weight > 0]
        self._robustness = robustness
        self._numels = numels
        self._caps = Caps(self._sources, robustness.norm_cap)
        num = len(self._sources)
        total = fsum(source.weight for source in self._sources)
        self._weights = [source.weight / total for source in self._sources]
        self._allowances = [source.allowance for source in self._sources]
        self._hostile = int(robustness.hostile_share * num)
        self._rows = torch.empty(num + self._has_center, max(numels))
        """A chunk of each contribution, then of the centre."""
        self._centers: list[torch.Tensor] = []
        """The centre, chunk by chunk, where there is one."""
        self._sound: dict[int, list[bool]] = {}
        """For each chunk that was decoded, of whom it is what was signed."""
        self._mixes: Matrix | None = None
        self._mixed_weights = self._weights
        self._shares: list[float] = []
        """Of the contributions, then of the centre, in the aggregate, where that is a sum of them."""
        self.armed = 0
        """Chunks that counted by the rule, since the plain mean was too far from it or is never asked for."""
        if num:
            self._decide(seed)

    @property
    def _has_center(self) -> bool:
        robustness = self._robustness
        return robustness.rule == "centered_clip" and robustness.clip_center == "coordinate_median"

    @property
    def _is_sum(self) -> bool:
        return self._robustness.rule not in COORDINATEWISE

    def _decide(self, seed: bytes) -> None:
        """Mixes, and the contributions' shares in the aggregate."""
        before, num = self._robustness.before, len(self._sources)
        gram = self._products() if self._robustness.compares else []
        if before == "buckets":
            size = self._robustness.bucket_size
            self._mixes, self._mixed_weights = bucket_mixes(self._weights, size, seed)
        elif before == "nearest_neighbors":
            among = [row[:num] for row in gram[:num]]
            self._mixes = neighbour_mixes(among, self._weights, min(self._hostile, (num - 1) // 2))
        if self._is_sum:
            self._shares = self._late(self._unmixed(self._shares_of(gram)))

    def _products(self) -> Matrix:
        """Inner products of the contributions' parts, and of the centre where there is one: last."""
        num = len(self._sources)
        gram = Gram(num + self._has_center, num_known=num)
        for offset, numel in enumerate(self._numels):
            rows = self._decode(offset)
            if self._has_center:  # of the contributions as they came, not mixed
                median_(self._rows[num, :numel], rows, self._weights)
                self._centers.append(self._rows[num, :numel].clone())
            gram.add(self._rows[:, :numel])
        return gram.matrix([self._square(i) for i in range(num)])

    def _square(self, i: int) -> float:
        """Squared norm of what is compared of a contribution's part, from norms that were signed, and checked
        by decoding."""
        entries = self._sources[i].entries
        return fsum(
            self._factors(offset)[i] ** 2 * entries[offset].norm2
            for offset, sound in self._sound.items()
            if sound[i]
        )

    def _factors(self, offset: int) -> list[float]:
        """Of each contribution in chunk number `offset`: its norm cap, shared among the rounds it carries."""
        caps = self._caps.at(offset)
        return [cap / allowance for cap, allowance in zip(caps, self._allowances, strict=True)]

    def _decode(self, offset: int, wanted: Sequence[float] | None = None) -> list[torch.Tensor]:
        """One round's worth of a chunk of each contribution, capped; zeros for what is not what was signed.
        Where `wanted` has a 0 the row is not to be looked at."""
        rows = [row[: self._numels[offset]] for row in self._rows[: len(self._sources)]]
        known = self._sound.get(offset)
        if known is None:
            known = [
                decode_checked(source, offset, row) for source, row in zip(self._sources, rows, strict=True)
            ]
            self._sound[offset] = known
        else:
            for i, source in enumerate(self._sources):
                if known[i] and (wanted is None or wanted[i] != 0):
                    source.codec.decode_into(source.chunks[offset], rows[i])
        for row, sound, factor in zip(rows, known, self._factors(offset), strict=True):
            if not sound:
                row.zero_()
            elif factor != 1:
                torch.mul(row, factor, out=row)
        return rows

    def _shares_of(self, gram: Matrix) -> list[float]:
        """Shares of what is compared, which may be mixed, and of the centre, in the aggregate."""
        robustness, weights_K = self._robustness, self._mixed_weights
        if robustness.rule == "mean":
            return weights_K
        if self._mixes is not None:
            extra = len(gram) - len(self._sources)
            wide = [[*mix, *[0.0] * extra] for mix in self._mixes]
            wide += [[0.0] * len(self._sources) + [1.0]] * extra
            gram = transformed(gram, wide)
        if robustness.rule == "geometric_median":
            return weiszfeld(gram, weights_K)
        if robustness.rule == "krum":
            hostile = min(self._hostile, max(0, (len(gram) - 3) // 2))
            return selected(gram, weights_K, num_byzantine=hostile, num_selected=len(gram) - hostile)
        return clipped(gram, weights_K, iterations=robustness.clip_iterations, radius=robustness.clip_radius)

    def _unmixed(self, shares_K: list[float]) -> list[float]:
        """Shares of the contributions themselves, then of the centre."""
        if self._mixes is None:
            return shares_K
        num = len(self._sources)
        mixed = [fsum(s * mix[i] for s, mix in zip(shares_K, self._mixes, strict=False)) for i in range(num)]
        return mixed + shares_K[len(self._mixes) :]

    def _late(self, shares: list[float]) -> list[float]:
        """With what late contributions have above one round's worth: by their share, at most by their weight.

        So liars who say that they are late add no more than their weight times one capped norm, even where a
        rule would follow one of them alone.
        """
        more = [
            min(share, weight) * (allowance - 1.0)
            for share, weight, allowance in zip(shares, self._weights, self._allowances, strict=False)
        ]
        late = [share + extra for share, extra in zip(shares, more, strict=False)]
        return late + shares[len(more) :]

    def chunk(self, offset: int, out: torch.Tensor) -> None:
        """Aggregate chunk number `offset` into `out`."""
        if not self._sources:
            out.zero_()
            return
        self._robust_chunk(offset, out)
        if self._robustness.arms_at:
            mean, distances = self._mean_and_distances(offset, out)
            if stands(mean, out, distances, self._robustness.arms_at):
                out.copy_(mean)
                return
        self.armed += 1

    def _mean_and_distances(self, offset: int, robust: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
        """The plain mean of a chunk, and how far one round's worth of each contribution is from `robust`;
        both without caps. To be asked for after the rule, since the first row is used up."""
        mean, distances = torch.zeros_like(robust), []
        row = self._rows[0, : robust.numel()]
        for i, (source, weight) in enumerate(zip(self._sources, self._weights, strict=True)):
            if self._sound[offset][i]:
                source.codec.decode_into(source.chunks[offset], row)
            else:
                row.zero_()
            add_up_([row], [weight], mean)
            if source.allowance != 1:
                torch.div(row, source.allowance, out=row)
            distances.append(distance(row, robust))
        return mean, distances

    def _robust_chunk(self, offset: int, out: torch.Tensor) -> None:
        """By the rule."""
        if self._is_sum:
            rows = self._decode(offset, self._shares)
            center = [self._centers[offset]] if self._has_center else []
            add_up_([*rows, *center], self._shares, out.zero_())
            return
        rows = self._decode(offset)
        more = [weight * (a - 1.0) for weight, a in zip(self._weights, self._allowances, strict=True)]
        late = [(extra, row) for extra, row in zip(more, rows, strict=True) if extra]
        if self._mixes is not None:
            rows = [combine_(torch.empty_like(out), mix, rows) for mix in self._mixes]
        if self._robustness.rule == "trimmed_mean":
            trimmed_(out, rows, self._mixed_weights, min(self._hostile, (len(rows) - 1) // 2), late)
            return
        median_(out, rows, self._mixed_weights)
        if late:  # held to the range of what the median leaves: to the median itself
            torch.mul(out, 1.0 + fsum(more), out=out)
