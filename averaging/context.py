"""What all parts of one round share: the state before it, the rules, and our own key."""

from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property

from msgspec import UNSET

from talkoot.averaging.branches import outvoted
from talkoot.averaging.certificate import (
    Certificate,
    CertificateError,
    Contribution,
    Prepared,
    check_certificate,
    check_votes,
)
from talkoot.averaging.claims import Claim, claim_of
from talkoot.averaging.deadlines import Pace, Phase, ceiling
from talkoot.averaging.fairness import is_fair
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.memory import Memory, deciding, shows_all
from talkoot.averaging.messages import MAX_MEMBERS, Held, Join, MessageError, Role, Roster, sign, signed_by
from talkoot.averaging.parts import Part, parts_problem
from talkoot.averaging.quorum import leader_of, leader_order, max_faulty, quorum
from talkoot.averaging.reputation import (
    banned,
    by_lot,
    first_audited,
    places_on_probation,
    proven,
    subject_of,
)
from talkoot.averaging.revocations import MAX_REVOKED, NOBODY, Revocation, is_revoked, problem
from talkoot.averaging.revocations import check as check_revocation
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.rules import Door, Rules, Timing
from talkoot.averaging.signing import Signer, Verify
from talkoot.averaging.verdicts import Verdict, check
from talkoot.compression.codec import Codec


