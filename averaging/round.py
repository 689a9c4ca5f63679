"""One round as one peer sees it: attempts with rotating leaders until a certificate ends it.

A state machine without I/O. Its driver tells it what happened (`close`, `receive`, `receive_bulk`,
`encoded`, `aggregated`, `decoded`, `applied`, `reachable`, `tick`) and carries out the outputs that each
call returns, in order. Time is whatever monotonic clock the driver passes as `now`, in seconds.

An attempt goes through: forming (joins), exchanging (slices, receipts, cut, aggregates), certifying
(proposal, prepare, commit). Every phase has a deadline; when it passes, or the leader or a reducer is
lost, the next voter leads the next attempt with the same contributions.
"""

from collections.abc import Set as AbstractSet
from typing import Literal

from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.certificate import Certificate, CertificateError, Value, check_certificate
from talkoot.averaging.certification import Certification
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.exchange import Exchange
from talkoot.averaging.leader import Leader
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import (
    Abort,
    Ahead,
    BulkHeader,
    Call,
    Committed,
    Cut,
    Join,
    Lock,
    Message,
    MessageError,
    Proposal,
    Receipt,
    Role,
    Roster,
    Vote,
    sign,
)
from talkoot.averaging.outputs import (
    Apply,
    AttemptOver,
    Behind,
    Commit,
    Encode,
    GaveUp,
    LeftOut,
    NeedState,
    Output,
    Refused,
    Send,
)
from talkoot.averaging.voting import Journal, Voter

MAX_JUMP = 16
"""Attempts that a peer lets itself be moved forward at once."""

Phase = Literal["idle", "forming", "exchanging", "certifying", "done"]


