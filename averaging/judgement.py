"""What a round changes in what audits have come to: opinions, passed audits, bans, who may become a voter."""

from collections.abc import Collection, Sequence
from statistics import median_low

import msgspec

from talkoot.averaging.audits import Audits
from talkoot.averaging.ledger import MAX_KNOWN, Audited, Ledger, Repute
from talkoot.averaging.reputation import (
    BAN_BELOW,
    LEFT_OUT_BELOW,
    audited,
    banned,
    faded,
    is_majority,
    moved,
    on_probation,
    reputation,
)
from talkoot.averaging.rules import Rules
from talkoot.averaging.verdicts import Verdict

FADE_ROUNDS = 4
"""Opinions fade by one step in so many rounds, or as many as there are contributors: about as often as one
voter audits one contributor."""

FORGET_ROUNDS = 2000
"""Who was not counted for longer starts anew."""


def next_audited(
    ledger: Ledger,
    cut: Collection[bytes],
    present: Collection[bytes],
    verdicts: Sequence[Verdict],
    num_promoted: int,
    rules: Rules,
) -> Audited:
    """What audits have come to after a round with this cut, roster and these verdicts.

    Opinions are still those of the voters before the round. Without a strict majority of the voters verdicts
    change nothing.
    """
    audits = rules.audits
    assert audits is not None
    before = audited(ledger)
    heard = verdicts if is_majority(present, ledger) else ()
    known = {item.key: item for item in before.known}
    if (ledger.round + 1) % max(FADE_ROUNDS, len(before.cut)) == 0:
        known = {key: _faded(item) for key, item in known.items()}
    fresh = (0,) * len(ledger.voters)
    for key in cut:
        item = known.get(key, Repute(key, 0, fresh, 0))
        known[key] = msgspec.structs.replace(item, seen=ledger.round)
    new = on_probation(known, ledger, rules)
    judged = {verdict.subject for verdict in heard if verdict.subject in known} - banned(ledger)
    for subject in sorted(judged):
        about = [verdict for verdict in heard if verdict.subject == subject]
        known[subject] = _judged(known[subject], about, ledger, audits, subject in new)
    ends = (ledger.round + 1) % audits.epoch_rounds == 0
    return Audited(
        known=_kept(_with_bans(known, cut, ledger, rules), ledger),
        cut=tuple(sorted(cut)),
        promoted=0 if ends else before.promoted + num_promoted,
    )


def _faded(item: Repute) -> Repute:
    return msgspec.structs.replace(item, opinions=tuple(faded(opinion) for opinion in item.opinions))


def _judged(item: Repute, about: Sequence[Verdict], ledger: Ledger, audits: Audits, new: bool) -> Repute:
    """After the verdicts on its last contribution, whose lower median says whether it passed.

    A newcomer passes the last audit only with a reputation above 0, which f liars alone cannot give. What
    was earned once is not lost by single audits.
    """
    scores = {verdict.auditor: verdict.score for verdict in about}
    opinions = tuple(
        moved(opinion, scores[voter]) if voter in scores else opinion
        for voter, opinion in zip(ledger.voters, item.opinions, strict=True)
    )
    score = median_low(scores.values())
    passed = max(0, item.passed + (score > 0) - (score < 0))
    if not new:
        passed = min(audits.vote_audits, max(passed, min(item.passed, audits.probation_audits)))
    after = msgspec.structs.replace(item, opinions=opinions, passed=passed)
    if new and reputation(after, ledger.voters) <= 0:
        return msgspec.structs.replace(after, passed=min(audits.probation_audits - 1, passed))
    return after


def _with_bans(
    known: dict[bytes, Repute], cut: Collection[bytes], ledger: Ledger, rules: Rules
) -> dict[bytes, Repute]:
    """With those banned that kept hurting. Founders never are, and nobody is where half of the contributors
    or more are said to hurt: then it is the training that diverges."""
    assert rules.audits is not None
    standing = {key: reputation(known[key], ledger.voters) for key in cut}
    hurting = [key for key in cut if standing[key] < LEFT_OUT_BELOW]
    if 2 * len(hurting) >= len(cut):
        return known
    until, nothing = ledger.round + 1 + rules.audits.ban_rounds, (0,) * len(ledger.voters)
    for key in hurting:
        if standing[key] < BAN_BELOW and key not in rules.founders:
            known[key] = Repute(key, 0, nothing, ledger.round, until)
    return known


def realigned(before: Audited, voters: Sequence[bytes], following: Sequence[bytes]) -> Audited:
    """With an opinion for each of the voters of the next round: those who go take theirs with them."""
    if tuple(voters) == tuple(following):
        return before
    place = {voter: number for number, voter in enumerate(voters)}
    places = [place.get(voter) for voter in following]
    known = (
        msgspec.structs.replace(item, opinions=tuple(0 if at is None else item.opinions[at] for at in places))
        for item in before.known
    )
    return msgspec.structs.replace(before, known=tuple(known))


def _kept(known: dict[bytes, Repute], ledger: Ledger) -> tuple[Repute, ...]:
    """Those worth remembering: the voters, then who was seen last, as many as there is room for."""
    recent = [
        item
        for item in known.values()
        if item.seen + FORGET_ROUNDS >= ledger.round or item.banned_until > ledger.round
    ]
    recent.sort(key=lambda item: (item.key not in ledger.voters, item.passed == 0, -item.seen, item.key))
    return tuple(sorted(recent[:MAX_KNOWN], key=lambda item: item.key))
