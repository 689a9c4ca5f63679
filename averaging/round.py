"""One round as one peer sees it: attempts with rotating leaders until a certificate ends it.

A state machine without I/O. Its driver tells it what happened (`close`, `receive`, `receive_bulk`,
`encoded`, `aggregated`, `decoded`, `applied`, `reachable`, `tick`) and carries out the outputs that each
call returns, in order. Time is whatever monotonic clock the driver passes as `now`, in seconds.

An attempt goes through: forming (joins), exchanging (slices, receipts, cut, aggregates), certifying
(proposal, prepare, commit). Every phase has a deadline; when it passes, or the leader or a reducer is
lost, the next voter leads the next attempt with the same contributions.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Literal

from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.attempt import Attempt, AttemptFailed, AttemptPhase
from talkoot.averaging.blobs import BlobStore
from talkoot.averaging.certificate import Certificate, CertificateError
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.leader import NOTHING, SAID_NOTHING
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import (
    Ahead,
    BulkHeader,
    Call,
    Committed,
    Fetching,
    Join,
    Message,
    MessageError,
    Role,
)
from talkoot.averaging.outputs import (
    Apply,
    AttemptOver,
    Behind,
    Commit,
    Encode,
    GaveUp,
    NeedState,
    Obtain,
    Output,
    Refused,
    Send,
)
from talkoot.averaging.parts import Part
from talkoot.averaging.pulls import Pulls
from talkoot.averaging.slices import Slices
from talkoot.averaging.staged import Staged
from talkoot.averaging.voting import Journal, Voter

MAX_JUMP = 16
"""Attempts that a peer lets itself be moved forward at once."""

Phase = Literal["idle", "done"] | AttemptPhase


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
        suspects: frozenset[bytes] = frozenset(),
        yields: bool = False,
    ) -> None:
        """Start in phase idle. Before `earliest` (on the driver's clock) no leader's call is followed;
        `suspects` are those of the round before. `yields`: our link is bad, others lead where they can."""
        self.context = context
        self.almost = False
        """Set by the driver: the round is about to close by its own reckoning; another's join closes it."""
        self.local: LocalContribution | None = None
        self._encoding: Literal["no", "running", "done"] = "no"
        self._role: Role = role
        self._upload = upload
        self._yields = yields
        self._earliest = earliest
        self._voter = Voter(context, journal)
        self.attempt = self._voter.last_attempt + 1
        """Number of the running attempt, or of the next one."""
        self._running: Attempt | None = None
        self._done = False
        self._staged = Staged()
        self._certified: Certificate | None = None
        """The certificate of the running attempt, when it came before our own result."""
        self._reachable: set[bytes] = set()
        self.suspects = suspects
        """Peers that kept the others waiting and were not heard of since: nobody waits for them."""
        self.slices = Slices()
        """What we hold as a reducer."""
        self.parts: tuple[Part, ...] = ()
        """Of the last roster that we saw."""
        self._pulls = Pulls(len(context.ledger.voters))
        self._failures = 0
        self._early: dict[bytes, Join] = {}
        self._held_call: tuple[bytes, Call] | None = None
        self._blobs = BlobStore()
        self._out: list[Output] = []
        self._inbox: list[Message] = []

    # -- what the driver calls -----------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """idle, forming, exchanging, certifying or done."""
        if self._done:
            return "done"
        return self._running.phase if self._running is not None else "idle"

    @property
    def next_tick(self) -> float | None:
        """When `tick` should be called next, if nothing happens before."""
        if self._done:
            return None
        if self._running is not None:
            return self._running.next_tick
        return self._earliest if self._held_call else None

    @property
    def asked(self) -> bool:
        """Whether others have joined an attempt that we lead and have not begun."""
        return bool(self._early)

    @property
    def lingers(self) -> bool:
        """Whether others may want something of this round after it is over here."""
        return self._done and self._running is not None and self._running.serves

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
        if self._running is not None and not self._done:
            self._emit(self._running.call(new))
        for peer in sorted(lost):
            self._early.pop(peer, None)
            running = self._running
            if running is not None and not self._done:
                self._try(lambda running=running, peer=peer: running.lost(peer, now), now)  # type: ignore[misc]
        return self._flush(now)

    @property
    def last(self) -> Attempt | None:
        """The running attempt, or the one that ended the round."""
        return self._running

    def tick(self, now: float) -> list[Output]:
        """Time has passed."""
        running = self._running
        if running is not None:
            if not self._done and now >= running.deadline:
                self._try(running.time_out, now)
            elif not self._done and now >= running.next_tick:
                self._emit(running.tick(now))
        elif self._held_call and now >= self._earliest:
            (sender, call), self._held_call = self._held_call, None
            self._receive(sender, call, now)
        return self._flush(now)

    def receive(self, sender: bytes, message: Message, now: float) -> list[Output]:
        """A control message from an authenticated peer."""
        self._receive(sender, message, now)
        return self._flush(now)

    def expects(self, header: BulkHeader) -> Literal["now", "later", "never"]:
        """Whether a bulk frame can be taken: `later` means once its roster is known here."""
        here = (self.context.ledger.round, self.attempt)
        there = (header.round, header.attempt)
        if there < here or (self._done and header.round == self.context.ledger.round):
            return "never"
        exchanges = self._running is not None and self._running.exchanges
        return "now" if there == here and exchanges else "later"

    def receive_bulk(
        self, sender: bytes, header: BulkHeader, payload: bytes | memoryview, now: float
    ) -> list[Output]:
        """A bulk frame from an authenticated peer."""
        self.suspects -= {sender}
        running = self._running
        if running is None or self.expects(header) != "now":
            self._out.append(Refused(sender, "unasked", "bulk for another attempt"))
        else:
            try:
                self._emit(running.bulk(sender, header, payload, now))
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
        if (running := self._running_in(attempt)) is not None:
            self._try(lambda: running.aggregated(encoded), now)
        return self._flush(now)

    def decoded(self, attempt: int, reducer: bytes, now: float) -> list[Output]:
        """The job `DecodePart` is done."""
        if (running := self._running_in(attempt)) is not None:
            self._try(lambda: running.decoded(reducer), now)
        return self._flush(now)

    def applied(self, attempt: int, digest: bytes, ledger: Ledger, now: float) -> list[Output]:
        """The job `Apply` is done: the staged state has this digest."""
        running = self._running_in(attempt)
        value = running.value(digest, ledger) if running is not None else None
        if running is not None and value is not None:
            self._staged.hold(value, ledger)
            if self._certified is not None:
                self._on_committed(self._certified, now)
            else:
                self._try_staged(lambda: running.stage(value), now)
        return self._flush(now)

    def obtained(self, job: Obtain, success: bool, now: float) -> list[Output]:
        """The job `Obtain` is done: whether the staged state is the result of its value."""
        running = self._running
        if self._staged.obtained(job, success) and running is not None and not self._done:
            self._try_staged(lambda: running.obtained(job.value), now)
        return self._flush(now)

    # -- attempts ------------------------------------------------------------------------------------

    def _running_in(self, attempt: int) -> Attempt | None:
        """The running attempt, if it is the one that a job was for."""
        return self._running if attempt == self.attempt and not self._done else None

    def _try(self, step: Callable[[], list[Output]], now: float) -> None:
        """A step of the running attempt, which may fail it."""
        try:
            self._emit(step())
        except AttemptFailed as failure:
            self._fail(failure, now)

    def _try_staged(self, step: Callable[[], list[Output]], now: float) -> None:
        """A step that follows from what is staged, and fails the attempt where it cannot be taken."""
        try:
            self._try(step, now)
        except (MessageError, CertificateError) as error:
            self._fail(AttemptFailed(error.reason), now)

    def _start_attempt(self, attempt: int, now: float) -> None:
        """Enter the forming phase of an attempt; leaders out of reach are skipped, and we if we yield."""
        self.attempt, self._running = attempt, None
        yields = self._yields and attempt < len(self.context.ledger.voters)
        able = self.context.able(self._reachable, self.suspects, yields=yields)
        while self.context.leader(self.attempt) not in able:
            if not self._one_more_failure("leaders_unreachable"):
                return
            self.attempt += 1
        running = Attempt(
            self.context,
            self.attempt,
            self._voter,
            reachable=self._reachable,
            suspects=self.suspects,
            slices=self.slices,
            parts=self.parts,
            blobs=self._blobs,
            desperate=self._failures >= len(self.context.ledger.voters),
            now=now,
        )
        self._running = running
        self._emit(running.call(self._reachable))
        early, self._early = self._early, {}
        for join in early.values():
            if join.attempt == self.attempt:
                self._receive(join.key, join, now)
        if self._encoding == "no":
            self._encoding = "running"
            self._out.append(Encode())
        self._join()

    def _one_more_failure(self, reason: str) -> bool:
        """Count an attempt that came to nothing; False when the round is given up for now."""
        self._failures += 1
        if self._failures < max(self.context.timing.max_attempts, 2 * len(self.context.ledger.voters)):
            return True
        self._give_up(reason)
        return False

    def _give_up(self, reason: str) -> None:
        """No attempt for now; the next one is the driver's to begin, or another peer's."""
        self._running = None
        self.attempt += 1
        if self._encoding == "done" and self.local is None:
            self._encoding = "no"  # there may be something to contribute when the round is tried again
        self._out.append(GaveUp(reason))

    def _fail(self, failure: AttemptFailed, now: float) -> None:
        """End this attempt and start the next, unless the round turned out to be over."""
        if self._certified is not None:
            self._done = True
            self._out.append(NeedState(self._certified))
            return
        self._suspect(failure.suspects)
        if self._running is not None:
            self._emit(self._running.abort(failure))
        self._out.append(AttemptOver(self.attempt, failure.reason, tuple(sorted(failure.suspects))))
        if failure.reason in SAID_NOTHING and self.local is None:
            self._give_up(NOTHING)  # no other leader would find more; who has something goes on
        elif self._one_more_failure(failure.reason):
            self._start_attempt(self.attempt + 1, now)

    def _suspect(self, peers: AbstractSet[bytes]) -> None:
        """Hardly wait for these, and forget whoever cannot be waited for: a leader names what it likes."""
        members = self._running.members if self._running is not None else ()
        others = {*self._reachable, *self.context.ledger.voters, *members} - {self.context.key}
        self.suspects = (self.suspects | peers) & others

    # -- messages ------------------------------------------------------------------------------------

    def _receive(self, sender: bytes, message: Message, now: float) -> None:
        self.suspects -= {sender}
        if message.round > self.context.ledger.round:
            self._out.append(Behind(sender, message.round))
            return
        if self.phase == "done" and isinstance(message, Fetching):
            self._serve(sender, message, now)
            return
        if message.round < self.context.ledger.round or self.phase == "done":
            self._out.append(Refused(sender, "stale", f"round {message.round}"))
            return
        try:
            self._dispatch(sender, message, now)
        except (MessageError, CertificateError) as error:
            self._out.append(Refused(sender, error.reason, f"{type(message).__name__}: {error}"))

    def _serve(self, sender: bytes, message: Fetching, now: float) -> None:
        """Others may still lack pieces of a round that is over here."""
        here = (self.context.ledger.round, self.attempt)
        if self._running is not None and (message.round, message.attempt) == here:
            with suppress(MessageError):
                self._emit(self._running.fetching(sender, message, now))

    def _dispatch(self, sender: bytes, message: Message, now: float) -> None:
        match message:
            case Call():
                self._on_call(sender, message, now)
            case Ahead():
                self._on_ahead(sender, message, now)
            case Join():
                self._on_join(sender, message, now)
            case Committed():
                self._on_committed(message.certificate, now)
            case _:
                running = self._running_in(message.attempt)
                if running is None:
                    raise MessageError("stale", f"attempt {message.attempt}, here it is {self.attempt}")
                self._receive_in(running, sender, message, now)

    def _receive_in(self, running: Attempt, sender: bytes, message: Message, now: float) -> None:
        """A message of the running attempt."""
        known = running.roster
        held = self._staged.value
        self._try(lambda: running.receive(sender, message, local=self.local, staged=held, now=now), now)
        if running.roster is not known and running.roster is not None and running.roster.parts:
            self.parts = running.roster.parts
        if running.certificate is not None and not self._done:
            self._emit(running.announce(self._reachable))
            self._on_committed(running.certificate, now)

    def _on_call(self, sender: bytes, call: Call, now: float) -> None:
        if call.prior != self.context.prior:
            raise MessageError("wrong_branch", "a call from another branch")
        if sender != self.context.leader(call.attempt):
            raise MessageError("not_the_leader")
        # Nothing binds a peer to its attempt that has no vote, and that the attempt's leader did not call.
        voter = self.context.key in self.context.ledger.voters
        free = not voter and (self._running is None or bool(self._running.unheard))
        if call.attempt < self.attempt and not free:
            self._send(sender, Ahead(round=self.context.ledger.round, attempt=self.attempt))
        elif now < self._earliest:
            self._held_call = (sender, call)
        elif call.attempt == self.attempt and self.phase == "forming" and self._running is not None:
            self._running.joined = False  # the leader lost what we said when our connection broke
            self._running.called(call, now)
            self._join()
        elif call.attempt != self.attempt or self.phase == "idle":
            self._jump(call.attempt, now, by=sender)
            if self._running is not None and self._running.number == call.attempt:
                self._running.called(call, now)

    def _jump(self, attempt: int, now: float, by: bytes) -> None:
        """Follow others to another attempt, or out of idleness."""
        if attempt > self.attempt + MAX_JUMP:
            raise MessageError("too_far", f"attempt {attempt}, here it is {self.attempt}")
        if self._running is not None and attempt != self.attempt:
            self._pulls.use(by)
            self._suspect(self._running.unheard)
            self._out.append(AttemptOver(self.attempt, "others_ahead"))
        self._start_attempt(attempt, now)

    def _on_ahead(self, sender: bytes, ahead: Ahead, now: float) -> None:
        if sender not in self.context.ledger.voters:
            raise MessageError("not_a_voter")
        if self.phase == "forming" and ahead.attempt > self.attempt:
            self._jump(ahead.attempt, now, by=sender)

    def _on_join(self, sender: bytes, join: Join, now: float) -> None:
        if sender != join.key:
            raise MessageError("unasked", "a join on behalf of another peer")
        if self.context.leader(join.attempt) != self.context.key:
            raise MessageError("not_the_leader", "a join for an attempt that we do not lead")
        running = self._running_in(join.attempt)
        if running is not None:
            self._receive_in(running, sender, join, now)
            return
        if join.attempt < self.attempt:
            self._send(sender, Ahead(round=self.context.ledger.round, attempt=self.attempt))
            return
        self.context.check_join(join)
        self._early[sender] = join
        wanted = self.almost and now >= self._earliest and self.phase == "idle"
        overtaken = self.phase == "forming" and sender in self.context.ledger.voters
        if wanted or overtaken:
            self._jump(join.attempt, now, by=sender)

    def _join(self) -> None:
        """Send our join to the leader once the contribution is ready."""
        running = self._running
        if running is None or self.phase != "forming" or self._encoding != "done" or running.joined:
            return
        running.joined = True
        join = self.context.join(
            self.attempt,
            role=self._role,
            upload=self._upload,
            contribution=self.local.header if self.local else None,
            lock=self._voter.lock,
            holds=self.slices.held(self.context.key) if self.attempt > 0 else (),
        )
        self._send(self.context.leader(self.attempt), join)

    def _on_committed(self, certificate: Certificate, now: float) -> None:
        self.context.check_certificate(certificate)
        running, idle = self._running_in(certificate.attempt), self.phase in ("idle", "forming")
        ledger = self._staged.ledger_after(certificate.value)
        if certificate.weak and ledger is None and self._certified is None:
            ours = running is not None and running.weak
            if not ours and not (idle and self.context.needs(certificate, self._reachable)):
                raise MessageError("weak", "a weak certificate while we try, or can do without")
        if running is not None and self._certified is None:
            running.committed(now)
        if ledger is not None:
            self._done = True
            self._out.append(Commit(certificate, ledger))
        elif self._certified is None and running is not None and running.exchanges:
            self._certified = certificate  # our own work on it is about to be done
        else:
            self._done = True
            self._out.append(NeedState(certificate))

    # -- outputs -------------------------------------------------------------------------------------

    def _send(self, to: bytes, message: Message) -> None:
        """Send, or deliver to ourselves after the current step."""
        if to == self.context.key:
            self._inbox.append(message)
        else:
            self._out.append(Send(to, message))

    def _emit(self, outputs: list[Output]) -> None:
        """Queue outputs; messages to ourselves are delivered after the current step."""
        for output in outputs:
            if isinstance(output, Obtain) and self._staged.obtains(output.value):
                continue  # since an attempt before
            if isinstance(output, Apply | Obtain):
                self._staged.begin(output)
            if isinstance(output, Send):
                self._send(output.to, output.message)
            else:
                self._out.append(output)

    def _flush(self, now: float) -> list[Output]:
        """Deliver messages to ourselves, then hand over what is to be done."""
        while self._inbox:
            self._receive(self.context.key, self._inbox.pop(0), now)
        out, self._out = self._out, []
        return out
