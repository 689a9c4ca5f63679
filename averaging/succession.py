"""What follows from a round besides parameters: weights, the next ledger and the next voters.

All of it is a function of the ledger before, the cut and who was present, so every peer that knows the
certificate computes the same.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import median_low

from msgspec import UNSET

from talkoot.averaging.certificate import CertificateError, Contribution, Value
from talkoot.averaging.judgement import next_audited, realigned
from talkoot.averaging.ladder import next_rung
from talkoot.averaging.ledger import (
    MAX_STANDINGS,
    MAX_TOKENS_USED,
    MAX_VOTERS,
    NORM_HISTORY,
    Ledger,
    Standing,
    Used,
)
from talkoot.averaging.reputation import (
    first_audited,
    is_majority,
    left_out,
    places_for_voters,
    promotable,
    proven,
    subject_of,
)
from talkoot.averaging.revocations import NOBODY, Revocation, problem, take_back
from talkoot.averaging.rules import Rules
from talkoot.averaging.verdicts import Verdict

MAX_TOKENS = 2**63 - 1
"""Where the count of tokens ends, whatever is claimed: a ledger's integers have 64 bits."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A counted contribution and the factor with which it enters the aggregate."""

    contribution: Contribution
    weight: float
    """Share of the whole, 0 on probation; shares sum to 1."""
    clip: float
    """Norm cap: min(1, median norm / own norm), with allowance for carried rounds."""

    @property
    def allowance(self) -> float:
        """How many median norms count at most: up to twice for one that carries earlier rounds' work."""
        return float(min(2, 1 + self.contribution.carried))


def admitted(cut: Sequence[Contribution], ledger: Ledger, rules: Rules) -> dict[bytes, Used]:
    """Contributors that an invite key makes voters, with its use; each key admits one peer for good.

    Of several in one cut that show the same key, the first is admitted; nobody, where it was taken back.
    """
    if rules.listed:
        return {}
    owners = {use.token: use.peer for use in ledger.used}
    uses: dict[bytes, Used] = {}
    for item in cut:
        token = rules.admit(item.key, item.admission) if rules.invited_vote and item.admission else None
        if token is None or (token not in owners and len(owners) >= MAX_TOKENS_USED):
            continue
        if owners.setdefault(token, item.key) == item.key != NOBODY:
            uses[item.key] = Used(token, item.key)
    return uses


def _weighing(cut: Sequence[Contribution], ledger: Ledger, rules: Rules) -> list[Contribution]:
    """Contributions that count with a weight: voters', founders', invited and proven peers'; but for those
    that audits leave out, as long as there are others."""
    earned = set(admitted(cut, ledger, rules)) if rules.invited_vote else proven(ledger, rules)
    entitled = {*ledger.voters, *rules.founders, *rules.listed, *earned}
    counting = [item for item in cut if item.key in entitled]
    out = left_out({item.key for item in counting}, ledger)
    return [item for item in counting if item.key not in out] or counting


def weigh(cut: Sequence[Contribution], ledger: Ledger, rules: Rules) -> list[Weighed]:
    """Weights and norm caps of a cut, in its order. All weights are 0 when nobody in it weighs.

    Weights follow claimed tokens, capped at [1/2, 2] of the median claim; norms are capped at the median
    norm (lower median), a carried contribution at up to twice that.
    """
    counting = _weighing(cut, ledger, rules)
    if not counting:
        return [Weighed(item, 0.0, 1.0) for item in cut]
    claim = float(max(1, median_low([item.tokens for item in counting])))
    raw = {item.key: min(2.0, max(0.5, item.tokens / claim)) for item in counting}
    total = fsum(raw[item.key] for item in counting)  # exactly rounded; sum() changed in Python 3.12
    cap = median_low([sqrt(item.norm2) for item in counting])
    capped = rules.robustness.norm_cap != "none"
    return [
        Weighed(item, raw.get(item.key, 0.0) / total, _clip(item, cap) if capped else 1.0) for item in cut
    ]