class Round:
    """See the module. One object lives from one commit to the next."""

    def __init__(
        self,
        context: Context,
        *,
        role: Role,
        upload: float,
        earliest: float,
        journal: Journal | None = None,
    ) -> None:
        """Start in phase idle. Before `earliest` (on the driver's clock) no leader's call is followed."""
        self.context = context
        self.phase: Phase = "idle"
        self.almost = False
        """Set by the driver when the round is about to close by its own reckoning: then the first join
        of another peer closes it."""
        self.local: LocalContribution | None = None
        self._encoding: Literal["no", "running", "done"] = "no"
        self._role: Role = role
        self._upload = upload
        self._earliest = earliest
        self._voter = Voter(context, journal)
        self.attempt = self._voter.last_attempt + 1
        self._reachable: set[bytes] = set()
        self._suspects: set[bytes] = set()
        self._failures = 0
        self._early: dict[bytes, Join] = {}
        self._held_call: tuple[bytes, Call] | None = None
        self._deadline: float | None = None
        self._out: list[Output] = []
        self._inbox: list[Message] = []
        self._staged: tuple[Value, Ledger] | None = None
        """What the driver holds staged; it outlives an attempt, since the value may be locked."""
        self._reset_attempt()

    def _reset_attempt(self) -> None:
        self._leader: Leader | None = None
        self.roster: Roster | None = None
        self._exchange: Exchange | None = None
        self._certification: Certification | None = None
        self._joined = False

    # -- what the driver calls -----------------------------------------------------------------------

    @property
    def key(self) -> bytes:
        """Our key."""
        return self.context.key

    @property
    def next_tick(self) -> float | None:
        """When `tick` should be called next, if nothing happens before."""
        if self.phase == "idle":
            return self._earliest if self._held_call else None
        return self._deadline

    def close(self, now: float) -> list[Output]:
        """The round is to close, by our own reckoning."""
        if self.phase == "idle":
            self._failures = 0
            self._start_attempt(self.attempt, now)
        return self._flush(now)

    def reachable(self, peers: set[bytes], now: float) -> list[Output]:
        """The peers of this swarm that we have a connection to, whenever that changes."""
        lost, new = self._reachable - peers, peers - self._reachable
        self._reachable = set(peers)
        for peer in sorted(new):
            if self._leader is not None and self.roster is None:
                self._leader.expected.add(peer)
                self._send(peer, self._call())
        for peer in sorted(lost):
            self._lost(peer, now)
        return self._flush(now)

    def tick(self, now: float) -> list[Output]:
        """Time has passed."""
        if self.phase == "idle" and self._held_call and now >= self._earliest:
            sender, call = self._held_call
            self._held_call = None
            self._on_call(sender, call, now)
        elif self._deadline is not None and now >= self._deadline:
            self._time_out(now)
        return self._flush(now)

    def receive(self, sender: bytes, message: Message, now: float) -> list[Output]:
        """A control message from an authenticated peer."""
        self._receive(sender, message, now)
        return self._flush(now)

    def expects(self, header: BulkHeader) -> Literal["now", "later", "never"]:
        """Whether a bulk frame can be taken: `later` means once its roster is known here."""
        here = (self.context.ledger.round, self.attempt)
        if (header.round, header.attempt) < here:
            return "never"
        return "now" if (header.round, header.attempt) == here and self._exchange else "later"

    def receive_bulk(
        self, sender: bytes, header: BulkHeader, payload: bytes | memoryview, now: float
    ) -> list[Output]:
        """A bulk frame from an authenticated peer."""
        if self._exchange is None or self.expects(header) != "now":
            self._out.append(Refused(sender, "unasked", "bulk for another attempt"))
        elif header.owner != sender:
            self._out.append(Refused(sender, "unasked", "bulk on behalf of another peer"))
        else:
            try:
                self._emit(self._exchange.bulk(sender, header, payload))
            except (MessageError, CertificateError) as error:
                self._out.append(Refused(sender, error.reason, str(error)))
        return self._flush(now)

    def encoded(self, local: LocalContribution | None, now: float) -> list[Output]:
        """Our contribution is ready; None when there is too little to contribute."""
        self.local = local
        self._encoding = "done"
        self._join()
        return self._flush(now)

    def aggregated(self, attempt: int, encoded: EncodedPart, now: float) -> list[Output]:
        """The job `AggregatePart` is done."""
        if attempt == self.attempt and self._exchange is not None:
            self._emit(self._exchange.aggregated(encoded))
        return self._flush(now)

    def decoded(self, attempt: int, reducer: bytes, now: float) -> list[Output]:
        """The job `DecodePart` is done."""
        if attempt == self.attempt and self._exchange is not None:
            try:
                self._emit(self._exchange.decoded(reducer))
            except MessageError as error:
                self._fail(error.reason, now)
        return self._flush(now)

    def applied(self, attempt: int, digest: bytes, ledger: Ledger, now: float) -> list[Output]:
        """The job `Apply` is done: the staged state has this digest."""
        if attempt == self.attempt and self._exchange is not None and self._certification is not None:
            value = self._exchange.value(digest, ledger)
            self._staged = (value, ledger)
            try:
                self._emit(self._certification.stage(value))
            except (MessageError, CertificateError) as error:
                self._fail(error.reason, now)
        return self._flush(now)

    # -- attempts ------------------------------------------------------------------------------------

    def _start_attempt(self, attempt: int, now: float) -> None:
        """Enter the forming phase of an attempt, skipping leaders that cannot be reached."""
        self.attempt = attempt
        self._reset_attempt()
        while (leader := self.context.leader(self.attempt)) != self.key and leader not in self._reachable:
            if not self._count_failure("leader_unreachable"):
                return
            self.attempt += 1
        self.phase = "forming"
        window = self.context.timing.scaled(self.context.timing.form_s, self.attempt)
        if leader == self.key:
            self._leader = Leader(self.context, self.attempt, set(self._reachable), self._suspects)
            self._deadline = now + window
            for peer in sorted(self._reachable):
                self._send(peer, self._call())
            for peer, join in list(self._early.items()):
                if join.attempt == self.attempt:
                    self._on_join(peer, join, now)
            self._early.clear()
        else:
            self._deadline = now + 1.5 * window
        if self._encoding == "no":
            self._encoding = "running"
            self._out.append(Encode())
        self._join()

    def _call(self) -> Call:
        return Call(round=self.context.ledger.round, attempt=self.attempt, prior=self.context.prior)

    def _count_failure(self, reason: str) -> bool:
        """Record a failed attempt; False when it was the last for now and the round is given up."""
        self._out.append(AttemptOver(self.attempt, reason, tuple(sorted(self._suspects))))
        self._failures += 1
        limit = max(self.context.timing.max_attempts, 2 * len(self.context.ledger.voters))
        if self._failures < limit:
            return True
        self._reset_attempt()
        self.phase, self._deadline = "idle", None
        self.attempt += 1
        self._out.append(GaveUp(reason))
        return False

    def _fail(self, reason: str, now: float, suspects: AbstractSet[bytes] = frozenset()) -> None:
        """End this attempt and start the next."""
        self._suspects = set(suspects)
        if self._leader is not None and self.roster is not None:
            abort = Abort(
                round=self.context.ledger.round,
                attempt=self.attempt,
                reason=reason,
                suspects=tuple(sorted(suspects)),
            )
            for join in self.roster.members:
                if join.key != self.key:
                    self._send(join.key, abort)
        if self._count_failure(reason):
            self._start_attempt(self.attempt + 1, now)

    def _time_out(self, now: float) -> None:
        """The deadline of the running phase has passed."""
        leading = self._leader
        if leading is None:
            self._fail(f"{self.phase}_timeout", now)
        elif self.phase == "forming":
            self._form(now)
        elif self.phase == "exchanging" and leading.cut is None:
            silent = leading.silent_reducers()
            if leading.held_by_all():
                self._fix_cut(now)
            else:
                self._fail("reducer_silent", now, silent)
        else:
            missing = set(self._exchange.missing) if self._exchange else set()
            self._fail(f"{self.phase}_timeout", now, missing)

    def _lost(self, peer: bytes, now: float) -> None:
        """A peer of whom we may be waiting is gone."""
        self._early.pop(peer, None)
        if self.phase in ("idle", "done"):
            return
        leading = self._leader
        if leading is None:
            if peer == self.context.leader(self.attempt):
                self._fail("leader_lost", now)
            return
        leading.lost(peer)
        if self.phase == "forming":
            self._form_if_complete(now)
        elif self._exchange is not None and peer in self._exchange.missing:
            self._fail("reducer_lost", now, {peer})
        elif self.phase == "exchanging" and leading.cut is None and leading.exchange_done:
            self._fix_cut(now)

    # -- messages ------------------------------------------------------------------------------------

    def _receive(self, sender: bytes, message: Message, now: float) -> None:
        if message.round > self.context.ledger.round:
            self._out.append(Behind(sender, message.round))
            return
        if message.round < self.context.ledger.round or self.phase == "done":
            self._out.append(Refused(sender, "stale", f"round {message.round}"))
            return
        try:
            self._dispatch(sender, message, now)
        except (MessageError, CertificateError) as error:
            self._out.append(Refused(sender, error.reason, f"{type(message).__name__}: {error}"))

    def _dispatch(self, sender: bytes, message: Message, now: float) -> None:
        match message:
            case Call():
                self._on_call(sender, message, now)
            case Ahead():
                self._on_ahead(sender, message, now)
            case Join():
                self._on_join(sender, message, now)
            case Committed():
                self._on_committed(message.certificate)
            case Roster():
                self._on_roster(sender, message, now)
            case _ if message.attempt != self.attempt or self.roster is None:
                raise MessageError("stale", f"attempt {message.attempt}, here it is {self.attempt}")
            case Receipt():
                self._on_receipt(message, now)
            case Vote():
                self._on_vote(message, now)
            case _ if sender != self.context.leader(self.attempt):
                raise MessageError("not_the_leader")
            case Cut():
                self._on_cut(message, now)
            case Proposal() if self._certification is not None:
                self._emit(self._certification.proposal(message))
            case Lock() if self._certification is not None:
                self._emit(self._certification.lock(message))
            case Abort():
                self._fail(f"leader: {message.reason}"[:64], now, set(message.suspects))
            case _:
                raise MessageError("unasked", "a statement outside the bulk channel")

    def _on_call(self, sender: bytes, call: Call, now: float) -> None:
        if call.prior != self.context.prior:
            raise MessageError("wrong_branch", "a call from another branch")
        if sender != self.context.leader(call.attempt):
            raise MessageError("not_the_leader")
        if call.attempt < self.attempt:
            self._send(sender, Ahead(round=self.context.ledger.round, attempt=self.attempt))
        elif now < self._earliest:
            self._held_call = (sender, call)
        elif call.attempt > self.attempt or self.phase == "idle":
            self._jump(call.attempt, now)

    def _jump(self, attempt: int, now: float) -> None:
        """Follow others to a later attempt, or out of idleness."""
        if attempt > self.attempt + MAX_JUMP:
            raise MessageError("too_far", f"attempt {attempt}, here it is {self.attempt}")
        if self.phase != "idle" and attempt > self.attempt:
            self._out.append(AttemptOver(self.attempt, "others_ahead"))
        self._start_attempt(attempt, now)

    def _on_ahead(self, sender: bytes, ahead: Ahead, now: float) -> None:
        if sender not in self.context.ledger.voters:
            raise MessageError("not_a_voter")
        if self.phase == "forming" and ahead.attempt > self.attempt:
            self._jump(ahead.attempt, now)

    def _on_join(self, sender: bytes, join: Join, now: float) -> None:
        if sender != join.key:
            raise MessageError("unasked", "a join on behalf of another peer")
        if self.context.leader(join.attempt) != self.key:
            raise MessageError("not_the_leader", "a join for an attempt that we do not lead")
        if self._leader is not None and join.attempt == self.attempt:
            self._leader.join(join)
            self._form_if_complete(now)
            return
        if join.attempt < self.attempt:
            self._send(sender, Ahead(round=self.context.ledger.round, attempt=self.attempt))
            return
        self.context.check_join(join)
        self._early[sender] = join
        wanted = self.almost and now >= self._earliest and self.phase == "idle"
        overtaken = self.phase == "forming" and sender in self.context.ledger.voters
        if wanted or overtaken:
            self._jump(join.attempt, now)

    def _join(self) -> None:
        """Send our join to the leader once the contribution is ready."""
        if self.phase != "forming" or self._encoding != "done" or self._joined:
            return
        self._joined = True
        join = Join(
            round=self.context.ledger.round,
            attempt=self.attempt,
            key=self.key,
            prior=self.context.prior,
            role=self._role,
            upload=self._upload,
            contribution=self.local.header if self.local else None,
            lock=self._voter.lock,
        )
        self._send(self.context.leader(self.attempt), sign(join, self.context.signer))

    def _form_if_complete(self, now: float) -> None:
        if self._leader is not None and self.roster is None and self._leader.everyone_joined:
            self._form(now)

    def _form(self, now: float) -> None:
        assert self._leader is not None
        roster = self._leader.form()
        if isinstance(roster, str):
            self._fail(roster, now)
            return
        for join in roster.members:
            self._send(join.key, roster)

    def _on_roster(self, sender: bytes, roster: Roster, now: float) -> None:
        if roster.attempt < self.attempt or self.roster is not None or self.phase not in ("forming", "idle"):
            raise MessageError("stale", f"roster of attempt {roster.attempt}")
        if roster.prior != self.context.prior:
            raise MessageError("wrong_branch", "a roster from another branch")
        self.context.check_roster(roster)
        if self.key not in {join.key for join in roster.members}:
            raise MessageError("left_out", "the roster was closed without us")
        if roster.attempt > self.attempt:
            raise MessageError("unasked", "a roster of an attempt that we did not join")
        self.roster = roster
        staged = self._staged[0] if self._staged is not None else None
        self._certification = Certification(self.context, self._voter, roster, self._leader, staged)
        timing = self.context.timing
        grace = 1.0 if self._leader is not None else 1.5
        if roster.locked is not None:
            self.phase = "certifying"
            self._deadline = now + grace * timing.scaled(timing.certify_s, self.attempt)
            if self._leader is not None:
                self._emit(self._certification.propose(roster.locked.value, roster.locked))
            return
        self.phase = "exchanging"
        self._deadline = now + grace * timing.scaled(timing.exchange_s, self.attempt)
        self._exchange = Exchange(self.context, roster)
        self._emit(self._exchange.start(self.local))
        self._cut_if_done(now)

    def _on_receipt(self, receipt: Receipt, now: float) -> None:
        if self._leader is None:
            raise MessageError("not_the_leader")
        self._leader.receipt(receipt)
        self._cut_if_done(now)

    def _cut_if_done(self, now: float) -> None:
        if self._leader is not None and self._leader.cut is None and self._leader.exchange_done:
            self._fix_cut(now)

    def _fix_cut(self, now: float) -> None:
        assert self._leader is not None
        assert self.roster is not None
        cut = self._leader.fix_cut()
        if isinstance(cut, str):
            self._fail(cut, now)
            return
        left_out = self._leader.left_out()
        if left_out:
            self._out.append(LeftOut(left_out, "slices_missing"))
        for join in self.roster.members:
            self._send(join.key, cut)

    def _on_cut(self, cut: Cut, now: float) -> None:
        if self._exchange is None:
            raise MessageError("unasked", "a cut without an exchange")
        self._emit(self._exchange.cut(cut))
        timing = self.context.timing
        grace = 1.0 if self._leader is not None else 1.5
        self.phase = "certifying"
        both = timing.certify_s + timing.exchange_s
        self._deadline = now + grace * timing.scaled(both, self.attempt)

    # -- certificate ---------------------------------------------------------------------------------

    def _on_vote(self, vote: Vote, now: float) -> None:
        assert self._certification is not None
        out, certificate = self._certification.vote(vote)
        self._emit(out)
        if certificate is not None:
            self.announce(certificate)
            self._on_committed(certificate)

    def announce(self, certificate: Certificate) -> None:
        """Tell everyone we reach that the round is committed."""
        message = Committed(
            round=self.context.ledger.round, attempt=certificate.attempt, certificate=certificate
        )
        members = {join.key for join in self.roster.members} if self.roster else set()
        for peer in sorted(members | self._reachable):
            if peer != self.key:
                self._send(peer, message)

    def _on_committed(self, certificate: Certificate) -> None:
        value = certificate.value
        if (value.swarm, value.round, value.prior) != (
            self.context.rules.swarm,
            self.context.ledger.round,
            self.context.prior,
        ):
            raise MessageError("wrong_branch", "a certificate of another branch")
        check_certificate(certificate, self.context.ledger.voters, self.context.verify)
        if self._staged is not None and self._staged[0] == value:
            self.phase, self._deadline = "done", None
            self._out.append(Commit(certificate, self._staged[1]))
        elif certificate.weak and self.phase not in ("idle", "forming"):
            raise MessageError("weak", "a weak certificate while our own attempt is running")
        else:
            self.phase, self._deadline = "done", None
            self._out.append(NeedState(certificate))

    # -- outputs -------------------------------------------------------------------------------------

    def _send(self, to: bytes, message: Message) -> None:
        """Send, or deliver to ourselves after the current step."""
        if to == self.key:
            self._inbox.append(message)
        else:
            self._out.append(Send(to, message))

    def _emit(self, outputs: list[Output]) -> None:
        """Queue outputs; messages to ourselves are delivered after the current step."""
        for output in outputs:
            if isinstance(output, Apply):
                self._staged = None  # the staged state is about to be overwritten
            if isinstance(output, Send):
                self._send(output.to, output.message)
            else:
                self._out.append(output)

    def _flush(self, now: float) -> list[Output]:
        """Deliver messages to ourselves, then hand over what is to be done."""
        while self._inbox:
            self._receive(self.key, self._inbox.pop(0), now)
        out, self._out = self._out, []
        return out
