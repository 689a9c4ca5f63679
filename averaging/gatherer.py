"""Every member's part of an attempt: collect the encoded aggregates of all parts, verified chunk by chunk."""

from dataclasses import dataclass, field

import msgspec

from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.certificate import PartDigest
from talkoot.averaging.claims import Claim
from talkoot.averaging.context import Context
from talkoot.averaging.digest import content_hash, root
from talkoot.averaging.loudness import loudest
from talkoot.averaging.messages import Aggregate, BulkHeader, MessageError, Roster
from talkoot.averaging.outputs import DecodePart
from talkoot.averaging.parts import Part
from talkoot.averaging.slices import Slices
from talkoot.compression import codec as codecs


@dataclass(slots=True)
class _Pending:
    """One part's aggregate, as far as it came."""

    part: Part
    statement: Aggregate | None = None
    chunks: dict[int, bytes | memoryview] = field(default_factory=dict)
    decoded: bool = False


class Gatherer:
    """Collects the aggregates of one attempt."""

    def __init__(self, context: Context, roster: Roster, slices: Slices) -> None:
        """`slices` is what we hold as a reducer."""
        self._context = context
        self._slices = slices
        self._attempt = roster.attempt
        self._roster_hash = roster.hash
        self._pending = {part.reducer: _Pending(part) for part in roster.parts}
        self._headers = {join.key: join.contribution for join in roster.members if join.contribution}
        self._codec = codecs.get(context.ledger.aggregate_codec)

    def statement(self, sender: bytes, statement: Aggregate) -> Claim | None:
        """Take a reducer's statement; its signed claim, if it is new. Raises MessageError."""
        pending = self._pending.get(sender)
        if pending is None or statement.claim.reducer != sender:
            raise MessageError("unasked", "a statement about a part that its sender does not reduce")
        if (statement.attempt, statement.roster) != (self._attempt, self._roster_hash):
            raise MessageError("wrong_round", "a statement about another attempt")
        if len(statement.hashes) != pending.part.num_chunks:
            raise MessageError("malformed", "a statement with the wrong number of hashes")
        if not set(statement.cut) <= set(self._headers):
            raise MessageError("malformed", "a statement about peers that have no contribution")
        cut = [self._headers[key] for key in statement.cut]
        expected = self._context.claim(pending.part, statement.hashes, cut)
        if statement.claim != msgspec.structs.replace(expected, signature=statement.claim.signature):
            raise MessageError("malformed", "a claim about something else than the statement")
        if not statement.claim.signed(self._context.verify):
            raise MessageError("signature", "a claim not signed by its reducer")
        if pending.statement is not None and pending.statement != statement:
            raise MessageError("equivocation", "two statements about one part")
        new = pending.statement is None
        pending.statement = statement
        return statement.claim if new else None

    def chunk(self, sender: bytes, header: BulkHeader, payload: bytes | memoryview) -> DecodePart | None:
        """Take one aggregate chunk; returns the work of decoding when the part is complete.

        Raises MessageError when it was not asked for or is not what the reducer stated.
        """
        pending = self._pending.get(sender)
        if pending is None or header.chunk not in pending.part.chunks:
            raise MessageError("unasked", "an aggregate chunk that its sender does not reduce")
        if pending.statement is None:
            raise MessageError("out_of_order", "an aggregate chunk before its statement")
        if header.chunk in pending.chunks:
            return None
        if len(payload) != self._codec.encoded_size(self._context.rules.chunk_numel(header.chunk)):
            raise MessageError("malformed", f"aggregate chunk of {len(payload)} bytes")
        stated = pending.statement.hashes[header.chunk - pending.part.first_chunk]
        if content_hash(payload) != stated:
            raise MessageError("wrong_hash", "an aggregate chunk is not what its reducer stated")
        pending.chunks[header.chunk] = payload
        if len(pending.chunks) < pending.part.num_chunks:
            return None
        return self._job(pending)

    def own(self, statement: Aggregate, encoded: EncodedPart) -> DecodePart:
        """Take our own finished part, which needs no checks."""
        pending = self._pending[statement.claim.reducer]
        pending.statement = statement
        pending.chunks = dict(zip(pending.part.chunks, encoded.chunks, strict=True))
        return self._job(pending)

    def _job(self, pending: _Pending) -> DecodePart:
        """Decode a complete part."""
        assert pending.statement is not None
        part, context = pending.part, self._context
        cut = [self._headers[key] for key in pending.statement.cut]
        limit = loudest(part, cut, self._slices.indexes(cut), context.ledger, context.rules)
        return DecodePart(self._attempt, part, [pending.chunks[c] for c in part.chunks], limit)

    def decoded(self, reducer: bytes) -> None:
        """A part has been decoded into the aggregate vector."""
        self._pending[reducer].decoded = True

    @property
    def complete(self) -> bool:
        """Whether every part has been decoded."""
        return all(pending.decoded for pending in self._pending.values())

    @property
    def missing(self) -> tuple[bytes, ...]:
        """Reducers whose part is not here yet."""
        return tuple(key for key, pending in self._pending.items() if not pending.decoded)

    def agrees_with(self, contributors: tuple[bytes, ...]) -> bool:
        """Whether every statement is about this cut."""
        statements = [pending.statement for pending in self._pending.values()]
        return all(statement is not None and statement.cut == contributors for statement in statements)

    def part_digests(self) -> tuple[PartDigest, ...]:
        """What the parts hash to, in the order of the vector; all statements must be here."""
        digests = []
        for pending in sorted(self._pending.values(), key=lambda item: item.part.first_chunk):
            assert pending.statement is not None
            part = pending.part
            part_root = root(pending.statement.hashes)
            digests.append(PartDigest(part.reducer, part.first_chunk, part.num_chunks, part_root))
        return tuple(digests)
