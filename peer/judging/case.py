"""What is judged of a round: one slice of one contribution, kept from the round's end until it is scored.

A reducer holds its part of every contribution, so an audit costs no traffic; and since contributions are
fixed before parts are shared out, nobody can make a slice that is better than the rest of it. In a sparse
exchange everybody holds them whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from blake3 import blake3

from talkoot.averaging.certificate import Value
from talkoot.averaging.inputs import Bytes, Input, sources_of
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Rules
from talkoot.averaging.slices import Slice
from talkoot.averaging.source import Caps, Source, decode_checked

MAX_NUMEL = 1 << 26
"""Elements of a slice at most: 256 MiB once it is decoded."""


@dataclass(frozen=True, slots=True)
class Case:
    """One slice, encoded, as the arithmetic takes it: capped, but not weighed."""

    subject: bytes
    round: int
    prior: bytes
    """Digest of the state that the contribution started from."""
    digest: bytes
    """Digest of the state after the round: what is drawn from."""
    start: int
    """Its first element."""
    numels: tuple[int, ...]
    """Elements of each chunk."""
    source: Source
    caps: tuple[float, ...]
    """For each chunk, what the norm caps multiply it with."""

    @property
    def numel(self) -> int:
        """Elements of all of it."""
        return sum(self.numels)

    def _chunk(self, offset: int, out: torch.Tensor) -> bool:
        """Decode one chunk into `out`, capped; False where it is not what was signed."""
        sound = decode_checked(self.source, offset, out)
        if sound:
            torch.mul(out, self.caps[offset], out=out)
        return sound

    def write(self, path: Path) -> bool:
        """Decode it into a file, little-endian float32; False where it is not what was signed. Blocks. Raises
        OSError."""
        room = torch.empty(max(self.numels))
        with path.open("wb") as file:
            for offset, numel in enumerate(self.numels):
                if not self._chunk(offset, room[:numel]):
                    return False
                file.write(room[:numel].numpy().astype("<f4", copy=False).data)
        return True

    def decode(self) -> torch.Tensor | None:
        """Decoded in memory; None where it is not what was signed."""
        piece, start = torch.empty(self.numel), 0
        for offset, numel in enumerate(self.numels):
            if not self._chunk(offset, piece[start : start + numel]):
                return None
            start += numel
        return piece


def dense_case(
    value: Value,
    slices: Mapping[bytes, Slice],
    ledger: Ledger,
    rules: Rules,
    *,
    auditor: bytes,
    subject: bytes,
) -> Case | None:
    """From the part that `auditor` reduced; None where it had none, or not all of it is here.

    `ledger` is the one before the round.
    """
    part = next((part for part in value.parts if part.reducer == auditor), None)
    if part is None:
        return None
    numbers = _some(part.first_chunk, part.num_chunks, rules, value.digest + auditor)
    inputs = []
    for item in value.cut:
        piece = slices.get(item.key)
        if piece is None or piece.index is None or piece.contribution != item:
            return None
        chunks: list[Bytes] = []
        if item.key == subject:
            if not all(number in piece.chunks for number in numbers):
                return None
            chunks = [piece.chunks[number] for number in numbers]
        # the cap of a part is one for all of it, so it is made of the entries of all of it
        whole = range(part.first_chunk, part.first_chunk + part.num_chunks)
        inputs.append(Input(item, [piece.index.entries[number] for number in whole], chunks))
    sources = sources_of(inputs, ledger, rules)
    return _case(value, sources, rules, subject, part.first_chunk, numbers, chunked=True)


def sparse_case(
    value: Value, sources: Sequence[Source], rules: Rules, *, auditor: bytes, subject: bytes
) -> Case | None:
    """From the whole contributions that were added up, in the order of the cut."""
    numbers = _some(0, rules.num_chunks, rules, value.digest + auditor)
    return _case(value, sources, rules, subject, 0, numbers, chunked=False)


def _some(first: int, count: int, rules: Rules, seed: bytes) -> range:
    """As many consecutive chunks as may be decoded, at a place that nobody chooses."""
    most = max(1, MAX_NUMEL // rules.chunk_size)
    if count <= most:
        return range(first, first + count)
    lot = blake3(seed, derive_key_context="talkoot 2026 audit slice").digest()
    start = first + int.from_bytes(lot[:8], "big") % (count - most + 1)
    return range(start, start + most)


def _case(
    value: Value,
    sources: Sequence[Source],
    rules: Rules,
    subject: bytes,
    first: int,
    numbers: range,
    *,
    chunked: bool,
) -> Case | None:
    """`first` is the number of the chunk that the sources' entries begin with; where `chunked`, their bytes
    are those of `numbers` alone."""
    which = next((i for i, item in enumerate(value.cut) if item.key == subject), None)
    if which is None:
        return None
    caps = Caps(sources, rules.robustness.norm_cap)
    source = sources[which]
    offsets = [number - first for number in numbers]
    chunks = source.chunks if chunked else [source.chunks[offset] for offset in offsets]
    kept = Source(
        source.weight,
        chunks,
        [source.entries[offset] for offset in offsets],
        source.codec,
        source.clip,
        source.allowance,
    )
    return Case(
        subject=subject,
        round=value.round,
        prior=value.prior,
        digest=value.digest,
        start=numbers.start * rules.chunk_size,
        numels=tuple(rules.chunk_numel(number) for number in numbers),
        source=kept,
        caps=tuple(caps.at(offset)[which] for offset in offsets),
    )
