"""Whether a claim is wrong: a part, or one chunk of it, computed again from what its contributors signed.

What has to be computed at once is a *scope*. Where a rule looks at all of a part, that is the part; else each
chunk stands for itself, so that a part of any size is checked chunk by chunk, and one chunk shows a lie.
Nothing but a chunk of each contribution has to be in memory, beside what the rule itself holds of a part.
"""

from collections.abc import Callable, Iterator, Sequence

from talkoot.averaging.aggregate import aggregated_chunks
from talkoot.averaging.certificate import Contribution
from talkoot.averaging.claims import Claim
from talkoot.averaging.contribution import ENTRY_BYTES, Entry, decode_index
from talkoot.averaging.digest import content_hash
from talkoot.averaging.inputs import Bytes, Input, sources_of
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.parts import Part
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.rules import Rules
from talkoot.compression import codec as codecs

GetChunk = Callable[[int, int], Bytes]
"""(position in the cut, number of the chunk) -> the encoded chunk. Raises what it likes; may be slow."""


class ProofError(ValueError):
    """Bytes that prove nothing."""


class Inquiry:
    """One claim, with everything but the bytes of the contributions."""

    def __init__(
        self,
        claim: Claim,
        cut: Sequence[Contribution],
        hashes: Sequence[bytes],
        ledger: Ledger,
        rules: Rules,
    ) -> None:
        """`hashes` are those of the claimed chunks, `ledger` is that before the round. Raises CodecError."""
        self.claim = claim
        self.cut = cut
        self.part: Part = claim.part
        self._hashes = hashes
        self._ledger = ledger
        self._rules = rules
        codec = codecs.get(ledger.codec)
        self._full = codec.encoded_size(rules.chunk_size)
        self._last = codec.encoded_size(rules.chunk_numel(rules.num_chunks - 1))
        self.index_bytes = rules.num_chunks * ENTRY_BYTES
        """Of each contribution."""

    # -- what is computed ----------------------------------------------------------------------------

    def scopes(self) -> Iterator[range]:
        """What can be computed by itself, in the order of the vector; together the part."""
        if self._rules.robustness.compares:
            yield self.part.chunks
        else:
            for chunk in self.part.chunks:
                yield range(chunk, chunk + 1)

    def scope_of(self, first: int) -> range:
        """The scope that begins with a chunk. Raises ProofError where none does."""
        whole = self._rules.robustness.compares
        if first != self.part.first_chunk if whole else first not in self.part.chunks:
            raise ProofError("a chunk with which nothing begins that can be computed")
        return self.part.chunks if whole else range(first, first + 1)

    def chunk_bytes(self, chunk: int) -> int:
        """Length of an encoded chunk of a contribution. One of another length no reducer takes."""
        return self._last if chunk == self._rules.num_chunks - 1 else self._full

    # -- where it lies: indexes in the order of the cut, then for each chunk that of each contribution -----

    def index_at(self, position: int) -> int:
        """Offset of a contribution's index in a proof's body."""
        return position * self.index_bytes

    def chunk_at(self, position: int, chunk: int, scope: range) -> int:
        """Offset of a chunk of a contribution in a proof's body."""
        row = self.index_at(len(self.cut)) + (chunk - scope.start) * len(self.cut) * self._full
        return row + position * self.chunk_bytes(chunk)

    def body_bytes(self, scope: range) -> int:
        """Length of a proof's body."""
        return self.chunk_at(len(self.cut), scope[-1], scope)

    # -- the answer ----------------------------------------------------------------------------------

    def entries(self, position: int, index: Bytes) -> tuple[Entry, ...]:
        """What an index, encoded, says about the part. Raises CertificateError unless it was signed."""
        found = decode_index(index, self.cut[position], self._rules.num_chunks)
        return tuple(found.entries[chunk] for chunk in self.part.chunks)

    def wrong(self, scope: range, entries: Sequence[Sequence[Entry]], get: GetChunk) -> bool:
        """Whether a chunk of the scope is not what was claimed. Computes for as long as the reducer did.

        `entries` are the contributions'. Raises ProofError for a chunk that is not what was signed, and what
        `get` raises.
        """
        inputs = [
            Input(item, entries[at], _Column(self.part, at, entries[at], get))
            for at, item in enumerate(self.cut)
        ]
        offsets = range(scope.start - self.part.first_chunk, scope.stop - self.part.first_chunk)
        true = aggregated_chunks(
            self.part,
            sources_of(inputs, self._ledger, self._rules),
            offsets,
            codec=codec_of(self._ledger.aggregate_codec, self.claim.prior, self.claim.reducer),
            rules=self._rules,
            seed=self.claim.prior,
        )
        return any(content_hash(chunk) != self._hashes[at] for at, chunk in zip(offsets, true, strict=True))


class _Column(Sequence[Bytes]):
    """The chunks of one contribution's slice, fetched whenever they are looked at, and checked."""

    def __init__(self, part: Part, position: int, entries: Sequence[Entry], get: GetChunk) -> None:
        self._part = part
        self._position = position
        self._entries = entries
        self._get = get

    def __len__(self) -> int:
        return self._part.num_chunks

    def __getitem__(self, at: int) -> Bytes:  # type: ignore[override]  # nobody takes slices of it
        chunk = self._get(self._position, self._part.first_chunk + at)
        if content_hash(chunk) != self._entries[at].hash:
            raise ProofError("a chunk is not what its contributor signed")
        return chunk
