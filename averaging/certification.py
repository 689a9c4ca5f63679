"""The two-phase vote of one attempt, from the proposal to the certificate (Tendermint, HotStuff-2)."""

from msgspec import UNSET

from talkoot.averaging.certificate import Certificate, Prepared, Value, check_cut
from talkoot.averaging.context import Context
from talkoot.averaging.leader import Leader
from talkoot.averaging.messages import Lock, MessageError, Proposal, Roster, Vote
from talkoot.averaging.outputs import Obtain, Output, Persist, Send
from talkoot.averaging.succession import ledger_after
from talkoot.averaging.voting import Voter


class Certification:
    """A member's side, and the leader's if we lead. Methods raise MessageError or CertificateError."""

    def __init__(
        self,
        context: Context,
        voter: Voter,
        roster: Roster,
        leader: Leader | None,
        staged: Value | None,
    ) -> None:
        self._context = context
        self._voter = voter
        self._roster = roster
        self._leader = leader
        self._held: Proposal | None = None
        self._staged = staged
        """What we computed ourselves, in this attempt or an earlier one."""
        self._computing = roster.locked is None
        """Whether this attempt will still give us a value of its own."""
        self._obtaining = False

    def _to_voters(self, message: Proposal | Lock) -> list[Output]:
        voters = self._context.ledger.voters
        return [Send(join.key, message) for join in self._roster.members if join.key in voters]

    def propose(self, value: Value, prepared: Prepared | None) -> list[Output]:
        """As leader: propose what the round consists of."""
        assert self._leader is not None
        self._leader.propose(value)
        proposal = Proposal(
            round=self._context.ledger.round,
            attempt=self._roster.attempt,
            value=value,
            weak=self._roster.weak,
            prepared=prepared,
        )
        return self._to_voters(proposal)

    def stage(self, value: Value) -> list[Output]:
        """We computed the round's result: propose it if we lead, vote if it was proposed already."""
        self._staged, self._computing = value, False
        out = self.propose(value, None) if self._leader is not None else []
        return out + (self.proposal(self._held) if self._held is not None else [])

    def obtained(self, value: Value) -> list[Output]:
        """We hold the result of a value that was prepared without us: vote if it is proposed."""
        self._staged = value
        return self.proposal(self._held) if self._held is not None else []

    def proposal(self, proposal: Proposal) -> list[Output]:
        """Vote for what the leader proposes, if it is what we computed and no lock forbids it.

        What a quorum prepared must not be lost with the memory of one of them: a voter that does not hold
        its result (it restarted, or was not there) obtains it from those that do.
        """
        if proposal.weak != self._roster.weak:
            raise MessageError("malformed", "a proposal that is not as weak as its roster")
        if proposal.prepared is not None:
            self._context.check_lock(proposal.prepared)
        if not self._context.votes_in(self._roster):
            return []
        if self._staged != proposal.value and proposal.prepared is not None:
            matches = proposal.prepared.value == proposal.value
            out = self._obtain(proposal.prepared) if matches else []
            self._held = proposal
            return out
        if self._staged is None or (self._staged != proposal.value and self._computing):
            self._held = proposal
            return []
        self._held = None
        if self._staged != proposal.value:
            raise MessageError("different_value", "the proposal is not what we computed")
        if proposal.prepared is None:  # or a quorum has nothing against it, and the round must not fork
            self._vouch(proposal.value)
        vote = self._voter.prepare(proposal.value, self._roster.attempt, proposal.weak, proposal.prepared)
        return self._say(vote)

    def _vouch(self, value: Value) -> None:
        """A new voter needs more than what it earned: a quorum that has nothing against it."""
        promoted = value.promoted if value.promoted is not UNSET else ()
        if not all(map(self._context.vouches, promoted)):
            raise MessageError("objection", "a new voter that we do not vouch for")

    def _obtain(self, prepared: Prepared) -> list[Output]:
        """The digest that the result will be compared with says nothing of the voters that follow: they must
        be those of the ledger that we compute ourselves."""
        if self._obtaining:
            return []
        value, key = prepared.value, self._context.key
        check_cut(value, self._context.verify)
        ledger = ledger_after(value, self._context.ledger, self._context.rules)
        self._obtaining = True
        members = [join.key for join in self._roster.members if join.key != key]
        voted = {vote.voter for vote in prepared.votes}
        holders = sorted(members, key=lambda member: member not in voted)
        return [Obtain(value, ledger, tuple(holders))]

    def lock(self, lock: Lock) -> list[Output]:
        """Lock on a prepare certificate of this attempt and commit."""
        prepared = lock.prepared
        if (prepared.attempt, prepared.weak) != (self._roster.attempt, self._roster.weak):
            raise MessageError("stale", "a lock of another attempt")
        self._context.check_prepared(prepared)
        return self._say(self._voter.commit(prepared)) if self._context.votes_in(self._roster) else []

    def _say(self, vote: Vote) -> list[Output]:
        """Journal first, then speak."""
        return [Persist(self._voter.journal.encode()), Send(self._roster.leader, vote)]

    def vote(self, vote: Vote) -> tuple[list[Output], Certificate | None]:
        """As leader: count a vote; a quorum of prepares is shown to all, one of commits is a certificate."""
        if self._leader is None:
            raise MessageError("not_the_leader")
        done = self._leader.vote(vote)
        if isinstance(done, Prepared):
            lock = Lock(round=self._context.ledger.round, attempt=self._roster.attempt, prepared=done)
            return self._to_voters(lock), None
        return [], done
