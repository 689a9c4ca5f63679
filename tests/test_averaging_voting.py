"""A voter says one thing, remembers it, and changes its mind only when shown why."""

from typing import Any

import msgspec
import pytest
from averaging_help import make_context, make_ledger, make_value, peers, prepared, sign_votes
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import ToySigner

from talkoot.averaging.certificate import CertificateError, Value, check_votes, vote_bytes
from talkoot.averaging.messages import MessageError, Vote
from talkoot.averaging.voting import Journal, PhaseName, Tally, Voter, decode_journal

FOUR = peers(4)
A = make_value(FOUR, FOUR, digest=b"a" * 32)
B = make_value(FOUR, FOUR, digest=b"b" * 32)
CONTEXT = make_context(FOUR[0], FOUR)


def restarted(voter: Voter) -> Voter:
    """The same voter after a crash: only what it wrote down is left."""
    return Voter(CONTEXT, decode_journal(voter.journal.encode()))


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(MessageError) as caught:
        call(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("crash", [False, True])
def test_one_value_for_each_phase_and_attempt(crash: bool) -> None:
    voter = Voter(CONTEXT, None)
    first = voter.prepare(A, 3, False, None)
    if crash:
        voter = restarted(voter)
    assert voter.prepare(A, 3, False, None) == first  # saying it again is harmless
    assert refusal(voter.prepare, B, 3, False, None) == "already_voted"
    assert voter.last_attempt == 3
    voter.prepare(B, 4, False, None)
    voter.commit(prepared(A, FOUR[:3], attempt=4))
    if crash:
        voter = restarted(voter)
    assert refusal(voter.commit, prepared(B, FOUR[:3], attempt=4)) == "already_voted"


def test_votes_are_signed_for_their_attempt_phase_and_strength() -> None:
    voter = Voter(CONTEXT, None)
    vote = voter.prepare(A, 3, True, None)
    assert (vote.round, vote.attempt, vote.phase, vote.voter) == (5, 3, "prepare", FOUR[0].key)
    assert vote.signature == FOUR[0].sign(vote_bytes(A, A.hash, 3, "prepare", True))
    vote = voter.commit(prepared(A, FOUR[:3], attempt=3))
    assert vote.signature == FOUR[0].sign(vote_bytes(A, A.hash, 3, "commit", False))


@pytest.mark.parametrize("crash", [False, True])
def test_a_lock_yields_only_to_a_later_prepare_certificate_for_the_value(crash: bool) -> None:
    voter = Voter(CONTEXT, None)
    voter.commit(prepared(A, FOUR[:3], attempt=2))
    if crash:
        voter = restarted(voter)
    assert voter.lock == prepared(A, FOUR[:3], attempt=2)
    voter.prepare(A, 3, False, None)  # the value of the lock itself needs no proof
    for shown in (
        None,
        prepared(B, FOUR[:3], attempt=1),
        prepared(B, FOUR[:3], attempt=2),
        prepared(A, FOUR[:3], attempt=9),
    ):
        assert refusal(voter.prepare, B, 4, False, shown) == "locked"
    voter.prepare(B, 5, False, prepared(B, FOUR[:3], attempt=4))
    assert voter.lock == prepared(A, FOUR[:3], attempt=2)  # preparing moves no lock
    voter.commit(prepared(B, FOUR[:3], attempt=5))
    assert voter.lock == prepared(B, FOUR[:3], attempt=5)


def test_a_lock_never_goes_back() -> None:
    voter = Voter(CONTEXT, None)
    voter.commit(prepared(B, FOUR[:3], attempt=5))
    voter.commit(prepared(A, FOUR[:3], attempt=4))
    assert voter.lock == prepared(B, FOUR[:3], attempt=5)


def test_weak_votes_never_lock() -> None:
    voter = Voter(CONTEXT, None)
    voter.commit(prepared(A, FOUR[:2], attempt=2, weak=True))
    assert voter.lock is None
    voter.prepare(B, 3, False, None)


def test_a_journal_of_another_round_or_branch_is_none() -> None:
    voter = Voter(CONTEXT, None)
    voter.commit(prepared(A, FOUR[:3], attempt=2))
    for context in (
        make_context(FOUR[0], FOUR, prior=b"x" * 32),
        make_context(FOUR[0], FOUR, ledger=make_ledger([s.key for s in FOUR], round=6)),
    ):
        other = Voter(context, voter.journal)
        assert (other.lock, other.last_attempt) == (None, -1)


@examples(100)
@given(st.binary(max_size=100))
def test_a_torn_journal_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what msgspec says about it does not matter
        decode_journal(data)


STEP = st.tuples(
    st.sampled_from(["prepare", "commit", "crash"]), st.sampled_from([A, B]), st.integers(0, 3), st.booleans()
)


@examples(50)
@given(st.lists(STEP, max_size=12))
def test_whatever_happens_a_voter_never_contradicts_itself(steps: list[tuple[str, Value, int, bool]]) -> None:
    voter = Voter(CONTEXT, None)
    said: dict[tuple[str, int], bytes] = {}
    for action, value, attempt, show in steps:
        lock = voter.lock
        certificate = prepared(value, FOUR[:3], attempt=attempt)
        try:
            if action == "crash":
                voter = restarted(voter)
                assert voter.lock == lock
                continue
            vote = (
                voter.prepare(value, attempt, False, certificate if show else None)
                if action == "prepare"
                else voter.commit(certificate)
            )
        except MessageError:
            continue
        assert said.setdefault((action, attempt), value.hash) == value.hash == vote.value_hash
        if action == "prepare" and lock is not None and lock.value != value:
            assert show
            assert attempt > lock.attempt
    assert isinstance(voter.journal, Journal)


# -- counting ----------------------------------------------------------------------------------------------


def vote(signer: ToySigner, value: Value = A, *, attempt: int = 1, weak: bool = False) -> Vote:
    phase: PhaseName = "prepare"
    signature = sign_votes(value, [signer], attempt=attempt, phase=phase, weak=weak)[0].signature
    return Vote(
        round=5, attempt=attempt, value_hash=value.hash, phase=phase, voter=signer.key, signature=signature
    )


def make_tally(value: Value = A, *, weak: bool = False) -> Tally:
    return Tally(CONTEXT, value, 1, "prepare", weak)


def test_a_tally_is_complete_once_and_its_votes_convince() -> None:
    tally = make_tally()
    assert [tally.add(vote(FOUR[n])) for n in (2, 2, 0, 0, 3, 1)] == [False, False, False, False, True, False]
    check_votes(
        A,
        tally.votes,
        attempt=1,
        phase="prepare",
        weak=False,
        voters=CONTEXT.ledger.voters,
        verify=CONTEXT.verify,
    )


def test_votes_that_do_not_count() -> None:
    tally = make_tally()
    forged = msgspec.structs.replace(vote(FOUR[1]), signature=bytes(64))
    borrowed = msgspec.structs.replace(vote(FOUR[1]), voter=FOUR[2].key)
    assert refusal(tally.add, vote(ToySigner(99))) == "not_a_voter"
    assert refusal(tally.add, vote(FOUR[1], B)) == "different_value"
    for bad in (forged, borrowed, vote(FOUR[1], weak=True), vote(FOUR[1], attempt=2)):
        assert refusal(tally.add, bad) == "signature"
    assert tally.votes == ()


def test_a_weak_tally_counts_the_voters_that_are_there() -> None:
    value = make_value(FOUR[:2], FOUR)
    tally = make_tally(value, weak=True)
    assert refusal(tally.add, vote(FOUR[2], value, weak=True)) == "not_a_voter"
    assert refusal(tally.add, vote(FOUR[0], value)) == "signature"
    assert not tally.add(vote(FOUR[0], value, weak=True))
    assert tally.add(vote(FOUR[1], value, weak=True))


# -- what a lock must be ----------------------------------------------------------------------------------


def lock_refused(**changes: Any) -> str:
    lock = msgspec.structs.replace(prepared(A, FOUR[:3], attempt=2), **changes)
    with pytest.raises(CertificateError) as caught:
        CONTEXT.check_lock(lock)
    return caught.value.reason


def test_locks_are_quorums_of_final_prepare_votes_of_this_round() -> None:
    CONTEXT.check_lock(prepared(A, FOUR[:3], attempt=2))
    assert lock_refused(votes=()) == "no_quorum"
    assert lock_refused(votes=sign_votes(A, FOUR[:3], attempt=2)) == "signature"  # commits
    assert lock_refused(attempt=3) == "signature"
    assert lock_refused(value=B) == "signature"
    elsewhere = make_value(FOUR, FOUR, prior=b"x" * 32)
    assert lock_refused(value=elsewhere, votes=prepared(elsewhere, FOUR, attempt=2).votes) == "wrong_round"
    alone = make_value(FOUR[:1], FOUR)
    forged = prepared(alone, FOUR[:1], attempt=999, weak=True)
    CONTEXT.check_prepared(forged)  # one voter alone can always make a weak one
    with pytest.raises(CertificateError, match="weak"):
        CONTEXT.check_lock(forged)
