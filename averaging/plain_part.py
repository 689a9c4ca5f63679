"""The weighted sum of contributions, chunk by chunk in one reading."""

from collections.abc import Sequence

import torch

from talkoot.averaging.robustness import NormCap
from talkoot.averaging.source import Caps, Source, decode_checked


class PlainPart:
    """Adds up a run of chunks of some contributions, each weighted and capped, in the given order."""

    def __init__(self, sources: Sequence[Source], norm_cap: NormCap, chunk_size: int) -> None:
        self._sources = sources
        self._caps = Caps(sources, norm_cap)
        self._scratch = torch.empty(chunk_size)
        self.armed = 0
        """Chunks that counted by a rule other than the sum: none."""

    def chunk(self, offset: int, out: torch.Tensor) -> None:
        """Aggregate chunk number `offset` into `out`."""
        scratch = self._scratch[: out.numel()]
        out.zero_()
        for source, cap in zip(self._sources, self._caps.at(offset), strict=True):
            coefficient = source.weight * cap
            if coefficient == 0 or not decode_checked(source, offset, scratch):
                continue
            torch.mul(scratch, coefficient, out=scratch)
            torch.add(out, scratch, out=out)
