"""The leader's part of an attempt: roster, cut, proposal, certificate."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from statistics import median_low

from msgspec import UNSET, UnsetType

from talkoot.averaging.blame import blamed
from talkoot.averaging.certificate import Certificate, Contribution, Prepared, Value
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import encoded_bytes
from talkoot.averaging.deadlines import PHASES, Limit, Phase, limit, link_seconds
from talkoot.averaging.messages import (
    MAX_MEMBERS,
    Cut,
    Holding,
    Join,
    MessageError,
    Receipt,
    Roster,
    Vote,
    sign,
    signed_by,
)
from talkoot.averaging.parts import Part, assign_parts, reassign
from talkoot.averaging.reputation import by_lot, places_for_voters, places_on_probation, promotable
from talkoot.averaging.succession import weigh
from talkoot.averaging.voting import Tally

NOTHING = "nothing_to_average"
"""Why an attempt ends in which nobody has anything to contribute."""

SAID_NOTHING = (NOTHING, f"leader: {NOTHING}")
"""In our own words, and in those of another peer that leads."""


def steps_seconds(senders: Iterable[Join]) -> float:
    """How long the steps of most took, in seconds; 0 when nobody contributes."""
    known = [join.contribution.milliseconds for join in senders if join.contribution is not None]
    return median_low(known) / 1000 if known else 0.0


class Leader:
    """Leads one attempt. Everything it decides is signed and checked by the others."""

    def __init__(
        self,
        context: Context,
        attempt: int,
        called: set[bytes],
        suspects: set[bytes],
        parts: tuple[Part, ...] = (),
    ) -> None:
        """Suspects are called but hardly waited for; `parts` are those of the attempt before, if any."""
        self._context = context
        self.attempt = attempt
        self._suspects = suspects
        self._called = {context.key}
        """Peers that were called and are still reachable."""
        self.expected = {context.key}
        """Those that are waited for: not suspected of being gone, and not refused."""
        self.called(called)
        self._parts_before = parts
        self.limits: dict[Phase, Limit] = {}
        self._joins: dict[bytes, Join] = {}
        self.roster: Roster | None = None
        self._receipts: dict[bytes, set[bytes]] = {}
        self._holdings: dict[bytes, Holding] = {}
        self.cut: Cut | None = None
        self.value: Value | None = None
        self._prepares: Tally | None = None
        self._commits: Tally | None = None

    # -- forming -------------------------------------------------------------------------------------

    def called(self, peers: AbstractSet[bytes]) -> None:
        """These peers are asked to join; nobody waits for who would be refused."""
        self._called |= peers - self._context.banned
        self.expected |= peers - self._suspects - self._context.banned

    def join(self, join: Join) -> str | None:
        """Take a peer's join; or the reason why it is kept out. Raises MessageError or CertificateError."""
        if self.roster is not None:
            raise MessageError("late", "the roster is closed")
        if join.attempt != self.attempt:
            raise MessageError("wrong_round", "a join for another attempt")
        known = {key for key in self._joins if not self._context.is_newcomer(key)}
        if join.key not in self._joins and len(known) >= MAX_MEMBERS:
            raise MessageError("full", "the group is full")
        self._context.check_join(join)
        refusal = self._context.refusal(join)
        if refusal is not None:
            self.expected.discard(join.key)
            self._called.discard(join.key)
            return refusal
        self._joins.setdefault(join.key, join)
        self._called.add(join.key)
        self.expected.add(join.key)
        self._spare()
        return None

    def _spare(self) -> None:
        """Keep no more newcomers' joins than a roster has places for at most: those that the lot prefers."""
        newcomers = [key for key in self._joins if self._context.is_newcomer(key)]
        for key in by_lot(newcomers, self._context.prior)[places_on_probation(MAX_MEMBERS) :]:
            del self._joins[key]
            self.expected.discard(key)
            self._called.discard(key)

    @property
    def joined(self) -> tuple[bytes, ...]:
        """Who has joined."""
        return tuple(self._joins)

    @property
    def everyone_joined(self) -> bool:
        """Whether nobody else is called."""
        return self._called <= set(self._joins)

    @property
    def only_suspects_missing(self) -> bool:
        """Whether a quorum and all that are not suspected have joined."""
        joined = set(self._joins)
        return self.expected <= joined and not self._context.is_weak(self._joins.values())

    def lost(self, peer: bytes) -> None:
        """A peer is gone: do not wait for it."""
        self.expected.discard(peer)
        self._called.discard(peer)
        if self.roster is None:
            self._joins.pop(peer, None)

    def form(self, took_s: float) -> Roster | str:
        """Close the roster, the last join having come after `took_s`; or why this attempt cannot go on."""
        members = tuple(self._joins[key] for key in self._context.places(self._joins.keys()))
        locked = max(
            (join.lock for join in members if join.lock is not None),
            key=lambda lock: lock.attempt,
            default=None,
        )
        weak = self._context.is_weak(members)
        if weak and self.attempt < self._context.timing.weak_after:
            return "no_quorum"
        if locked is None and not any(join.contribution for join in members):
            return NOTHING
        parts = () if locked else self._parts(members)
        reducers = {part.reducer for part in parts}
        self.limits = self._limits([join for join in members if join.contribution or join.key in reducers])
        roster = Roster(
            round=self._context.ledger.round,
            attempt=self.attempt,
            leader=self._context.key,
            prior=self._context.prior,
            members=members,
            parts=parts,
            weak=weak,
            locked=locked,
            took_s=took_s,
            exchange_s=self.limits["exchange"].seconds,
            certify_s=self.limits["certify"].seconds,
        )
        self.roster = sign(roster, self._context.signer)
        return self.roster

    def _limits(self, senders: Sequence[Join]) -> dict[Phase, Limit]:
        """How long we shall wait for those who contribute or reduce.

        In both halves of the exchange a peer sends at most about one vector.
        """
        ledger, rules = self._context.ledger, self._context.rules
        slices, aggregates = (encoded_bytes(rules, name) for name in (ledger.codec, ledger.aggregate_codec))
        uploads, steps_s = [join.upload for join in senders], steps_seconds(senders)
        return self._within(
            link_seconds(slices, uploads, steps_s), link_seconds(aggregates, uploads, steps_s)
        )

    def others_s(self, phase: Phase) -> list[float]:
        """How long those that joined expect a phase to take."""
        return [join.expects_s[PHASES.index(phase)] for join in self._joins.values()]

    @property
    def prepared(self) -> bool:
        """Whether a quorum has prepared the value."""
        return self._prepares is not None and self._prepares.announced

    def _within(self, exchange_s: float, certify_s: float) -> dict[Phase, Limit]:
        """Limits where the bytes of a phase need so long on the links."""
        link_s: dict[Phase, float] = {"exchange": exchange_s, "certify": certify_s}
        context = self._context
        return {
            phase: limit(context.timing, context.pace, phase, self.attempt, seconds, self.others_s(phase))
            for phase, seconds in link_s.items()
        }

    def _parts(self, members: tuple[Join, ...]) -> tuple[Part, ...]:
        """Parts for the able and unsuspected, in the round's own order, so that odd chunks go round; where
        trainers are audited in that of the keys, so that auditors see the same elements in each round, and
        know copies.

        Who only observes has none as long as somebody else can reduce. A retry keeps the parts of those who
        are left.
        """
        able = self._context.reducers(members)
        able = able - self._context.barred or able
        training = able - {join.key for join in members if join.role == "observer"}
        trusted = training - self._suspects or able - self._suspects or training or able
        again = reassign(self._parts_before, trusted)
        if again is not None:
            return again
        uploads = {join.key: join.upload for join in members if join.key in trusted}
        lasting = self._context.rules.audits is not None
        keys = sorted(uploads) if lasting else [key for key in self._context.order if key in uploads]
        order = [(key, uploads[key]) for key in keys]
        return assign_parts(order, self._context.rules.num_chunks, len(members))

    # -- exchange ------------------------------------------------------------------------------------

    @property
    def _reducers(self) -> set[bytes]:
        assert self.roster is not None
        return {part.reducer for part in self.roster.parts}

    def _contributors(self) -> set[bytes]:
        assert self.roster is not None
        return {join.key for join in self.roster.members if join.contribution is not None}

    def _root_of(self, contributor: bytes) -> bytes | None:
        assert self.roster is not None
        headers = (join.contribution for join in self.roster.members if join.contribution is not None)
        return next((header.root for header in headers if header.key == contributor), None)

    def receipt(self, receipt: Receipt) -> None:
        """Count a reducer's receipt. Raises MessageError."""
        if self.roster is None or receipt.roster != self.roster.hash:
            raise MessageError("wrong_round", "a receipt for another roster")
        if receipt.reducer not in self._reducers or receipt.contributor not in self._contributors():
            raise MessageError("unasked", "a receipt of a peer without a part, or for no contribution")
        if not signed_by(receipt, receipt.reducer, self._context.verify):
            raise MessageError("signature", "a receipt not signed by its reducer")
        if receipt.root != self._root_of(receipt.contributor):
            raise MessageError("different_value", "a receipt for another contribution of this peer")
        self._receipts.setdefault(receipt.contributor, set()).add(receipt.reducer)

    def held_by_all(self) -> set[bytes]:
        """Contributors of whose contribution every reducer has acknowledged its slice."""
        return {key for key, reducers in self._receipts.items() if reducers >= self._reducers}

    @property
    def exchange_done(self) -> bool:
        """Whether every reachable contributor's slices have arrived everywhere."""
        return not self.awaited()

    def awaited(self) -> set[bytes]:
        """Reachable contributors whose slices have not arrived everywhere."""
        return self._contributors() & self.expected - self.held_by_all()

    @property
    def patience_ends(self) -> bool:
        """Whether nobody else is awaited than those who kept us waiting before."""
        return bool(self.held_by_all()) and self.awaited() <= self._context.pace.patience.exhausted

    def late(self) -> set[bytes]:
        """Who keeps us waiting: contributors of whom nothing is missing but at reducers that acknowledged
        most others. A reducer that lacks many is slow itself, or lies."""
        expected = self._contributors() & self.expected
        works = {
            reducer
            for reducer in self._reducers
            if 2 * sum(reducer in self._receipts.get(key, ()) for key in expected) > len(expected)
        }
        return {key for key in self.awaited() if self._reducers - self._receipts.get(key, set()) <= works}

    def silent(self) -> set[bytes]:
        """Who explains best which receipts are missing: a contributor that did not send, or a reducer."""
        return blamed(
            (contributor, reducer)
            for contributor in self._contributors() & self.expected
            for reducer in self._reducers - self._receipts.get(contributor, set())
        )

    def stuck(self) -> tuple[str, set[bytes]]:
        """Why there is no cut at the deadline, and who is to blame."""
        return "reducer_silent", self.silent()

    def holding(self, holding: Holding) -> None:
        """Take a voter's statement in a sparse exchange."""
        raise MessageError("unasked", "a holding in a dense exchange")

    def _evidence(self) -> tuple[Holding, ...]:
        """What a cut of a sparse exchange follows from."""
        return ()

    def fix_cut(self, took_s: float) -> Cut | str:
        """Fix what counts, the last receipt having come after `took_s`; or the reason why nothing can."""
        assert self.roster is not None
        held = tuple(sorted(self.held_by_all()))
        if not held:
            return "nothing_arrived"
        headers = [join.contribution for join in self.roster.members if join.contribution is not None]
        counted = [header for header in headers if header.key in held]
        if not any(item.weight for item in weigh(counted, self._context.ledger, self._context.rules)):
            return "nothing_weighs"
        cut = Cut(
            round=self._context.ledger.round,
            attempt=self.attempt,
            roster=self.roster.hash,
            contributors=held,
            took_s=took_s,
            holdings=self._evidence(),
            promoted=self._promoted(held),
        )
        self.cut = sign(cut, self._context.signer)
        patience = self._context.pace.patience
        patience.exchanged(self.late() - patience.exhausted)  # those were not waited for to the end
        return self.cut

    def _promoted(self, held: Sequence[bytes]) -> tuple[bytes, ...] | UnsetType:
        """Whom we propose as new voters, of those who earned it and whom we vouch for, by lot. Later attempts
        promote nobody: one leader's opinion does not hold up a round twice."""
        context, roster = self._context, self.roster
        assert roster is not None
        if context.rules.audits is None:
            return UNSET
        if self.attempt > 0:
            return ()
        present = [join.key for join in roster.members]
        able = promotable(held, present, context.ledger, context.rules)
        chosen = by_lot(filter(context.vouches, able), context.prior)
        return tuple(sorted(chosen[: places_for_voters(context.ledger)]))

    def left_out(self) -> tuple[Contribution, ...]:
        """Contributions in the roster that the cut leaves out."""
        assert self.roster is not None
        assert self.cut is not None
        return tuple(
            join.contribution
            for join in self.roster.members
            if join.contribution is not None and join.key not in self.cut.contributors
        )

    # -- certificate ---------------------------------------------------------------------------------

    def propose(self, value: Value) -> None:
        """Start counting votes for a value."""
        assert self.roster is not None
        self.value = value
        weak = self.roster.weak
        self._prepares = Tally(self._context, value, self.attempt, "prepare", weak)
        self._commits = Tally(self._context, value, self.attempt, "commit", weak)

    def vote(self, vote: Vote) -> Prepared | Certificate | None:
        """Count a vote; returns what a quorum just completed. Raises MessageError."""
        if self.value is None or self._prepares is None or self._commits is None or self.roster is None:
            raise MessageError("too_early", "a vote before the proposal")
        weak = self.roster.weak
        if vote.phase == "prepare":
            if not self._prepares.add(vote):
                return None
            return Prepared(value=self.value, attempt=self.attempt, weak=weak, votes=self._prepares.votes)
        if not self._commits.add(vote):
            return None
        return Certificate(value=self.value, attempt=self.attempt, weak=weak, votes=self._commits.votes)
