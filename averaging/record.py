"""The record of a round: the encoded bytes that its aggregate was made of, as one run of bytes.

Whoever holds the outer state before a round, its certificate and its record can compute the state after it
(`talkoot.averaging.replay`). Of a dense round these are the encoded aggregates as they travelled, of a
sparse one the counted contributions:

    dense    content hashes of all encoded chunks | chunk 0 | chunk 1 | ...
    sparse   indexes of all contributions | chunk 0 of each contribution | chunk 1 of each | ...

with contributions in the order of the cut. Everything else stands in the certificate, and so does what the
bytes must hash to. Lengths follow from the certificate, the ledger before the round and the rules.
"""

from collections.abc import Iterator

from talkoot.averaging.certificate import PartDigest, Value
from talkoot.averaging.contribution import ENTRY_BYTES
from talkoot.averaging.digest import HASH_BYTES
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.parts import Part, parts_problem
from talkoot.averaging.rules import Rules
from talkoot.compression import codec as codecs


class RecordError(ValueError):
    """A record, or a certificate that none can belong to. `reason` is from `talkoot.averaging.reasons`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class RecordLayout:
    """Where everything is in the record of one round."""

    def __init__(self, value: Value, ledger: Ledger, rules: Rules) -> None:
        """`ledger` is that before the round. Raises RecordError when the value is of another round, swarm or
        size than it says, or its parts do not cover the vector exactly once."""
        _check(value, ledger, rules)
        self.sparse = rules.exchange == "sparse"
        self.num_chunks = rules.num_chunks
        self.width = len(value.cut) if self.sparse else 1
        """Encoded chunks for one chunk of the vector."""
        codec = codecs.get(ledger.codec if self.sparse else ledger.aggregate_codec)
        self._full = codec.encoded_size(rules.chunk_size)
        self._last = codec.encoded_size(rules.chunk_numel(self.num_chunks - 1))
        self.index_bytes = self.num_chunks * self.width * (ENTRY_BYTES if self.sparse else HASH_BYTES)
        """Bytes of the hashes or indexes, with which the record begins."""
        self.num_bytes = self.index_bytes + self.width * (self._full * (self.num_chunks - 1) + self._last)
        """Bytes of the whole record."""

    def encoded_size(self, chunk: int) -> int:
        """Length of one encoded chunk."""
        return self._last if chunk == self.num_chunks - 1 else self._full

    def span(self, first: int, count: int = 1) -> tuple[int, int]:
        """Offset and length of what the record holds of consecutive chunks."""
        offset = self.index_bytes + first * self.width * self._full
        last = first + count - 1
        length = self.width * ((count - 1) * self._full + self.encoded_size(last))
        return offset, length

    def runs(self, max_bytes: int) -> Iterator[tuple[int, int]]:
        """All chunks, cut into runs (first, count) of at most `max_bytes`, but of one chunk at least."""
        count = max(1, max_bytes // (self.width * self._full))
        for first in range(0, self.num_chunks, count):
            yield first, min(count, self.num_chunks - first)


def _check(value: Value, ledger: Ledger, rules: Rules) -> None:
    if (value.swarm, value.round) != (rules.swarm, ledger.round):
        raise RecordError("wrong_round", f"round {value.round} does not come after {ledger.round} rounds")
    if not value.cut:
        raise RecordError("malformed", "a round that counts nothing")
    for item in value.cut:
        if (item.swarm, item.round, item.prior) != (value.swarm, value.round, value.prior):
            raise RecordError("wrong_round", "a counted contribution belongs to another round")
        if (item.numel, item.codec) != (rules.numel, ledger.codec):
            raise RecordError("wrong_layout", "a counted contribution is of another size or codec")
    if rules.exchange == "sparse":
        if value.parts:
            raise RecordError("malformed", "parts in a sparse exchange")
        return
    problem = parts_problem([_part(item) for item in value.parts], rules.num_chunks, set(ledger.voters))
    if problem:
        raise RecordError("malformed", problem)


def _part(digest: PartDigest) -> Part:
    return Part(digest.reducer, digest.first_chunk, digest.num_chunks)
