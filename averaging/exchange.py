"""The dense exchange of one attempt: slices to reducers, the cut, encoded aggregates to everyone."""

from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.certificate import Value
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.gatherer import Gatherer
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import (
    Aggregate,
    BulkHeader,
    BulkKind,
    Cut,
    MessageError,
    Receipt,
    Roster,
    signed_by,
)
from talkoot.averaging.outcome import Outcome, check_promoted
from talkoot.averaging.outputs import Claimed, Output, Refused, Send, SendBulk
from talkoot.averaging.reducer import Reducer
from talkoot.averaging.slices import Slices
from talkoot.averaging.wire import decode, encode


class Exchange:
    """A member's side of the exchange. Methods return what is to be done; they raise MessageError."""

    def __init__(self, context: Context, roster: Roster, slices: Slices) -> None:
        """`slices` is what we hold as a reducer from earlier attempts of the round."""
        self._context = context
        self._roster = roster
        self._headers = {join.key: join.contribution for join in roster.members if join.contribution}
        mine = next((part for part in roster.parts if part.reducer == context.key), None)
        self._reducer = Reducer(context, roster, mine, slices) if mine else None
        self._gatherer = Gatherer(context, roster, slices)
        self._cut: Cut | None = None
        self._applying = False

    def start(self, local: LocalContribution | None, now: float) -> list[Output]:
        """Send our slices to their reducers, but for what those hold already."""
        out: list[Output] = []
        if self._reducer is not None:
            out += [Send(self._roster.leader, receipt) for receipt in self._reducer.already()]
        if local is None or self._context.key not in self._headers:
            return out
        index = local.index.encode()
        held = self._held_by_reducers()
        for part in self._roster.parts:
            if part.reducer == self._context.key:
                assert self._reducer is not None
                out += self._receipt(self._reducer.own(local))
                continue
            there = held.get(part.reducer, range(0))
            if not there:
                out.append(SendBulk(part.reducer, self._header("index", self._context.key, 0), index))
            out += [
                SendBulk(part.reducer, self._header("slice", self._context.key, chunk), local.chunks[chunk])
                for chunk in part.chunks
                if chunk not in there
            ]
        return out

    def _held_by_reducers(self) -> dict[bytes, range]:
        """Chunks of our contribution that reducers say they hold from an earlier attempt."""
        return {
            join.key: held.chunks
            for join in self._roster.members
            for held in join.holds
            if held.contributor == self._context.key
        }

    def _header(self, kind: BulkKind, owner: bytes, chunk: int) -> BulkHeader:
        return BulkHeader(kind, self._context.ledger.round, self._roster.attempt, owner, chunk)

    def _receipt(self, receipt: Receipt | None) -> list[Output]:
        return [Send(self._roster.leader, receipt)] if receipt else []

    def bulk(
        self, sender: bytes, header: BulkHeader, payload: bytes | memoryview, now: float
    ) -> list[Output]:
        """Take a bulk frame of this attempt."""
        if header.owner != sender:
            raise MessageError("unasked", "a bulk frame on behalf of another peer")
        if header.kind in ("index", "slice"):
            if self._reducer is None:
                raise MessageError("unasked", "a slice, but we do not reduce")
            if header.kind == "index":
                self._reducer.index(sender, payload)
                return []
            return self._receipt(self._reducer.chunk(sender, header, payload))
        if header.kind == "statement":
            statement = decode(bytes(payload))
            if not isinstance(statement, Aggregate):
                raise MessageError("malformed", "a statement frame without a statement")
            return self._statement(sender, statement)
        job = self._gatherer.chunk(sender, header, payload)
        return [job] if job else []

    def _statement(self, sender: bytes, statement: Aggregate) -> list[Output]:
        """A reducer's statement; a second one has no effect, but is held against it."""
        try:
            claim = self._gatherer.statement(sender, statement)
        except MessageError as error:
            if error.reason != "equivocation":
                raise
            claimed = Claimed(statement.claim, statement.hashes)
            return [claimed, Refused(sender, error.reason, str(error))]
        return [Claimed(claim, statement.hashes)] if claim is not None else []

    def cut(self, cut: Cut, now: float) -> list[Output]:
        """The leader fixed what counts."""
        if self._cut is not None:
            raise MessageError("equivocation" if cut != self._cut else "stale", "a second cut")
        keys = cut.contributors
        if cut.roster != self._roster.hash or cut.holdings or list(keys) != sorted(set(keys)):
            raise MessageError("malformed", "a cut for another roster, or out of order")
        if not keys or not set(keys) <= set(self._headers):
            raise MessageError("malformed", "a cut with peers that have no contribution in the roster")
        if not signed_by(cut, self._roster.leader, self._context.verify):
            raise MessageError("signature", "a cut not signed by its leader")
        check_promoted(self._context, self._roster, cut)
        if self._reducer is not None and not self._reducer.holds(keys):
            raise MessageError("malformed", "a cut with slices that we never acknowledged")
        self._cut = cut
        out: list[Output] = [self._reducer.job(keys)] if self._reducer else []
        return out + self._apply_if_complete()

    @property
    def held(self) -> frozenset[bytes]:
        """Contributors of whose contribution we hold all of our part."""
        if self._reducer is None:
            return frozenset()
        return frozenset(key for key in self._headers if self._reducer.holds((key,)))

    def aggregated(self, encoded: EncodedPart) -> list[Output]:
        """Our part is aggregated: state it, and send it to everyone."""
        assert self._reducer is not None
        assert self._cut is not None
        statement = self._reducer.statement(self._cut.contributors, encoded)
        key, part = self._context.key, self._reducer.part
        said = encode(statement)
        out: list[Output] = []
        for join in self._roster.members:
            if join.key == key:
                continue
            out.append(SendBulk(join.key, self._header("statement", key, 0), said))
            out += [
                SendBulk(join.key, self._header("aggregate", key, chunk), data)
                for chunk, data in zip(part.chunks, encoded.chunks, strict=True)
            ]
        out.append(self._gatherer.own(statement, encoded))
        return out

    def decoded(self, reducer: bytes) -> list[Output]:
        """A part has been decoded."""
        self._gatherer.decoded(reducer)
        return self._apply_if_complete()

    def _apply_if_complete(self) -> list[Output]:
        if self._cut is None or self._applying or not self._gatherer.complete:
            return []
        if not self._gatherer.agrees_with(self._cut.contributors):
            raise MessageError("different_value", "a reducer aggregated another cut")
        self._applying = True
        return [Outcome(self._context, self._roster, self._cut).step()]

    @property
    def missing(self) -> tuple[bytes, ...]:
        """Reducers whose aggregate is not here yet."""
        return self._gatherer.missing

    def value(self, digest: bytes, ledger: Ledger) -> Value:
        """What this round consists of, given the state that we computed."""
        assert self._cut is not None
        outcome = Outcome(self._context, self._roster, self._cut)
        return outcome.value(digest, ledger, self._gatherer.part_digests())
