"""One try at a round: forming (joins), exchanging (slices, cut, aggregates), certifying (votes).

An attempt has one leader. It ends with a certificate, or with `AttemptFailed` when a deadline passes or
somebody without whom it cannot go on is lost; `talkoot.averaging.round` then starts the next.
"""

from collections.abc import Set as AbstractSet
from typing import Literal

from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.blobs import BlobStore
from talkoot.averaging.certificate import Certificate, Value, weakly
from talkoot.averaging.certification import Certification
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.deadlines import Limit, Phase, ceiling, limit
from talkoot.averaging.exchange import Exchange
from talkoot.averaging.holdings import SparseLeader
from talkoot.averaging.leader import Leader
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import (
    MAX_MEMBERS,
    Abort,
    BulkHeader,
    Call,
    Committed,
    Cut,
    Fetching,
    Have,
    Holding,
    Join,
    Lock,
    Message,
    MessageError,
    Proposal,
    Receipt,
    Roster,
    Vote,
)
from talkoot.averaging.outputs import LeftOut, Output, Refused, Send
from talkoot.averaging.parts import Part
from talkoot.averaging.slices import Slices
from talkoot.averaging.sparse import SparseExchange
from talkoot.averaging.voting import Voter

GRACE = 1.5
"""Followers wait so many times longer than their leader, so that its decision comes first."""

MAX_EARLY = 16
"""Announcements of one member that are kept until the roster comes."""

SUSPECTS_WAIT = 0.25
"""A leader waits so many floors for suspects when all others have joined: who is there says so at once."""

AttemptPhase = Literal["forming", "exchanging", "certifying"]


