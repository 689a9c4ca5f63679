"""Reputations follow from verdicts by whole numbers, and a minority of liars moves them across no line."""

from collections.abc import Sequence
from random import Random

import pytest
from audit_rig import AUDITS, AuditedSwarm
from averaging_help import make_contribution, make_ledger, make_rules, peers
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.ledger import MAX_KNOWN, MAX_OPINION, Audited, Repute
from talkoot.averaging.quorum import max_faulty
from talkoot.averaging.reputation import (
    FULL,
    VOTE_FROM,
    banned,
    by_lot,
    left_out,
    moved,
    on_probation,
    places_for_voters,
    places_on_probation,
    proven,
    reputation,
    subject_of,
)
from talkoot.averaging.succession import next_ledger, weigh
from talkoot.averaging.verdicts import MAX_SCORE

SIGNERS = peers(24)


def weights(swarm: AuditedSwarm) -> dict[bytes, float]:
    number = swarm.ledger.round
    cut = [make_contribution(swarm.signers[key], round=number) for key in sorted(swarm.signers)]
    return {item.contribution.key: item.weight for item in weigh(cut, swarm.ledger, swarm.rules)}


def reputations(swarm: AuditedSwarm) -> dict[bytes, int]:
    assert isinstance(swarm.ledger.audited, Audited)
    return {item.key: reputation(item, swarm.ledger.voters) for item in swarm.ledger.audited.known}


def of(opinions: Sequence[int]) -> int:
    """The reputation of a newcomer of whom the voters think this."""
    return reputation(
        Repute(bytes(32), 0, tuple(opinions), 0), [bytes([n + 1]) * 32 for n in range(len(opinions))]
    )


# -- opinions ----------------------------------------------------------------------------------------


@given(st.integers(-MAX_OPINION, MAX_OPINION), st.integers(-MAX_SCORE, MAX_SCORE))
def test_an_opinion_follows_the_verdict_alike_for_both_signs(opinion: int, score: int) -> None:
    after = moved(opinion, score)
    assert abs(after) <= MAX_OPINION
    assert after == -moved(-opinion, -score)
    assert after >= opinion if score > 0 else after <= opinion if score < 0 else after == opinion


def test_two_clear_verdicts_make_an_opinion_and_three_unmake_it() -> None:
    opinions = [0]
    for score in (1000, 1000, 1000, -1000, -1000, -1000, -60, 100):
        opinions.append(moved(opinions[-1], score))
    assert opinions == [0, 15, 30, 30, 0, -15, -30, -30, -14]


@examples(200)
@given(st.integers(1, 64), st.integers(0, 2**32))
def test_f_liars_decide_nothing_that_the_others_do_not_say(num_voters: int, seed: int) -> None:
    random = Random(seed)
    liars = max_faulty(num_voters)
    lies = [random.randint(-MAX_OPINION, MAX_OPINION) for _ in range(liars)]
    good = [random.randint(0, MAX_OPINION) for _ in range(num_voters - liars)]
    assert 0 <= of([*good, *lies]) <= FULL
    assert -FULL <= of([*(-opinion for opinion in good), *lies]) <= 0


def test_it_takes_more_than_f_voters_to_say_anything() -> None:
    silent = [0] * 7
    for num in range(3):
        assert of([30] * num + silent[num:]) == 0
        assert of([-30] * num + silent[num:]) == 0
    assert of([30] * 3 + silent[3:]) == 333
    assert of([-15]) == -500


def test_a_voter_has_no_opinion_of_itself() -> None:
    voters = [bytes([number]) * 32 for number in range(4)]
    assert [reputation(Repute(key, 0, (-30, -15, -30, 0), 0), voters) for key in voters] == [
        -500,
        -1000,
        -500,
        -1000,
    ]
    assert reputation(Repute(voters[0], 0, (30,), 0), voters[:1]) == 0


# -- swarms ------------------------------------------------------------------------------------------


@examples(15)
@given(st.integers(1, 13), st.integers(0, 2**32))
def test_a_lying_minority_neither_bans_nor_leaves_out_who_helps(num_voters: int, seed: int) -> None:
    random = Random(seed)
    swarm = AuditedSwarm(SIGNERS[:num_voters], SIGNERS[13:16])
    keys = [signer.key for signer in SIGNERS[:num_voters]]
    liars = set(random.sample(keys, max_faulty(num_voters)))
    for _ in range(40):
        swarm.round(lambda by, _of: -MAX_SCORE if by in liars else random.randint(0, 400), promote=False)
        assert not left_out(swarm.signers, swarm.ledger)
    assert set(keys) <= set(swarm.ledger.voters)


