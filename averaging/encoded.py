"""What the aggregate of a round was decoded from, as long as the round lasts: its record, still in memory.

Holds references to bytes that the exchange has in memory anyway, and copies none.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from talkoot.averaging.aggregate import Source
from talkoot.averaging.certificate import PartDigest, Value
from talkoot.averaging.contribution import Index
from talkoot.averaging.digest import content_hash, root
from talkoot.averaging.parts import Part
from talkoot.averaging.record import RecordError, RecordLayout

Bytes = bytes | memoryview


class Encoded:
    """Of one round. A value may be certified in a later attempt than the one that computed it, so what an
    attempt decoded whole is kept until a later one has, too."""

    def __init__(self, num_chunks: int) -> None:
        self._num_chunks = num_chunks
        self._parts: dict[int, dict[Part, Sequence[Bytes]]] = {}
        """By attempt: the last whole one, and the one that decoded last."""
        self._sources: dict[int, Sequence[Source]] = {}

    def decoded(self, attempt: int, part: Part, chunks: Sequence[Bytes]) -> None:
        """A part of this attempt was decoded from these chunks."""
        mine = self._parts.get(attempt, {}) | {part: chunks}
        whole = {} if self._whole(mine) else {n: its for n, its in self._parts.items() if self._whole(its)}
        self._parts = whole | {attempt: mine}

    def _whole(self, parts: dict[Part, Sequence[Bytes]]) -> bool:
        return sum(part.num_chunks for part in parts) == self._num_chunks

    def combined(self, attempt: int, sources: Sequence[Source]) -> None:
        """The aggregate of this attempt was added up from these contributions."""
        self._sources = {attempt: sources}

    def counted(self, value: Value) -> Sequence[Source] | None:
        """The whole contributions of this value's cut, in its order, if it was they that were added up."""
        for sources in self._sources.values():
            if [Index(source.entries).root for source in sources] == [item.root for item in value.cut]:
                return sources
        return None

    @property
    def complete(self) -> bool:
        """Whether the aggregate of any attempt was decoded or added up here, whole."""
        return bool(self._sources) or any(self._whole(parts) for parts in self._parts.values())

    def pieces(self, value: Value, layout: RecordLayout) -> Iterator[Bytes]:
        """The record of the round with this value, piece by piece. Hashes all that was decoded.

        Raises RecordError when that is not what the value says, as when its result was fetched from a peer.
        """
        if layout.sparse:
            return self._sparse(value, layout)
        hashed = [self._part(part) for part in value.parts]
        hashes = (digest for digests, _ in hashed for digest in digests)
        return chain(hashes, (chunk for _, chunks in hashed for chunk in chunks))

    def _part(self, digest: PartDigest) -> tuple[list[bytes], Sequence[Bytes]]:
        part = Part(digest.reducer, digest.first_chunk, digest.num_chunks)
        for parts in self._parts.values():
            chunks = parts.get(part, ())
            hashes = [content_hash(chunk) for chunk in chunks]
            if hashes and root(hashes) == digest.root:
                return hashes, chunks
        raise RecordError("different_value", "a part was not decoded here")

    def _sparse(self, value: Value, layout: RecordLayout) -> Iterator[Bytes]:
        sources = self.counted(value)
        if sources is None:
            raise RecordError("different_value", "other contributions were added up here")
        encoded = (Index(source.entries).encode() for source in sources)
        chunks = range(layout.num_chunks)
        return chain(encoded, (source.chunks[chunk] for chunk in chunks for source in sources))
