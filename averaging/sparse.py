"""The sparse exchange of one attempt: every member fetches every contribution whole, from whoever has it.

Members announce what they hold (`Have`), ask for pieces (`Want`) and pass on what they got. Voters state
to the leader which blobs they hold whole; the cut follows from a quorum's statements, and everyone
aggregates the same set in roster order. What a member lacks of the cut it goes on to fetch.
"""

from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.blobs import BlobStore, Layout, runs_of
from talkoot.averaging.certificate import Value
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.fetcher import Fetcher, Place
from talkoot.averaging.handing import Handing
from talkoot.averaging.holdings import Electorate, contributors_of, state_holding
from talkoot.averaging.known import Known
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import (
    BulkHeader,
    BulkKind,
    Cut,
    Fetching,
    Have,
    MessageError,
    Roster,
    Run,
    Wait,
    Want,
    signed_by,
)
from talkoot.averaging.outcome import Outcome, check_promoted
from talkoot.averaging.outputs import Combine, Output, Refused, Send, SendBulk
from talkoot.averaging.succession import weigh


def patience_of(exchange_s: float, num_pieces: int) -> float:
    """How long a piece may take before it is asked of somebody else, in seconds.

    An eighth of the exchange, more if there are few pieces, since then one may take long; never above 15.
    """
    return min(15.0, exchange_s / min(8, 2 * num_pieces))


