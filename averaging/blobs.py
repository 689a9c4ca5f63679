"""Blobs of the sparse exchange: whole encoded contributions, as far as they have come.

A blob is one contribution: its index and all of its chunks. It travels in pieces, runs of whole chunks
that every peer cuts in the same way; a piece is verified chunk by chunk against the index, and the index
against the root in the signed header, so that it does not matter from whom it came. Sets of pieces are
bit masks: bit p stands for piece p.
"""

from collections.abc import Iterator, Sequence

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.contribution import Chunks, Entry, Index, LocalContribution, decode_index
from talkoot.averaging.digest import content_hash
from talkoot.averaging.messages import MAX_PIECES, MessageError, Run
from talkoot.averaging.rules import Rules
from talkoot.averaging.source import Source, source_of
from talkoot.averaging.succession import Weighed
from talkoot.compression import codec as codecs


class Layout:
    """How the blobs of a round are cut into pieces: the same for all of them."""

    def __init__(self, rules: Rules, codec_name: str) -> None:
        codec = codecs.get(codec_name)
        self._rules = rules
        self._full = codec.encoded_size(rules.chunk_size)
        self._last = codec.encoded_size(rules.chunk_numel(rules.num_chunks - 1))
        per_piece = max(1, rules.piece_bytes // self._full, -(-rules.num_chunks // MAX_PIECES))
        self._per_piece = min(per_piece, rules.num_chunks)
        self.num_chunks = rules.num_chunks
        self.num_pieces = -(-rules.num_chunks // self._per_piece)
        self.all = (1 << self.num_pieces) - 1
        """Every piece."""
        self.eager_bytes = rules.eager_bytes
        self.blob_bytes = self._full * (rules.num_chunks - 1) + self._last
        """Bytes of all chunks of a blob."""

    def chunks(self, piece: int) -> range:
        """Numbers of a piece's chunks."""
        first = piece * self._per_piece
        return range(first, min(first + self._per_piece, self.num_chunks))

    def chunk_bytes(self, chunk: int) -> int:
        """Length of one chunk."""
        return self._last if chunk == self.num_chunks - 1 else self._full

    def offset(self, chunk: int) -> tuple[int, int]:
        """The piece of a chunk, and where in that piece it begins."""
        piece = chunk // self._per_piece
        return piece, (chunk - piece * self._per_piece) * self._full


class Blob:
    """One contribution, as far as it has come."""

    def __init__(self, header: Contribution, layout: Layout) -> None:
        self.header = header
        self.index: Index | None = None
        self.held = 0
        """Pieces that are here, verified."""
        self._layout = layout
        self._data: dict[int, bytes | memoryview] = {}
        self._local: Chunks | None = None

    @property
    def complete(self) -> bool:
        """Whether every piece is here."""
        return self.held == self._layout.all

    def own(self, local: LocalContribution) -> None:
        """This is our own contribution, which needs no checks."""
        self.index, self._local, self.held = local.index, local.chunks, self._layout.all

    def take_index(self, payload: bytes | memoryview) -> None:
        """Take the index, unless it is here. Raises CertificateError."""
        if self.index is None:
            self.index = decode_index(payload, self.header, self._layout.num_chunks)

    def take(self, piece: int, payload: bytes | memoryview) -> bool:
        """Take a piece; False when it was here. Raises MessageError when it is not what was signed."""
        if self.index is None:
            raise MessageError("out_of_order", "a piece before its index")
        if self.held >> piece & 1:
            return False
        chunks = self._layout.chunks(piece)
        if len(payload) != sum(self._layout.chunk_bytes(chunk) for chunk in chunks):
            raise MessageError("malformed", f"piece of {len(payload)} bytes")
        view, at = memoryview(payload), 0
        for chunk in chunks:
            size = self._layout.chunk_bytes(chunk)
            if content_hash(view[at : at + size]) != self.index.entries[chunk].hash:
                raise MessageError("wrong_hash", "a chunk is not what its contributor signed")
            at += size
        self._data[piece] = payload
        self.held |= 1 << piece
        return True

    def payload(self, piece: int) -> bytes | memoryview:
        """The bytes of a piece that is here."""
        if self._local is None:
            return self._data[piece]
        chunks = self._layout.chunks(piece)
        return self._local.run(chunks.start, len(chunks))

    def _chunk(self, chunk: int) -> memoryview:
        if self._local is not None:
            return self._local[chunk]
        piece, at = self._layout.offset(chunk)
        return memoryview(self._data[piece])[at : at + self._layout.chunk_bytes(chunk)]

    def source(self, item: Weighed) -> Source:
        """The whole blob, ready to be aggregated; it must be complete."""
        assert self.index is not None
        chunks: list[bytes | memoryview] = [self._chunk(chunk) for chunk in range(self._layout.num_chunks)]
        entries: Sequence[Entry] = self.index.entries
        return source_of(item, chunks, entries)


class BlobStore:
    """The blobs of one round; what came in one attempt need not be fetched again in the next."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, Blob] = {}

    def enter(self, headers: Sequence[Contribution], layout: Layout) -> list[Blob]:
        """The blobs of a roster's contributions, in their order; all others are forgotten."""
        self._blobs = {header.key: self._of(header, layout) for header in headers}
        return list(self._blobs.values())

    def _of(self, header: Contribution, layout: Layout) -> Blob:
        blob = self._blobs.get(header.key)
        return blob if blob is not None and blob.header == header else Blob(header, layout)


def bits(mask: int) -> Iterator[int]:
    """Numbers of the bits that are set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def runs_of(blob: int, mask: int) -> tuple[Run, ...]:
    """A set of pieces as runs."""
    runs = []
    while mask:
        first = (mask & -mask).bit_length() - 1
        rest = ~(mask >> first)
        count = (rest & -rest).bit_length() - 1
        runs.append(Run(blob, first, count))
        mask &= ~(((1 << count) - 1) << first)
    return tuple(runs)