@examples(8)
@given(st.integers(1, 13), st.integers(0, 2**32))
def test_a_lying_minority_does_not_keep_who_hurts(num_voters: int, seed: int) -> None:
    """Neither a voter nor a newcomer, whose contributions never weigh."""
    random = Random(seed)
    swarm = AuditedSwarm(SIGNERS[:num_voters], SIGNERS[13:16])
    keys = [signer.key for signer in SIGNERS[:num_voters]]
    liars = random.sample(keys[1:], max_faulty(num_voters))
    bad = [*liars[:1], SIGNERS[13].key]
    seen_out, seen_banned = set[bytes](), set[bytes]()

    def judge(auditor: bytes, subject: bytes) -> int:
        truth = -1 if subject in bad else 1
        return truth * (-MAX_SCORE if auditor in liars else random.randint(400, MAX_SCORE))

    for _ in range(150):
        cut = set(swarm.signers) - banned(swarm.ledger)
        swarm.round(judge, cut, promote=False)
        seen_out |= left_out(bad, swarm.ledger)
        seen_banned |= banned(swarm.ledger)
        assert bad[-1] not in proven(swarm.ledger, swarm.rules)
    assert seen_out == set(bad)
    assert seen_banned == set(bad)


@pytest.mark.parametrize("num_voters", [5, 13])
@pytest.mark.parametrize("seed", range(3))
def test_how_long_it_takes(num_voters: int, seed: int) -> None:
    """Of n contributors that vote and audit, f lie, one of which hurts."""
    random = Random(seed)
    swarm = AuditedSwarm(SIGNERS[:num_voters], ())
    liars = random.sample(list(swarm.ledger.voters[1:]), max_faulty(num_voters))
    rounds = {"out": 0, "banned": 0}

    def judge(auditor: bytes, subject: bytes) -> int:
        truth = -1 if subject == liars[0] else 1
        return truth * (-MAX_SCORE if auditor in liars else 700)

    while not banned(swarm.ledger):
        swarm.round(judge)
        rounds["out"] += not left_out(liars[:1], swarm.ledger)
        rounds["banned"] += not banned(swarm.ledger)
    assert rounds["out"] < 15
    assert rounds["banned"] < 30


def test_who_hurts_is_left_out_then_banned_then_new_again() -> None:
    swarm = AuditedSwarm(SIGNERS[:4], SIGNERS[4:6])
    voter, bad = SIGNERS[3].key, SIGNERS[4].key

    def judge(_by: bytes, of: bytes) -> int:
        return -900 if of in (voter, bad) and swarm.ledger.round > 40 else 500

    stages: list[str] = []
    for _ in range(160):
        swarm.round(judge, set(swarm.signers) - banned(swarm.ledger), promote=False)
        name = "voter" if voter in swarm.ledger.voters else "new"
        name = "left out" if left_out([voter], swarm.ledger) else name
        name = "banned" if voter in banned(swarm.ledger) else name
        stages += [name] if name not in stages[-1:] else []
    assert stages[:4] == ["voter", "left out", "banned", "new"]
    assert weights(swarm)[bad] == 0
    assert all(len(item.opinions) == len(swarm.ledger.voters) for item in known_of(swarm))


def known_of(swarm: AuditedSwarm) -> tuple[Repute, ...]:
    assert isinstance(swarm.ledger.audited, Audited)
    return swarm.ledger.audited.known


def test_newcomers_weigh_after_audits_and_vote_after_more_a_few_at_a_time() -> None:
    swarm = AuditedSwarm(SIGNERS[:4], SIGNERS[4:12])
    new = {signer.key for signer in SIGNERS[4:12]}
    assert sum(weights(swarm)[key] for key in new) == 0
    assert on_probation(swarm.signers, swarm.ledger, swarm.rules) == new
    before, joined = len(swarm.ledger.voters), 0
    for number in range(1, 121):
        swarm.round(lambda _by, _of: 600)
        joined = max(joined, len(swarm.ledger.voters) - before)
        if number % AUDITS.epoch_rounds == 0:
            assert joined <= 1  # a tenth of fewer than 20, but one
            before, joined = len(swarm.ledger.voters), 0
    assert not on_probation(swarm.signers, swarm.ledger, swarm.rules)
    assert all(weights(swarm).values())
    assert new <= set(swarm.ledger.voters)
    assert min(reputations(swarm).values()) > VOTE_FROM