def _clip(contribution: Contribution, cap: float) -> float:
    norm = sqrt(contribution.norm2)
    allowed = cap * min(2, 1 + contribution.carried)
    return 1.0 if norm <= allowed else allowed / norm


def ledger_after(value: Value, ledger: Ledger, rules: Rules) -> Ledger:
    """The ledger after a round of this value. Raises CertificateError where it says something of audits,
    voters or invites that does not follow from the ledger; signatures are for `certificate.check_cut`."""
    if (value.verdicts is UNSET) != (rules.audits is None) or (value.promoted is UNSET) != (
        rules.audits is None
    ):
        raise CertificateError("malformed", "verdicts in a swarm without audits, or none with them")
    verdicts = value.verdicts if value.verdicts is not UNSET else ()
    promoted = value.promoted if value.promoted is not UNSET else ()
    revoked = value.revoked if value.revoked is not UNSET else ()
    first = first_audited(ledger, rules)
    for verdict in verdicts:
        if verdict.auditor not in value.present:
            raise CertificateError("wrong_cut", "a verdict of a peer that was not there")
        if verdict.subject != subject_of(verdict.auditor, ledger, value.prior, rules, first):
            raise CertificateError("wrong_draw", "a verdict on another contribution than the one drawn")
    words = promotion_problem(promoted, [item.key for item in value.cut], value.present, ledger, rules)
    if words is not None:
        raise CertificateError("ineligible", words)
    if value.revoked is not UNSET:
        _check_revoked(revoked, value, ledger, rules)
    following = next_ledger(ledger, value.cut, value.present, rules, verdicts, promoted, revoked)
    if following.voters != value.voters:
        raise CertificateError("different_value", "other voters than follow from the round")
    return following


def _check_revoked(revoked: Sequence[Revocation], value: Value, ledger: Ledger, rules: Rules) -> None:
    if not {item.founder for item in revoked} <= set(value.present):
        raise CertificateError("wrong_cut", "a revocation by a founder that was not there")
    refused = problem(revoked, ledger, rules)
    if refused is not None:
        raise CertificateError(*refused)


def promotion_problem(
    promoted: Sequence[bytes],
    cut: Collection[bytes],
    present: Collection[bytes],
    ledger: Ledger,
    rules: Rules,
) -> str | None:
    """Why these contributors of the cut may not become voters after the round, or None."""
    if list(promoted) != sorted(set(promoted)):
        return "new voters repeat or are not in ascending order"
    if len(promoted) > places_for_voters(ledger):
        return f"{len(promoted)} new voters; {places_for_voters(ledger)} have room in this epoch"
    if promoted and not set(promoted) <= promotable(cut, present, ledger, rules):
        return "a new voter that has not earned it"
    return None


def next_ledger(
    ledger: Ledger,
    cut: Sequence[Contribution],
    present: Iterable[bytes],
    rules: Rules,
    verdicts: Sequence[Verdict] = (),
    promoted: Sequence[bytes] = (),
    revoked: Sequence[Revocation] = (),
) -> Ledger:
    """The ledger after a round with this cut and roster, these verdicts on the round before, these
    contributors promoted to voters and these invites taken back; checked by `ledger_after`."""
    there = set(present)
    weighed = weigh(cut, ledger, rules)
    steps = _usual_steps(weighed, ledger)
    uses = {use.token: use for use in ledger.used}
    uses.update({use.token: use for use in admitted(cut, ledger, rules).values()})
    audited, banned = None, frozenset[bytes]()
    if rules.audits is not None:
        audited = next_audited(ledger, [item.key for item in cut], there, verdicts, len(promoted), rules)
        banned = frozenset(item.key for item in audited.known if item.banned_until > ledger.round + 1)
    expelled = take_back(uses, revoked, ledger, rules.founders, is_majority(there, ledger))
    voters, absent = _next_voters(ledger, cut, there, rules, promoted, banned | expelled)
    counting = [item for item in weighed if item.weight > 0]
    codec, aggregate_codec = next_rung(ledger, cut, [item.contribution for item in counting], rules)
    norm = median_low([sqrt(item.contribution.norm2) for item in counting]) if counting else 0.0
    return Ledger(
        swarm=ledger.swarm,
        arithmetic=ledger.arithmetic,
        round=ledger.round + 1,
        voters=voters,
        absent=absent,
        global_step=ledger.global_step + steps,
        tokens=min(MAX_TOKENS, ledger.tokens + sum(_work(item.contribution) for item in counting)),
        reference_steps=max(1, steps),
        codec=codec,
        aggregate_codec=aggregate_codec,
        norms=(*ledger.norms, norm)[-NORM_HISTORY:],
        standings=_next_standings(ledger, cut, rules),
        used=tuple(uses[token] for token in sorted(uses)),
        audited=UNSET if audited is None else realigned(audited, ledger.voters, voters),
    )


