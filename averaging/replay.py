"""A round once more, from its record: the same aggregate and ledger that the round came to, bit for bit.

Nothing is believed: hashes and indexes are held against the certificate, every chunk against its hash. What
this cannot see, that the state before was the right one, shows in the digest of the state after, which the
caller must compare with the certificate's before it becomes the outer state.
"""

import torch

from talkoot.averaging.aggregate import combine_chunk
from talkoot.averaging.certificate import CertificateError, Contribution, Value
from talkoot.averaging.contribution import ENTRY_BYTES, Index, decode_index
from talkoot.averaging.digest import HASH_BYTES, content_hash, root
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.record import RecordError, RecordLayout
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.rules import Rules
from talkoot.averaging.source import source_of
from talkoot.averaging.succession import ledger_after, weigh
from talkoot.compression.codec import Codec, CodecError


class Replay:
    """One round. `take_index` comes first, then chunks in any order; memory is that of one chunk."""

    def __init__(self, value: Value, ledger: Ledger, rules: Rules) -> None:
        """`ledger` is that before the round. Raises RecordError when the certified value is not what this
        ledger and these rules can come to."""
        self.layout = RecordLayout(value, ledger, rules)
        try:
            self.ledger = ledger_after(value, ledger, rules)
            """The ledger after the round."""
        except CertificateError as error:
            raise RecordError(error.reason, str(error)) from error
        self._steps = _Sparse(value, ledger, rules) if self.layout.sparse else _Dense(value, ledger)

    def take_index(self, data: bytes | memoryview) -> None:
        """The first `layout.index_bytes` of the record. Raises RecordError."""
        if len(data) != self.layout.index_bytes:
            raise RecordError("malformed", f"index of {len(data)} bytes")
        self._steps.take_index(memoryview(data), self.layout)

    def chunk(self, chunk: int, data: bytes | memoryview, out: torch.Tensor) -> None:
        """Decode what the record holds of one chunk, of length `layout.span(chunk)[1]`, into its aggregate:
        `rules.chunk_numel(chunk)` elements of fp32. Raises RecordError."""
        size = self.layout.encoded_size(chunk)
        if len(data) != size * self.layout.width:
            raise RecordError("malformed", f"chunk of {len(data)} bytes")
        view = memoryview(data)
        pieces = [view[at : at + size] for at in range(0, len(view), size)]
        self._steps.chunk(chunk, pieces, out)


class _Dense:
    """Encoded aggregates, each in the codec of its reducer."""

    def __init__(self, value: Value, ledger: Ledger) -> None:
        self._value, self._ledger = value, ledger
        self._codecs: list[Codec] = []
        """For each chunk."""
        self._hashes: list[bytes] = []

    def take_index(self, data: memoryview, layout: RecordLayout) -> None:
        hashes = [bytes(data[at : at + HASH_BYTES]) for at in range(0, len(data), HASH_BYTES)]
        codecs: list[Codec] = []
        for part in self._value.parts:  # they cover the vector in its order, or there were no layout
            if root(hashes[part.first_chunk : part.first_chunk + part.num_chunks]) != part.root:
                raise RecordError("wrong_hash", "hashes that are not those of the certified part")
            codec = codec_of(self._ledger.aggregate_codec, self._value.prior, part.reducer)
            codecs += [codec] * part.num_chunks
        self._hashes, self._codecs = hashes, codecs

    def chunk(self, chunk: int, pieces: list[memoryview], out: torch.Tensor) -> None:
        (data,) = pieces
        if content_hash(data) != self._hashes[chunk]:
            raise RecordError("wrong_hash", f"chunk {chunk} is not what its reducer stated")
        try:
            self._codecs[chunk].decode_into(data, out)
        except CodecError as error:
            raise RecordError("malformed", f"chunk {chunk}: {error}") from error


class _Sparse:
    """Contributions, added up as the round did."""

    def __init__(self, value: Value, ledger: Ledger, rules: Rules) -> None:
        self._rules = rules
        self._weighed = weigh(value.cut, ledger, rules)
        self._indexes: list[Index] = []

    def take_index(self, data: memoryview, layout: RecordLayout) -> None:
        size = layout.num_chunks * ENTRY_BYTES
        headers = [item.contribution for item in self._weighed]
        self._indexes = [
            _index(data[number * size : (number + 1) * size], header, layout.num_chunks)
            for number, header in enumerate(headers)
        ]

    def chunk(self, chunk: int, pieces: list[memoryview], out: torch.Tensor) -> None:
        sources = []
        for data, index, item in zip(pieces, self._indexes, self._weighed, strict=True):
            entry = index.entries[chunk]
            if content_hash(data) != entry.hash:
                raise RecordError("wrong_hash", f"chunk {chunk} is not what its contributor signed")
            sources.append(source_of(item, [data], [entry]))
        combine_chunk(sources, self._rules, out)


def _index(data: memoryview, header: Contribution, num_chunks: int) -> Index:
    try:
        return decode_index(data, header, num_chunks)
    except CertificateError as error:
        raise RecordError(error.reason, str(error)) from error