@dataclass(frozen=True, kw_only=True)
class Context:
    """Constant for the length of one round."""

    ledger: Ledger
    prior: bytes
    """Digest of the outer state that the round starts from."""
    rules: Rules
    timing: Timing
    signer: Signer
    verify: Verify
    memory: Memory = "whole"
    """Whether we know what we signed before in this round."""
    door: Door | None = None
    """Whom a leader lets in, beside what the rules say; None: everybody."""
    pace: Pace = field(default_factory=Pace)
    """How long the phases of rounds before took."""
    barred: frozenset[bytes] = frozenset()
    """Who gets no part when we lead, where there are others: proven liars, and whom we do not trust."""
    convicted: frozenset[bytes] = frozenset()
    """Against whom there is a proof that all may be expected to know: they neither lead nor reduce."""
    counted: frozenset[bytes] = frozenset()
    """Who was counted in the round before, and is to be in this one until `counted_until`, on our clock."""
    counted_until: float = 0.0
    verdict: Callable[[], Verdict | None] = lambda: None
    """Our verdict on the contribution that we have to audit, signed, once there is one; asked before each of
    our joins. None: nothing is waited for."""
    revoked: Callable[[], tuple[Revocation, ...]] = lambda: ()
    """Invite keys that we take back as a founder, ascending, at most `MAX_REVOKED`; asked before each of our
    joins."""
    vouches: Callable[[bytes], bool] = lambda _key: True
    """Our opinion whether a contributor that earned it may become a voter. It acts through votes alone: whom
    we propose as leader, and what we prepare."""

    @cached_property
    def order(self) -> list[bytes]:
        """Voters in the order in which they lead."""
        return leader_order(self.ledger.voters, self.prior)

    @property
    def key(self) -> bytes:
        """Our key."""
        return self.signer.key

    @cached_property
    def banned(self) -> frozenset[bytes]:
        """Whose joins are refused, since their contributions kept hurting."""
        return banned(self.ledger)

    @cached_property
    def _proven(self) -> frozenset[bytes]:
        return proven(self.ledger, self.rules)

    @cached_property
    def _first_audited(self) -> frozenset[bytes]:
        return first_audited(self.ledger, self.rules)

    def is_newcomer(self, key: bytes) -> bool:
        """Whether a peer of an open swarm has earned nothing yet, so that few of its kind have places. Only
        where trainers are audited."""
        if self.rules.audits is None or self.rules.invited_vote:
            return False
        return key not in self.ledger.voters and key not in self.rules.founders and key not in self._proven

    def places(self, keys: Collection[bytes]) -> list[bytes]:
        """Which of those who joined have places in the roster: all but for newcomers beyond an eighth, who
        draw lots."""
        newcomers = {key for key in keys if self.is_newcomer(key)}
        num_others = len(keys) - len(newcomers)
        most = min(places_on_probation(num_others), MAX_MEMBERS - num_others)
        return sorted({*by_lot(newcomers, self.prior)[:most], *(set(keys) - newcomers)})

    def votes_in(self, roster: Roster) -> bool:
        """Whether we are a voter that may speak in this attempt."""
        if self.key not in self.ledger.voters:
            return False
        if self.memory == "whole" or roster.weak:
            return True
        shown = [join.lock.attempt for join in roster.members if join.lock is not None]
        locked = roster.locked.attempt if roster.locked is not None else None
        return self.key in self._deciding(roster.members) and shows_all(locked, shown)

    def _deciding(self, joins: Iterable[Join]) -> frozenset[bytes]:
        return deciding(self.ledger.voters, {join.key: join.memory for join in joins})

    def aggregate_codec(self, reducer: bytes) -> Codec:
        """The codec in which a peer encodes its part of the aggregate."""
        return codec_of(self.ledger.aggregate_codec, self.prior, reducer)

    def claim(self, part: Part, hashes: Sequence[bytes], cut: Iterable[Contribution]) -> Claim:
        """What the reducer of a part signs whose chunks have these hashes, without its signature."""
        swarm, number = self.rules.swarm, self.ledger.round
        return claim_of(part, hashes, cut, swarm=swarm, round_number=number, prior=self.prior)

    def leader(self, attempt: int) -> bytes:
        """Who leads an attempt."""
        return leader_of(self.order, attempt)

    def able(
        self, reachable: AbstractSet[bytes], suspects: AbstractSet[bytes], *, yields: bool
    ) -> AbstractSet[bytes]:
        """Who may lead, of those we reach and ourselves; not we where we would rather not (`yields`) and
        another voter can."""
        others = reachable - suspects - self.convicted or reachable
        return others if yields and not others.isdisjoint(self.ledger.voters) else others | {self.key}

    def is_weak(self, joins: Iterable[Join]) -> bool:
        """Whether those who joined cannot make the round final."""
        return len(self._deciding(joins)) < quorum(len(self.ledger.voters))

    def is_fair(self, cut: Collection[bytes], roster: Roster, held: AbstractSet[bytes], now: float) -> bool:
        """Whether we go on with a cut (`fairness`), holding all there is of `held`. Where some may lie, and a
        quorum is there."""
        voters = set(self.ledger.voters)
        if roster.weak or max_faulty(len(voters)) == 0:
            return True
        usual = voters & self.counted & {join.key for join in roster.members}
        return is_fair(set(cut), held=held & voters, usual=usual if now < self.counted_until else set())

    def may_become_final(self, joins: Sequence[Join], reachable: AbstractSet[bytes]) -> bool:
        """Whether those who joined would be a quorum with the voters that we reach beside them. Where some
        may lie: a leader might see nobody but its friends."""
        voters = self.ledger.voters
        others = reachable & set(voters) - {join.key for join in joins}
        return max_faulty(len(voters)) > 0 and len(self._deciding(joins)) + len(others) >= quorum(len(voters))

    def needs(self, weak: Certificate, reachable: Collection[bytes]) -> bool:
        """Whether the round can hardly be made final without those who certified it weakly."""
        return not outvoted([weak], self.ledger.voters, {*reachable, self.key})

    def join(
        self,
        attempt: int,
        *,
        role: Role,
        upload: float,
        contribution: Contribution | None,
        lock: Prepared | None,
        holds: tuple[Held, ...],
    ) -> Join:
        """Our signed join for an attempt."""
        verdict = self.verdict()
        join = Join(
            round=self.ledger.round,
            attempt=attempt,
            key=self.key,
            prior=self.prior,
            role=role,
            upload=upload,
            contribution=contribution,
            lock=lock,
            holds=holds,
            expects_s=self.pace.all_expected_s,
            memory=self.memory,
            verdict=UNSET if verdict is None else verdict,
            revoked=self.revoked() or UNSET,
        )
        return sign(join, self.signer)

    def check_prepared(self, prepared: Prepared) -> None:
        """Raise CertificateError unless this is a prepare certificate of this round."""
        value = prepared.value
        if (value.swarm, value.round, value.prior) != (self.rules.swarm, self.ledger.round, self.prior):
            raise CertificateError("wrong_round", "a lock of another round")
        check_votes(
            value,
            prepared.votes,
            attempt=prepared.attempt,
            phase="prepare",
            weak=prepared.weak,
            voters=self.ledger.voters,
            verify=self.verify,
        )

    def check_certificate(self, certificate: Certificate) -> None:
        """Raise CertificateError or MessageError unless this certifies this round of this branch."""
        value = certificate.value
        if (value.swarm, value.round, value.prior) != (self.rules.swarm, self.ledger.round, self.prior):
            raise MessageError("wrong_branch", "a certificate of another branch")
        check_certificate(certificate, self.ledger.voters, self.verify)

    def check_lock(self, lock: Prepared) -> None:
        """Raise CertificateError unless this may bind voters of later attempts: weak votes never do.

        Otherwise one voter could make a lock of its own, on a value with nobody else present.
        """
        if lock.weak:
            raise CertificateError("weak", "a lock of weak votes")
        self.check_prepared(lock)

    def check_join(self, join: Join) -> None:
        """Raise CertificateError or MessageError unless this join may be part of this round."""
        if (join.round, join.prior) != (self.ledger.round, self.prior):
            raise MessageError("wrong_round", "join for another round or branch")
        if join.key in self.banned:
            raise MessageError("banned", "a join of a peer whose contributions kept hurting")
        if not signed_by(join, join.key, self.verify):
            raise MessageError("signature", "join not signed by its peer")
        if join.contribution is not None:
            self._check_contribution(join.contribution, join.key)
        if join.lock is not None:
            self.check_lock(join.lock)
        if join.verdict is not UNSET:
            self._check_verdict(join.verdict, join.key)
        if join.revoked is not UNSET:
            self._check_revoked(join.revoked, join.key)

    def _check_revoked(self, revoked: Sequence[Revocation], key: bytes) -> None:
        if len(revoked) > MAX_REVOKED:
            raise MessageError("oversized", f"{len(revoked)} revocations")
        if any(item.founder != key for item in revoked):
            raise MessageError("not_a_founder", "a revocation of another than the one that hands it in")
        refused = problem(revoked, self.ledger, self.rules)
        if refused is not None:
            raise MessageError(*refused)
        if not all(check_revocation(item, swarm=self.rules.swarm, verify=self.verify) for item in revoked):
            raise MessageError("signature", "a revocation not signed by its founder, or out of bounds")

    def _check_verdict(self, verdict: Verdict, key: bytes) -> None:
        if self.rules.audits is None or verdict.auditor != key or key not in self.ledger.voters:
            raise MessageError("unasked", "a verdict of a peer that audits nobody")
        swarm, number = self.rules.swarm, self.ledger.round
        if not check(verdict, swarm=swarm, round_number=number, prior=self.prior, verify=self.verify):
            raise MessageError("signature", "a verdict not signed by its auditor, or out of bounds")
        if verdict.subject != subject_of(key, self.ledger, self.prior, self.rules, self._first_audited):
            raise MessageError("wrong_draw", "a verdict on another contribution than the one drawn")

    def refusal(self, join: Join) -> str | None:
        """Why a leader keeps a sound join out of the roster, or None.

        In a swarm by invitation that is a newcomer whose invite does not hold now, or was taken back. Whom
        the ledger knows is not asked again.
        """
        rules = self.rules
        admitted = {use.peer for use in self.ledger.used} - {NOBODY}
        known = {*rules.founders, *rules.listed, *self.ledger.voters, *admitted}
        if self.door is None or not self.rules.invited_vote or join.key in known:
            return None
        if rules.listed:
            return "uninvited"
        if join.contribution is None:
            return None
        token = rules.admit(join.key, join.contribution.admission)
        if token is not None and is_revoked(token, self.ledger):
            return "revoked"
        return self.door(join.key, join.contribution.admission)

    def _check_contribution(self, contribution: Contribution, key: bytes) -> None:
        contribution.check(self.verify)
        expected = (self.rules.swarm, self.ledger.round, self.prior, key)
        stated = (contribution.swarm, contribution.round, contribution.prior, contribution.key)
        if stated != expected:
            raise MessageError("wrong_round", "contribution for another round, branch or peer")
        if (contribution.numel, contribution.codec) != (self.rules.numel, self.ledger.codec):
            raise MessageError("wrong_layout", "contribution of another size or codec")
        if contribution.steps * 8 < self.rules.inner_steps:
            raise MessageError("too_few_steps", f"{contribution.steps} steps")

    def check_roster(self, roster: Roster) -> None:
        """Raise CertificateError or MessageError unless a received roster is sound."""
        keys = [join.key for join in roster.members]
        if (roster.round, roster.prior) != (self.ledger.round, self.prior):
            raise MessageError("wrong_round", "roster for another round or branch")
        if roster.leader != self.leader(roster.attempt) or not signed_by(roster, roster.leader, self.verify):
            raise MessageError("signature", "roster not signed by the attempt's leader")
        if keys != sorted(set(keys)) or roster.leader not in keys:
            raise MessageError("malformed", "roster names a peer twice, out of order, or not its leader")
        newcomers = [key for key in keys if self.is_newcomer(key)]
        if len(newcomers) > places_on_probation(len(keys) - len(newcomers)):
            raise MessageError("full", f"{len(newcomers)} of {len(keys)} in the roster are newcomers")
        for join in roster.members:
            if join.attempt != roster.attempt:
                raise MessageError("wrong_round", "join of another attempt in the roster")
            self.check_join(join)
        if roster.weak != self.is_weak(roster.members):
            raise MessageError("malformed", "roster is weak without need, or not weak without a quorum")
        if roster.weak and roster.attempt < self.timing.weak_after:
            raise MessageError("too_early", "weak roster before others had their turn")
        lengths: dict[Phase, float] = {"exchange": roster.exchange_s, "certify": roster.certify_s}
        for phase, seconds in lengths.items():
            if not 0 < seconds <= ceiling(self.timing, phase, roster.attempt):
                raise MessageError("malformed", f"{phase} of {seconds} s")
        if roster.locked is not None:
            self.check_lock(roster.locked)
            return
        if self.rules.exchange == "sparse":
            if roster.parts:
                raise MessageError("malformed", "parts in a sparse exchange")
            return
        problem = parts_problem(roster.parts, self.rules.num_chunks, self.reducers(roster.members))
        if problem:
            raise MessageError("malformed", problem)

    def reducers(self, members: tuple[Join, ...]) -> set[bytes]:
        """Members that may aggregate: voters that are no clients; all voters where there is none. There is no
        proof against them, unless there is one against each."""
        voters = {join.key: join.role for join in members if join.key in self.ledger.voters}
        able = {key for key, role in voters.items() if role != "client"} or set(voters)
        return able - self.convicted or able