def _work(contribution: Contribution) -> int:
    """Tokens behind all that a contribution brings in, whenever they were trained on."""
    return contribution.tokens + contribution.carried_tokens


def _usual_steps(weighed: Sequence[Weighed], ledger: Ledger) -> int:
    """Weighted lower median of inner steps; the reference of before when nobody weighs.

    It lies within what honest peers claim while liars are at most a quarter of those that weigh: with weights
    of [1/2, 2] of the median they have less than half of the weight.

    Arithmetic version 1: the weighted mean, rounded half up, a claim counting for at most twice the median.
    """
    counting = [item for item in weighed if item.weight > 0]
    if not counting:
        return ledger.reference_steps
    if ledger.arithmetic == 1:
        cap = 2 * median_low([item.contribution.steps for item in counting])
        return int(fsum(item.weight * min(cap, item.contribution.steps) for item in counting) + 0.5)
    order = sorted(counting, key=lambda item: item.contribution.steps)
    half = fsum(item.weight for item in order) / 2
    up_to = (fsum(item.weight for item in order[: number + 1]) for number in range(len(order)))
    return next(item.contribution.steps for item, sum_ in zip(order, up_to, strict=True) if sum_ >= half)


def _next_voters(
    ledger: Ledger,
    cut: Sequence[Contribution],
    there: set[bytes],
    rules: Rules,
    promoted: Sequence[bytes],
    barred: Collection[bytes],
) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    """Voters of the next round with their absences: invited and promoted contributors enter, the long absent
    and the barred go.

    A founder enters by being there, whether it contributes or not. Removal needs a strict majority of the
    voters to be present.
    """
    absences = {
        voter: 0 if voter in there else count + 1
        for voter, count in zip(ledger.voters, ledger.absent, strict=True)
    }
    if is_majority(there, ledger):
        absences = {voter: n for voter, n in absences.items() if n <= rules.max_absent_rounds}
        absences = {voter: n for voter, n in absences.items() if voter not in barred} or absences
    invited = admitted(cut, ledger, rules)
    entitled = {*rules.founders, *rules.listed, *invited} - set(barred)
    contributors = [item.key for item in cut if item.key in entitled]
    for key in (*contributors, *(founder for founder in rules.founders if founder in there), *promoted):
        if len(absences) < MAX_VOTERS:
            absences.setdefault(key, 0)
    voters = tuple(sorted(absences))
    return voters, tuple(absences[voter] for voter in voters)


def _next_standings(ledger: Ledger, cut: Sequence[Contribution], rules: Rules) -> tuple[Standing, ...]:
    """Counted rounds of peers that do not vote; there are none where newcomers are invited or audited."""
    if rules.invited_vote or rules.audits is not None:
        return ()
    rounds = {standing.key: standing.rounds for standing in ledger.standings}
    for item in cut:
        known = item.key in rounds or len(rounds) < MAX_STANDINGS
        if known and item.key not in ledger.voters:
            rounds[item.key] = min(rounds.get(item.key, 0) + 1, rules.probation_rounds)
    return tuple(Standing(key, rounds[key]) for key in sorted(rounds))