def test_a_newcomer_that_only_liars_praise_stays_one() -> None:
    swarm = AuditedSwarm(SIGNERS[:4], SIGNERS[4:5])
    for _ in range(60):
        swarm.round(lambda by, _of: 1000 if by == SIGNERS[1].key else None)
    assert on_probation([SIGNERS[4].key], swarm.ledger, swarm.rules)


def test_reputation_fades_but_what_was_earned_stays() -> None:
    swarm = AuditedSwarm(SIGNERS[:4], SIGNERS[4:5])
    for _ in range(30):
        swarm.round(lambda _by, _of: 1000, promote=False)
    assert max(reputations(swarm).values()) > 900
    for _ in range(MAX_OPINION * 5 + 5):  # 5 contributors: a step in 5 rounds
        swarm.round(lambda _by, _of: None, promote=False)
    assert set(reputations(swarm).values()) == {0}
    assert not on_probation(swarm.signers, swarm.ledger, swarm.rules)


def test_a_minority_of_voters_changes_nothing() -> None:
    swarm = AuditedSwarm(SIGNERS[:4], SIGNERS[4:5])
    swarm.round(lambda _by, _of: None)
    cut = [make_contribution(SIGNERS[4], round=1)]
    verdicts = swarm.verdicts(lambda _by, _of: -1000)
    assert verdicts
    few = next_ledger(swarm.ledger, cut, [signer.key for signer in SIGNERS[2:5]], swarm.rules, verdicts)
    assert isinstance(few.audited, Audited)
    assert not any(any(item.opinions) for item in few.audited.known)


def test_where_everybody_hurts_nobody_is_left_out_or_banned() -> None:
    """Then training diverges; without anybody it could not even go on."""
    swarm = AuditedSwarm(SIGNERS[:4], ())
    for _ in range(40):
        swarm.round(lambda _by, _of: -1000)
    assert left_out(swarm.signers, swarm.ledger) == set(swarm.signers)
    assert not banned(swarm.ledger)
    assert all(weights(swarm).values())


def test_founders_are_left_out_but_never_banned() -> None:
    swarm = AuditedSwarm(SIGNERS[:4], SIGNERS[4:8])
    founder = swarm.rules.founders[0]
    for _ in range(60):
        swarm.round(lambda _by, of: -1000 if of == founder else 800)
    assert weights(swarm)[founder] == 0
    assert not banned(swarm.ledger)


@pytest.mark.parametrize("num_others", range(1, 64))
def test_newcomers_have_an_eighth_of_a_roster_and_one_place_at_least(num_others: int) -> None:
    places = places_on_probation(num_others)
    assert places == 1 or 8 * places <= num_others + places
    assert places >= 1
    assert 8 * (places + 1) > num_others + places + 1


def test_the_lot_is_another_one_in_each_round() -> None:
    keys = [signer.key for signer in SIGNERS]
    assert len({by_lot(keys, bytes([number]) * 32)[0] for number in range(100)}) > 18
    assert by_lot(keys, bytes(32)) == by_lot(reversed(keys), bytes(32))


def test_there_is_room_for_a_tenth_of_the_voters_in_an_epoch() -> None:
    def places(num_voters: int, promoted: int) -> int:
        voters = [bytes([number]) * 32 for number in range(num_voters)]
        return places_for_voters(make_ledger(voters, audited=Audited(promoted=promoted)))

    assert [places(num, 0) for num in (1, 9, 19, 20, 64)] == [1, 1, 1, 2, 6]
    assert (places(2, 1), places(21, 1), places(22, 2)) == (0, 1, 0)


def test_voters_alone_audit_and_only_where_there_are_audits() -> None:
    swarm = AuditedSwarm(SIGNERS[:2], SIGNERS[2:3])
    swarm.round(lambda _by, _of: None)
    voter, new = SIGNERS[0].key, SIGNERS[2].key
    assert subject_of(voter, swarm.ledger, swarm.prior, swarm.rules) in set(swarm.signers) - {voter}
    assert subject_of(new, swarm.ledger, swarm.prior, swarm.rules) is None
    assert subject_of(voter, swarm.ledger, swarm.prior, make_rules()) is None


def test_the_ledger_remembers_voters_and_who_was_seen_last() -> None:
    swarm = AuditedSwarm(SIGNERS[:2], ())
    old = [Repute(number.to_bytes(32, "big"), 0, (0, 0), 3) for number in range(MAX_KNOWN)]
    swarm.ledger = make_ledger(swarm.ledger.voters, audited=Audited(known=tuple(old)))
    swarm.round(lambda _by, _of: None)
    keys = {item.key for item in known_of(swarm)}
    assert len(keys) == MAX_KNOWN
    assert set(swarm.signers) <= keys
