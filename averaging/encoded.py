"""What the aggregate of a round was decoded from, as long as the round lasts: its record, still in memory.

Holds references to bytes that the exchange has in memory anyway, and copies nothing.
"""

from collections.abc import Iterator, Sequence

from talkoot.averaging.aggregate import Source
from talkoot.averaging.certificate import PartDigest, Value
from talkoot.averaging.contribution import Index
from talkoot.averaging.digest import content_hash, root
from talkoot.averaging.parts import Part
from talkoot.averaging.record import RecordError, RecordLayout

Bytes = bytes | memoryview


class Encoded:
    """Of one round. A value may be certified in a later attempt than the one that computed it, so what an
    attempt decoded is kept until a later one has decoded all of its own."""

    def __init__(self, num_chunks: int) -> None:
        self._num_chunks = num_chunks
        self._parts: dict[int, dict[Part, Sequence[Bytes]]] = {}
        self._sources: dict[int, Sequence[Source]] = {}

    def decoded(self, attempt: int, part: Part, chunks: Sequence[Bytes]) -> None:
        """A part of this attempt was decoded from these chunks."""
        mine = self._parts.setdefault(attempt, {})
        mine[part] = chunks
        if sum(part.num_chunks for part in mine) == self._num_chunks:
            self._parts = {attempt: mine}

    def combined(self, attempt: int, sources: Sequence[Source]) -> None:
        """The aggregate of this attempt was added up from these contributions."""
        self._sources = {attempt: sources}

    def pieces(self, value: Value, layout: RecordLayout) -> Iterator[Bytes]:
        """The record of the round with this value, piece by piece. Hashes all of it before the first piece.

        Raises RecordError when what was decoded here is not what the value says, as when its result was
        fetched from a peer.
        """
        return self._sparse(value, layout) if layout.sparse else self._dense(value)

    def _dense(self, value: Value) -> Iterator[Bytes]:
        hashed = [self._part(part) for part in value.parts]
        for hashes, _ in hashed:
            yield from hashes
        for _, chunks in hashed:
            yield from chunks

    def _part(self, digest: PartDigest) -> tuple[list[bytes], Sequence[Bytes]]:
        part = Part(digest.reducer, digest.first_chunk, digest.num_chunks)
        for parts in self._parts.values():
            chunks = parts.get(part, ())
            hashes = [content_hash(chunk) for chunk in chunks]
            if hashes and root(hashes) == digest.root:
                return hashes, chunks
        raise RecordError("different_value", "a part was not decoded here")

    def _sparse(self, value: Value, layout: RecordLayout) -> Iterator[Bytes]:
        for sources in self._sources.values():
            indexes = [Index(source.entries) for source in sources]
            if [index.root for index in indexes] == [item.root for item in value.cut]:
                break
        else:
            raise RecordError("different_value", "other contributions were added up here")
        for index in indexes:
            yield index.encode()
        for chunk in range(layout.num_chunks):
            for source in sources:
                yield source.chunks[chunk]
