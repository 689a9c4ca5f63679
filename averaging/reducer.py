"""The reducer's part of an attempt: collect verified chunks, give receipts, aggregate exactly the cut."""

from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.claims import sign_claim
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import LocalContribution, decode_index
from talkoot.averaging.digest import content_hash
from talkoot.averaging.inputs import Input, sources_of
from talkoot.averaging.messages import Aggregate, BulkHeader, MessageError, Receipt, Roster, sign
from talkoot.averaging.outputs import AggregatePart
from talkoot.averaging.parts import Part
from talkoot.averaging.slices import Slice, Slices
from talkoot.compression import codec as codecs


class Reducer:
    """Aggregates one part in one attempt. Holds at most one part of each contribution in the roster."""

    def __init__(self, context: Context, roster: Roster, part: Part, slices: Slices) -> None:
        self._context = context
        self._roster_hash = roster.hash
        self._attempt = roster.attempt
        self.part = part
        contributions = [join.contribution for join in roster.members if join.contribution is not None]
        self._slices = slices.enter(contributions, part.chunks)
        codec = codecs.get(context.ledger.codec)
        rules = context.rules
        self._sizes = {chunk: codec.encoded_size(rules.chunk_numel(chunk)) for chunk in part.chunks}

    def index(self, sender: bytes, payload: bytes | memoryview) -> None:
        """Take a contributor's index. Raises MessageError or CertificateError."""
        piece = self._slice_of(sender)
        if piece.index is None:
            piece.index = decode_index(payload, piece.contribution, self._context.rules.num_chunks)

    def chunk(self, sender: bytes, header: BulkHeader, payload: bytes | memoryview) -> Receipt | None:
        """Take one chunk; returns the signed receipt when it was the last of its slice.

        Raises MessageError when nobody asked for it or it is not what the contributor signed.
        """
        piece = self._slice_of(sender)
        if header.chunk not in self._sizes:
            raise MessageError("unasked", "a chunk of another part")
        if piece.index is None:
            raise MessageError("out_of_order", "a chunk before its index")
        if header.chunk in piece.chunks:
            return None
        if len(payload) != self._sizes[header.chunk]:
            raise MessageError("malformed", f"chunk of {len(payload)} bytes")
        if content_hash(payload) != piece.index.entries[header.chunk].hash:
            raise MessageError("wrong_hash", "a chunk is not what its contributor signed")
        piece.chunks[header.chunk] = payload
        return self._receipt(piece) if len(piece.chunks) == len(self._sizes) else None

    def own(self, local: LocalContribution) -> Receipt:
        """Take our own contribution, which needs no checks."""
        piece = self._slices[self._context.key]
        piece.index = local.index
        piece.chunks = {chunk: local.chunks[chunk] for chunk in self.part.chunks}
        return self._receipt(piece)

    def already(self) -> list[Receipt]:
        """Receipts for slices that are here from an earlier attempt."""
        whole = [piece for piece in self._slices.values() if len(piece.chunks) == len(self._sizes)]
        return [self._receipt(piece) for piece in whole if piece.contribution.key != self._context.key]

    def _slice_of(self, sender: bytes) -> Slice:
        piece = self._slices.get(sender)
        if piece is None:
            raise MessageError("unasked", "a slice of a peer without contribution in the roster")
        return piece

    def _receipt(self, piece: Slice) -> Receipt:
        receipt = Receipt(
            round=self._context.ledger.round,
            attempt=self._attempt,
            roster=self._roster_hash,
            reducer=self._context.key,
            contributor=piece.contribution.key,
            root=piece.contribution.root,
        )
        return sign(receipt, self._context.signer)

    def holds(self, contributors: tuple[bytes, ...]) -> bool:
        """Whether every chunk of our part of these contributions is here."""
        return all(len(self._slices[key].chunks) == len(self._sizes) for key in contributors)

    def job(self, contributors: tuple[bytes, ...]) -> AggregatePart:
        """The work of aggregating the cut."""
        inputs = []
        for piece in (self._slices[key] for key in contributors):
            assert piece.index is not None  # holds() came first
            chunks = [piece.chunks[chunk] for chunk in self.part.chunks]
            entries = [piece.index.entries[chunk] for chunk in self.part.chunks]
            inputs.append(Input(piece.contribution, entries, chunks))
        sources = sources_of(inputs, self._context.ledger, self._context.rules)
        return AggregatePart(self._attempt, self.part, sources)

    def statement(self, contributors: tuple[bytes, ...], encoded: EncodedPart) -> Aggregate:
        """Our signed statement about the finished part."""
        headers = [self._slices[key].contribution for key in contributors]
        return Aggregate(
            round=self._context.ledger.round,
            attempt=self._attempt,
            roster=self._roster_hash,
            cut=contributors,
            hashes=encoded.hashes,
            claim=sign_claim(self._context.claim(self.part, encoded.hashes, headers), self._context.signer),
        )