class AttemptFailed(Exception):  # noqa: N818 - reads well where it is caught
    """This attempt cannot succeed any more."""

    def __init__(self, reason: str, suspects: AbstractSet[bytes] = frozenset()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.suspects = frozenset(suspects)


class Attempt:
    """A member's view of one attempt; leads it if it is our turn.

    Methods return outputs; messages to ourselves are among them. They raise MessageError or
    CertificateError for what another peer did wrong, and AttemptFailed.
    """

    def __init__(
        self,
        context: Context,
        number: int,
        voter: Voter,
        *,
        reachable: AbstractSet[bytes],
        suspects: AbstractSet[bytes],
        slices: Slices,
        parts: tuple[Part, ...],
        blobs: BlobStore,
        desperate: bool,
        now: float,
    ) -> None:
        """`slices` and `parts` are what is left of the attempt before. `desperate`: as many attempts have
        failed as there are voters, so that weak rounds are made even while a quorum is connected."""
        self.number = number
        self.phase: AttemptPhase = "forming"
        self.roster: Roster | None = None
        self.certificate: Certificate | None = None
        """Set when we led the attempt to its end."""
        self.joined = False
        """Whether our own join was sent."""
        self.limits: dict[Phase, Limit] = {}
        """How long each phase may take, and what that was made of."""
        self.took_s: dict[Phase, float] = {}
        """How long each phase took, by the leader's clock where it said so."""
        self._context = context
        self._voter = voter
        self._here, self._desperate = set(reachable), desperate
        leading = context.leader(number) == context.key
        sparse = context.rules.exchange == "sparse"
        make_leader = SparseLeader if sparse else Leader
        self._leader = make_leader(context, number, set(reachable), set(suspects), parts) if leading else None
        self._slices = slices
        self._blobs = blobs
        self._exchange: Exchange | SparseExchange | None = None
        self._early: dict[bytes, list[Have]] = {}
        """Announcements that overtook the roster."""
        self._certification: Certification | None = None
        self._began = now
        """When the running phase began."""
        self._called = False
        self._last_s = 0.0
        """As leader: when in this phase the last awaited message came."""
        self.limits["form"] = limit(context.timing, context.pace, "form", number)
        self.deadline = self._until(now, self.limits["form"].seconds)
        if not leading:
            self.deadline += context.timing.slack_s

    @property
    def leader(self) -> bytes:
        """Who leads."""
        return self._context.leader(self.number)

    @property
    def exchanges(self) -> bool:
        """Whether bulk frames can be taken."""
        return self._exchange is not None

    @property
    def serves(self) -> bool:
        """Whether other members fetch from us."""
        return isinstance(self._exchange, SparseExchange)

    @property
    def members(self) -> tuple[bytes, ...]:
        """Members of the roster, once there is one."""
        return tuple(join.key for join in self.roster.members) if self.roster else ()

    def _until(self, now: float, length_s: float) -> float:
        return now + (length_s if self._leader is not None else GRACE * length_s)

    def called(self, call: Call, now: float) -> None:
        """The leader says how long it will wait for joins. Raises MessageError."""
        if not 0 < call.form_s <= ceiling(self._context.timing, "form", self.number):
            raise MessageError("malformed", f"a call for {call.form_s} s")
        self.deadline = max(self.deadline, self._until(now, call.form_s))
        self._called = True

    @property
    def unheard(self) -> set[bytes]:
        """The leader, if it has not called us to this attempt yet: others may know why."""
        forming = self.phase == "forming" and self._leader is None
        return {self.leader} if forming and not self._called else set()

    # -- forming -------------------------------------------------------------------------------------

    def call(self, peers: AbstractSet[bytes]) -> list[Output]:
        """These are there now. As leader: ask them to join, as long as the roster is open."""
        self._here |= peers
        if self._leader is None or self.roster is not None:
            return []
        self._leader.called(peers)
        ledger = self._context.ledger
        message = Call(
            round=ledger.round,
            attempt=self.number,
            prior=self._context.prior,
            form_s=self.limits["form"].seconds,
        )
        return [Send(peer, message) for peer in sorted(peers)]

    def join(self, join: Join, now: float) -> list[Output]:
        """As leader: take a join."""
        if self._leader is None:
            raise MessageError("not_the_leader", "a join for an attempt that we do not lead")
        refusal = self._leader.join(join)
        self._last_s = now - self._began
        self._shorten(now)
        refused: list[Output] = [] if refusal is None else [Refused(join.key, refusal)]
        return refused + self._form_if_complete(now)

    def _shorten(self, now: float) -> None:
        """As leader that never measured how long joins take: wait as long as the others would."""
        assert self._leader is not None
        if self._context.pace.expected_s("form") is not None:
            return
        others_s = self._leader.others_s("form")
        context = self._context
        form = limit(context.timing, context.pace, "form", self.number, others_s=others_s)
        if form.seconds < self.limits["form"].seconds:
            self.limits["form"] = form
            self.deadline = max(now, self._until(self._began, form.seconds))

    def _form_if_complete(self, now: float) -> list[Output]:
        assert self._leader is not None
        if self.roster is not None:
            return []
        if self._leader.everyone_joined:
            return self._form()
        if self._leader.only_suspects_missing:
            self.deadline = min(self.deadline, now + SUSPECTS_WAIT * self._context.timing.floor_s)
        return []

    def _form(self) -> list[Output]:
        assert self._leader is not None
        roster = self._leader.form(self._last_s)
        if isinstance(roster, str):
            raise AttemptFailed(roster)
        if self._goes_without(roster):
            raise AttemptFailed("no_quorum")
        return [Send(join.key, roster) for join in roster.members]

    def _goes_without(self, roster: Roster) -> bool:
        """Whether a roster is weak for no reason that we see: a quorum is connected, and may yet join."""
        may_become_final = self._context.may_become_final(roster.members, self._here)
        return roster.weak and may_become_final and not self._desperate

    def _enter(
        self, roster: Roster, local: LocalContribution | None, staged: Value | None, now: float
    ) -> list[Output]:
        """Take the leader's roster."""
        if self.roster is not None:
            raise MessageError("stale", "a second roster")
        self._context.check_roster(roster)
        if self._context.key not in {join.key for join in roster.members}:
            raise MessageError("left_out", "the roster was closed without us")
        if self._goes_without(roster):
            raise MessageError("too_early", "a weak roster while a quorum is connected")
        self.roster = roster
        self._began, self._last_s = now, 0.0
        self.took_s["form"] = roster.took_s
        self.limits["exchange"] = Limit(roster.exchange_s, "recent")
        self.limits["certify"] = Limit(roster.certify_s, "recent")
        if self._leader is not None:
            self.limits |= self._leader.limits
        again = staged if roster.locked is not None else None  # or the exchange gives another value
        self._certification = Certification(self._context, self._voter, roster, self._leader, again)
        if roster.locked is not None:
            self.phase, self.deadline = "certifying", self._until(now, roster.certify_s)
            if self._leader is None:
                return []
            if roster.weak:
                self.certificate = weakly(roster.locked)
                return []
            return self._certification.propose(roster.locked.value, roster.locked)
        self.phase, self.deadline = "exchanging", self._until(now, roster.exchange_s)
        if self._context.rules.exchange == "dense":
            self._exchange = Exchange(self._context, roster, self._slices)
        else:
            self._exchange = SparseExchange(self._context, roster, self._blobs)
        out = self._exchange.start(local, now)
        return out + self._take_early(now) + self._cut_if_done(now)

    def _take_early(self, now: float) -> list[Output]:
        early, self._early = self._early, {}
        out: list[Output] = []
        for sender, messages in early.items():
            for message in messages:
                try:
                    out += self.fetching(sender, message, now)
                except MessageError as error:
                    out.append(Refused(sender, error.reason, str(error)))
        return out

    # -- what goes wrong -----------------------------------------------------------------------------

    def time_out(self) -> list[Output]:
        """The deadline of the running phase has passed."""
        leading = self._leader
        if leading is None:
            raise AttemptFailed(f"{self.phase}_timeout", {self.leader})
        if self.phase == "forming":
            return self._form()
        if self.phase == "exchanging" and leading.cut is None:
            if leading.held_by_all():
                return self._fix_cut()
            raise AttemptFailed(*leading.stuck())
        missing = self._exchange.missing if self._exchange is not None else ()
        raise AttemptFailed(f"{self.phase}_timeout", set(missing))

    def lost(self, peer: bytes, now: float) -> list[Output]:
        """A peer is gone."""
        self._here.discard(peer)
        leading = self._leader
        if leading is None and peer == self.leader:
            raise AttemptFailed("leader_lost", {peer})
        sparse = self._exchange if isinstance(self._exchange, SparseExchange) else None
        out = sparse.lost(peer, now) if sparse is not None else []
        return out + (self._lost_as_leader(leading, peer, now) if leading is not None else [])

    def _lost_as_leader(self, leading: Leader, peer: bytes, now: float) -> list[Output]:
        leading.lost(peer)
        if self.phase == "forming":
            return self._form_if_complete(now)
        if self._exchange is not None and peer in self._exchange.missing:
            raise AttemptFailed("reducer_lost", {peer})
        reduces = self.roster is not None and peer in {part.reducer for part in self.roster.parts}
        if self.phase == "certifying" and reduces and not leading.prepared:
            # We have its part, but others may wait for it in vain, and without them there is no quorum.
            raise AttemptFailed("reducer_lost", {peer})
        return self._cut_if_done(now) if self.phase == "exchanging" else []

    def abort(self, failure: AttemptFailed) -> list[Output]:
        """As leader: tell the members, or who has joined, that this attempt is over."""
        if self._leader is None:
            return []
        message = Abort(
            round=self._context.ledger.round,
            attempt=self.number,
            reason=failure.reason,
            suspects=tuple(sorted(failure.suspects)),
        )
        members = self.members or self._leader.joined
        return [Send(member, message) for member in members if member != self._context.key]

    def announce(self, reachable: AbstractSet[bytes]) -> list[Output]:
        """Tell everyone we reach that the round is committed."""
        assert self.certificate is not None
        message = Committed(
            round=self._context.ledger.round, attempt=self.number, certificate=self.certificate
        )
        return [Send(peer, message) for peer in sorted({*self.members, *reachable} - {self._context.key})]

    # -- messages ------------------------------------------------------------------------------------

    def receive(
        self,
        sender: bytes,
        message: Message,
        *,
        local: LocalContribution | None,
        staged: Value | None,
        now: float,
    ) -> list[Output]:
        """A message of this attempt; `local` is our contribution, `staged` the value that we hold."""
        if isinstance(message, Join):
            return self.join(message, now)
        if isinstance(message, Roster):
            return self._enter(message, local, staged, now)
        if isinstance(message, Have) and self.roster is None:
            return self._keep_early(sender, message)
        if isinstance(message, Abort) and sender == self.leader:
            raise AttemptFailed(f"leader: {message.reason}"[:64], {*message.suspects, *self._overdue(now)})
        if self.roster is None or self._certification is None:
            raise MessageError("out_of_order", f"{type(message).__name__} before the roster")
        if isinstance(message, Receipt | Holding):
            return self._on_receipt(message, now)
        if isinstance(message, Fetching):
            return self.fetching(sender, message, now)
        if isinstance(message, Vote):
            out, self.certificate = self._certification.vote(message)
            return out
        if sender != self.leader:
            raise MessageError("not_the_leader")
        match message:
            case Cut():
                return self._on_cut(message, now)
            case Proposal():
                return self._certification.proposal(message)
            case Lock():
                return self._certification.lock(message)
            case _:
                raise MessageError("unasked", f"{type(message).__name__} outside its place")

    def _overdue(self, now: float) -> tuple[bytes, ...]:
        """Reducers whose part we miss, once they had the better part of the time for it: the leader may have
        got everything, and not know why nobody votes."""
        waited_s, exchange = now - self._began, self._exchange
        late = self.phase == "certifying" and waited_s > self.limits["certify"].seconds / 2
        return exchange.missing if late and exchange is not None else ()

    def _keep_early(self, sender: bytes, message: Have) -> list[Output]:
        kept = self._early.get(sender, [])
        if len(kept) >= MAX_EARLY or (not kept and len(self._early) >= MAX_MEMBERS):
            raise MessageError("full", "too many announcements before the roster")
        self._early[sender] = [*kept, message]
        return []

    def fetching(self, sender: bytes, message: Fetching, now: float) -> list[Output]:
        """A member of a sparse exchange announces, asks or answers; also after the round is over."""
        if not isinstance(self._exchange, SparseExchange):
            raise MessageError("unasked", f"{type(message).__name__} outside a sparse exchange")
        return self._exchange.fetching(sender, message, now)

    def _on_receipt(self, receipt: Receipt | Holding, now: float) -> list[Output]:
        if self._leader is None:
            raise MessageError("not_the_leader")
        if isinstance(receipt, Holding):
            self._leader.holding(receipt)
        else:
            self._leader.receipt(receipt)
        self._last_s = now - self._began
        return self._cut_if_done(now)

    def _cut_if_done(self, now: float) -> list[Output]:
        leading = self._leader
        if leading is None or leading.cut is not None:
            return []
        if leading.exchange_done:
            return self._fix_cut()
        if leading.patience_ends:
            as_long_again = max(now - self._began, SUSPECTS_WAIT * self._context.timing.floor_s)
            self.deadline = min(self.deadline, now + as_long_again)
        return []

    def _fix_cut(self) -> list[Output]:
        assert self._leader is not None
        cut = self._leader.fix_cut(self._last_s)
        if isinstance(cut, str):
            raise AttemptFailed(cut)
        left_out = self._leader.left_out()
        out: list[Output] = [LeftOut(left_out, "slices_missing")] if left_out else []
        return out + [Send(member, cut) for member in self.members]

    def _on_cut(self, cut: Cut, now: float) -> list[Output]:
        if self._exchange is None:
            raise MessageError("unasked", "a cut without an exchange")
        assert self.roster is not None
        out = self._exchange.cut(cut, now)
        if not self._context.is_fair(cut.contributors, self.roster, self._exchange.held, now):
            raise AttemptFailed("unfair_cut", self._leader.stuck()[1] if self._leader else {self.leader})
        self.phase, self._began = "certifying", now
        self.took_s["exchange"] = cut.took_s
        self.deadline = self._until(now, self.roster.certify_s)
        return out

    @property
    def weak(self) -> bool:
        """Whether its roster has no quorum."""
        return self.roster is not None and self.roster.weak

    def committed(self, now: float) -> None:
        """The certificate of this attempt has come: what was measured counts for later rounds."""
        if "exchange" in self.took_s:
            self.took_s["certify"] = now - self._began
        for phase, seconds in self.took_s.items():
            top = ceiling(self._context.timing, phase, self.number)
            self._context.pace.observe(phase, min(seconds, top), self.number)

    # -- bulk and jobs -------------------------------------------------------------------------------

    @property
    def next_tick(self) -> float:
        """When `tick` or, at the deadline, `time_out` is due."""
        due = self._exchange.next_tick if isinstance(self._exchange, SparseExchange) else None
        return self.deadline if due is None else min(self.deadline, due)

    def tick(self, now: float) -> list[Output]:
        """Time has passed, but not the deadline."""
        return self._exchange.tick(now) if isinstance(self._exchange, SparseExchange) else []

    def bulk(
        self, sender: bytes, header: BulkHeader, payload: bytes | memoryview, now: float
    ) -> list[Output]:
        """A bulk frame of this attempt."""
        if self._exchange is None:
            raise MessageError("out_of_order", "a bulk frame before the roster")
        return self._exchange.bulk(sender, header, payload, now)

    def aggregated(self, encoded: EncodedPart) -> list[Output]:
        """Our part is aggregated."""
        return self._exchange.aggregated(encoded) if self._exchange is not None else []

    def decoded(self, reducer: bytes) -> list[Output]:
        """A part is decoded."""
        if self._exchange is None:
            return []
        try:
            return self._exchange.decoded(reducer)
        except MessageError as error:
            raise AttemptFailed(error.reason, {reducer}) from error

    def value(self, digest: bytes, ledger: Ledger) -> Value | None:
        """What the round consists of, now that our state has this digest."""
        return self._exchange.value(digest, ledger) if self._exchange is not None else None

    def stage(self, value: Value) -> list[Output]:
        """We hold this value staged: propose it, or vote for it."""
        assert self._certification is not None
        return self._certification.stage(value)

    def obtained(self, value: Value) -> list[Output]:
        """We hold the result of this value, which an earlier attempt prepared."""
        return self._certification.obtained(value) if self._certification is not None else []