class SparseExchange:
    """A member's side of it. Methods return what is to be done; they raise MessageError."""

    def __init__(self, context: Context, roster: Roster, store: BlobStore) -> None:
        """`store` has what came in earlier attempts of the round."""
        self._context = context
        self._roster = roster
        headers = [join.contribution for join in roster.members if join.contribution is not None]
        self._headers = {header.key: header for header in headers}
        self._order = contributors_of(roster)
        layout = Layout(context.rules, context.ledger.codec)
        self._blobs = store.enter(headers, layout)
        self._known = Known(context.key, roster.members, self._blobs, layout)
        self._patience_s = patience_of(roster.exchange_s, layout.num_pieces)
        self._electorate = Electorate(context, roster)
        self._fetcher: Fetcher | None = None
        self._handing: Handing | None = None
        self._stated: set[int] = set()
        self._cut: Cut | None = None
        self._working = False
        self._combined = False

    def start(self, local: LocalContribution | None, now: float) -> list[Output]:
        """Say that we are here, and what we hold."""
        own = self._order.index(self._context.key) if self._context.key in self._order else None
        if own is not None and local is not None and local.header == self._headers[self._context.key]:
            self._blobs[own].own(local)
        self._fetcher = Fetcher(self._known, self._patience_s, now)
        self._handing = Handing(self._known, own, self._patience_s)
        runs = [run for number, blob in enumerate(self._blobs) for run in runs_of(number, blob.held)]
        return self._announce(tuple(runs)) + self._state()

    @property
    def _fetch(self) -> Fetcher:
        assert self._fetcher is not None, "start comes first"
        return self._fetcher

    @property
    def _hand(self) -> Handing:
        assert self._handing is not None, "start comes first"
        return self._handing

    # -- events --------------------------------------------------------------------------------------

    def fetching(self, sender: bytes, message: Fetching, now: float) -> list[Output]:
        """An announcement, a request or the answer to one. Raises MessageError."""
        match message:
            case Have():
                news = self._known.heard(sender, message)
                self._hand.heard(sender, news, now)
                self._fetch.heard(sender, news, now)
                return self._go_on(now)
            case Want(pieces=pieces):
                self._hand.want(sender, pieces)
                out = self._go_on(now)
                return out + [self._wait(sender, place) for place in self._hand.waiting(sender)]
            case Wait(blob=blob, piece=piece):
                if not self._known.is_piece(blob, piece):
                    raise MessageError("malformed", "a piece that there is not")
                self._fetch.must_wait(sender, (blob, piece), now)
                return self._go_on(now)

    def bulk(
        self, sender: bytes, header: BulkHeader, payload: bytes | memoryview, now: float
    ) -> list[Output]:
        """An index or a piece that we asked for. Raises MessageError or CertificateError."""
        if header.kind not in ("index", "piece") or header.owner not in self._headers:
            raise MessageError("unasked", f"a frame of kind {header.kind}, or of no contribution")
        blob = self._order.index(header.owner)
        if header.kind == "index":
            if not self._fetch.was_asked_for(sender, blob):
                raise MessageError("unasked", "an index that we did not ask for")
            self._blobs[blob].take_index(payload)
            return []
        place = (blob, header.chunk)
        if not self._known.is_piece(*place) or not self._fetch.was_asked(sender, place):
            raise MessageError("unasked", "a piece that we did not ask for")
        return self._piece(sender, place, payload, now)

    def _piece(self, sender: bytes, place: Place, payload: bytes | memoryview, now: float) -> list[Output]:
        blob = self._blobs[place[0]]
        try:
            new = blob.take(place[1], payload)
        except MessageError as error:
            if error.reason == "out_of_order":
                raise
            self._fetch.lied(sender, place, now)
            return [Refused(sender, error.reason, str(error)), *self._go_on(now)]
        if not new:
            return []
        self._fetch.arrived(sender, place, now)
        out = self._announce((Run(place[0], place[1], 1),))
        out += self._state() if blob.complete else []
        return out + self._go_on(now) + self._combine_if_complete()

    def lost(self, peer: bytes, now: float) -> list[Output]:
        """A member is gone."""
        self._known.lost(peer)
        self._hand.lost(peer)
        self._fetch.lost(peer, now)
        return self._go_on(now)

    def tick(self, now: float) -> list[Output]:
        """Time has passed."""
        self._fetch.tick(now)
        return self._go_on(now)

    @property
    def next_tick(self) -> float | None:
        """When `tick` should be called, if nothing happens before."""
        dues = (self._fetch.next_tick, self._hand.next_tick)
        return min((due for due in dues if due is not None), default=None)

    # -- what is to be sent --------------------------------------------------------------------------

    @property
    def _here(self) -> tuple[int, int]:
        return self._roster.round, self._roster.attempt

    def _announce(self, runs: tuple[Run, ...]) -> list[Output]:
        number, attempt = self._here
        message = Have(round=number, attempt=attempt, runs=runs)
        return [Send(member, message) for member in self._known.others]

    def _wait(self, to: bytes, place: Place) -> Output:
        number, attempt = self._here
        return Send(to, Wait(round=number, attempt=attempt, blob=place[0], piece=place[1]))

    def _go_on(self, now: float) -> list[Output]:
        """New requests, and pieces for others."""
        number, attempt = self._here
        out: list[Output] = [
            Send(holder, Want(round=number, attempt=attempt, pieces=pieces))
            for holder, pieces in self._fetch.take_changes()
        ]
        for item in self._hand.serve(now):
            blob = self._blobs[item.blob]
            if item.index:
                assert blob.index is not None
                out.append(SendBulk(item.to, self._header("index", item.blob, 0), blob.index.encode()))
            header = self._header("piece", item.blob, item.piece)
            out.append(SendBulk(item.to, header, blob.payload(item.piece)))
        return out

    def _header(self, kind: BulkKind, blob: int, piece: int) -> BulkHeader:
        return BulkHeader(kind, *self._here, self._order[blob], piece)

    def _state(self) -> list[Output]:
        """Our statement to the leader about whole blobs, if there is more to say than before."""
        held = {number for number, blob in enumerate(self._blobs) if blob.complete}
        if not self._context.votes_in(self._roster) or (held == self._stated and held):
            return []
        self._stated = held
        return [Send(self._roster.leader, state_holding(self._context, self._roster, held))]

    # -- from the cut to the result ------------------------------------------------------------------

    def cut(self, cut: Cut, now: float) -> list[Output]:
        """The leader fixed what counts, as the statements that it shows say."""
        if self._cut is not None:
            raise MessageError("equivocation" if cut != self._cut else "stale", "a second cut")
        if cut.roster != self._roster.hash or not cut.contributors:
            raise MessageError("malformed", "a cut for another roster, or of nobody")
        if not signed_by(cut, self._roster.leader, self._context.verify):
            raise MessageError("signature", "a cut not signed by its leader")
        check_promoted(self._context, self._roster, cut)
        self._electorate.check_cut(cut.holdings, cut.contributors)
        self._cut = cut
        self._hand.keep_own(self._context.key in cut.contributors)
        self._fetch.only([self._order.index(key) for key in cut.contributors], now)
        return self._go_on(now) + self._combine_if_complete()

    @property
    def held(self) -> frozenset[bytes]:
        """Nobody's: what a cut has follows from the statements of a quorum, which it shows."""
        return frozenset()

    def _combine_if_complete(self) -> list[Output]:
        """Aggregate once everything that counts is here."""
        if self._cut is None or self._working:
            return []
        counted = [self._blobs[self._order.index(key)] for key in self._cut.contributors]
        if not all(blob.complete for blob in counted):
            return []
        self._working = True
        weighed = weigh([blob.header for blob in counted], self._context.ledger, self._context.rules)
        sources = [blob.source(item) for blob, item in zip(counted, weighed, strict=True)]
        return [Combine(self._roster.attempt, sources)]

    def aggregated(self, encoded: EncodedPart) -> list[Output]:
        """Never: no part is encoded here."""
        raise AssertionError("a sparse exchange encodes no part")

    def decoded(self, reducer: bytes) -> list[Output]:
        """The cut is aggregated."""
        assert self._cut is not None
        if self._combined:
            return []
        self._combined = True
        return [Outcome(self._context, self._roster, self._cut).step()]

    @property
    def missing(self) -> tuple[bytes, ...]:
        """Reducers that are waited for: there are none."""
        return ()

    def value(self, digest: bytes, ledger: Ledger) -> Value:
        """What this round consists of, given the state that we computed."""
        assert self._cut is not None
        return Outcome(self._context, self._roster, self._cut).value(digest, ledger)
