"""What a contributor's reputation is, and what follows from it: weight, being left out, a ban, a vote.

Each voter has an opinion of each contributor, a whole number from -30 to 30. A verdict moves its auditor's
opinion by up to 15, and first halves one that it contradicts; with time opinions fade to 0. A reputation is
the mean of the other voters' opinions without the f lowest and the f highest, where f of all may lie (a
trimmed mean, as in Dolev et al. 1986, with who said nothing at 0). So

* f liars move nobody's reputation below 0 of whom the others think well or nothing, and nobody's above 0
  of whom the others think ill or nothing;
* it takes f + 1 voters to say anything at all.

All of it is integers, and a function of the ledger.
"""

from collections.abc import Collection, Iterable, Sequence

from blake3 import blake3

from talkoot.averaging.ledger import MAX_OPINION, Audited, Ledger, Repute
from talkoot.averaging.quorum import max_faulty
from talkoot.averaging.rules import Rules
from talkoot.averaging.verdicts import MAX_SCORE, drawn

MAX_STEP = MAX_OPINION // 2
"""What the clearest verdict adds to an opinion."""

FULL = 1000
"""The best reputation; the worst is its negative."""

LEFT_OUT_BELOW = -100
"""Who has less weighs nothing, and is audited on."""

BAN_BELOW = -500
"""Who has less takes part no more for a number of rounds."""

VOTE_FROM = 250
"""Who has as much may become a voter."""

PROBATION_SHARE = 8
"""One place of so many in a roster is for newcomers on probation, but one at least."""

PROMOTED_SHARE = 10
"""One voter for each so many is taken in in an epoch, but one at least."""

_LOT = "talkoot 2026 newcomers lot"


def moved(opinion: int, score: int) -> int:
    """An opinion after a verdict: two of the clearest make the strongest."""
    step = _toward_zero(score * MAX_STEP, MAX_SCORE)
    kept = _toward_zero(opinion, 2) if opinion * step < 0 else opinion
    return max(-MAX_OPINION, min(MAX_OPINION, kept + step))


def faded(opinion: int) -> int:
    """An opinion some time later."""
    return opinion - (opinion > 0) + (opinion < 0)


def _toward_zero(number: int, divisor: int) -> int:
    return number // divisor if number >= 0 else -(-number // divisor)


def reputation(item: Repute, voters: Sequence[bytes]) -> int:
    """From one opinion of each of these voters: -1000 to 1000. Nobody has one of itself."""
    trimmed = max_faulty(len(voters))
    others = sorted(
        opinion for voter, opinion in zip(voters, item.opinions, strict=True) if voter != item.key
    )
    kept = others[trimmed : len(others) - trimmed]
    return _toward_zero(sum(kept) * FULL, len(kept) * MAX_OPINION) if kept else 0


def audited(ledger: Ledger) -> Audited:
    """What audits have come to; nothing in the first round."""
    return ledger.audited if isinstance(ledger.audited, Audited) else Audited()


def banned(ledger: Ledger) -> frozenset[bytes]:
    """Who may not take part in the next round."""
    return frozenset(item.key for item in audited(ledger).known if item.banned_until > ledger.round)


def left_out(keys: Collection[bytes], ledger: Ledger) -> frozenset[bytes]:
    """Which of these contributors weigh nothing in the next round, whatever else they earned."""
    return frozenset(item.key for item in audited(ledger).known if item.key in keys and _is_out(item, ledger))


def _is_out(item: Repute, ledger: Ledger) -> bool:
    return item.banned_until > ledger.round or reputation(item, ledger.voters) < LEFT_OUT_BELOW


def proven(ledger: Ledger, rules: Rules) -> frozenset[bytes]:
    """Who came through probation in an open swarm: by audits, or by counted rounds where there are none."""
    if rules.audits is None:
        return frozenset(item.key for item in ledger.standings if item.rounds >= rules.probation_rounds)
    needed = rules.audits.probation_audits
    return frozenset(item.key for item in audited(ledger).known if item.passed >= needed)


def on_probation(keys: Iterable[bytes], ledger: Ledger, rules: Rules) -> frozenset[bytes]:
    """Which of these weigh nothing as yet, since they are new to an open swarm."""
    if rules.invited_vote:
        return frozenset()
    return frozenset(keys) - {*ledger.voters, *rules.founders} - proven(ledger, rules)


def first_audited(ledger: Ledger, rules: Rules) -> frozenset[bytes]:
    """Contributors of the last round of whom the swarm should know more: newcomers on probation, and those of
    whom there is more ill than good to say."""
    cut = frozenset(audited(ledger).cut)
    known = (item for item in audited(ledger).known if item.key in cut)
    return on_probation(cut, ledger, rules) | {item.key for item in known if sum(item.opinions) < 0}


def subject_of(
    auditor: bytes, ledger: Ledger, prior: bytes, rules: Rules, first: frozenset[bytes] | None = None
) -> bytes | None:
    """Whose contribution of the round before a voter audits; `ledger` and `prior` are those after it, `first`
    is `first_audited` of them, for who asks for many auditors."""
    if rules.audits is None or auditor not in ledger.voters:
        return None
    first = first_audited(ledger, rules) if first is None else first
    return drawn(prior, auditor, audited(ledger).cut, first)


def places_on_probation(num_others: int) -> int:
    """How many newcomers fit into a roster beside so many others: an eighth of all, one at least."""
    return max(1, num_others // (PROBATION_SHARE - 1))


def by_lot(keys: Iterable[bytes], prior: bytes) -> list[bytes]:
    """Who is preferred in this round, first to last: nobody's choice, and another order in each round."""
    return sorted(keys, key=lambda key: blake3(prior + key, derive_key_context=_LOT).digest())


def promotable(
    cut: Collection[bytes], present: Collection[bytes], ledger: Ledger, rules: Rules
) -> set[bytes]:
    """Which contributors of this cut may become voters after the round.

    None without a strict majority of the voters: what is left of a swarm takes nobody in.
    """
    if rules.audits is None or rules.invited_vote or not is_majority(present, ledger):
        return set()
    needed = rules.audits.vote_audits
    return {
        item.key
        for item in audited(ledger).known
        if item.key in cut
        and item.key not in ledger.voters
        and item.banned_until <= ledger.round
        and item.passed >= needed
        and reputation(item, ledger.voters) >= VOTE_FROM
    }


def places_for_voters(ledger: Ledger) -> int:
    """How many contributors may still become voters in the running epoch."""
    promoted = audited(ledger).promoted
    before = len(ledger.voters) - promoted
    return max(0, max(1, before // PROMOTED_SHARE) - promoted)


def is_majority(present: Collection[bytes], ledger: Ledger) -> bool:
    """Whether more than half of the voters were there."""
    return 2 * sum(1 for voter in ledger.voters if voter in present) > len(ledger.voters)
