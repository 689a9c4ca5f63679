"""Bad votes, proposals, locks and certificates: refused with a reason, without a change, and the honest
commit."""

from collections.abc import Callable
from typing import Any

import pytest
from averaging_help import make_contribution, prepared, sign_votes
from hostile_rig import (
    STRANGER,
    Attack,
    Scene,
    exchanging,
    fingerprint,
    formed,
    from_leader,
    from_villain,
    leaders,
    proposed,
    replace,
    run,
    scene,
    some_value,
    staged,
    votes_of,
    weak_lock,
)
from round_swarm import Swarm

from talkoot.averaging import outputs
from talkoot.averaging.certificate import Certificate, Value
from talkoot.averaging.messages import Abort, Ahead, Call, Committed, Lock, Proposal, Receipt, Vote, sign

# -- while votes are given and counted ---------------------------------------------------------------------


def right_value(made: Scene) -> Value:
    """What the victim computed."""
    assert made.victim.machine._staged.value is not None
    return made.victim.machine._staged.value


def proposal(made: Scene, value: Value | None = None, **changes: Any) -> Proposal:
    values = {"value": value or right_value(made), "weak": False, "prepared": None}
    return Proposal(**(made.here | values | changes))


def prepared_by_a_quorum(made: Scene, **changes: Any) -> Proposal:
    """A proposal of what voters that lie have prepared: its result is to be had, says the leader."""
    value = replace(right_value(made), **changes)
    return proposal(made, value, prepared=prepared(value, votes_of(made, 3)))


def certificate(made: Scene, value: Value, voters: int, *, weak: bool = False) -> Certificate:
    votes = sign_votes(value, votes_of(made, voters), weak=weak)
    return Certificate(value=value, attempt=0, weak=weak, votes=votes)


def certificate_by(made: Scene, signers: list[Any]) -> Certificate:
    value = right_value(made)
    return Certificate(value=value, attempt=0, weak=False, votes=sign_votes(value, signers))


def committed(made: Scene, certified: Certificate) -> Committed:
    return Committed(**made.here, certificate=certified)


TO_A_VOTER: dict[str, tuple[Attack, str]] = {
    "a wrong digest": (
        from_leader(lambda s: proposal(s, replace(right_value(s), digest=b"x" * 32))),
        "different_value",
    ),
    "another cut": (
        from_leader(lambda s: proposal(s, replace(right_value(s), cut=right_value(s).cut[1:]))),
        "different_value",
    ),
    "other voters": (
        from_leader(lambda s: proposal(s, replace(right_value(s), voters=(s.leader.key,)))),
        "different_value",
    ),
    "others present": (
        from_leader(lambda s: proposal(s, replace(right_value(s), present=(s.leader.key,)))),
        "different_value",
    ),
    "a proposal by who does not lead": (from_villain(proposal), "not_the_leader"),
    "a weak proposal": (from_leader(lambda s: proposal(s, weak=True)), "malformed"),
    "a proposal with a weak lock": (from_leader(lambda s: proposal(s, prepared=weak_lock(s))), "weak"),
    "a proposal with a forged lock": (
        from_leader(lambda s: proposal(s, prepared=replace(weak_lock(s), weak=False))),
        "no_quorum",
    ),
    "a prepared value with other voters": (
        from_leader(lambda s: prepared_by_a_quorum(s, voters=(s.leader.key,))),
        "different_value",
    ),
    "a prepared value with a forged contribution": (
        from_leader(lambda s: prepared_by_a_quorum(s, cut=(replace(right_value(s).cut[0], norm2=2.0),))),
        "signature",
    ),
    "a prepared value with a norm that is none": (
        from_leader(lambda s: prepared_by_a_quorum(s, cut=(replace(right_value(s).cut[0], norm2=-1.0),))),
        "not_finite",
    ),
    "a lock without quorum": (
        from_leader(lambda s: Lock(**s.here, prepared=prepared(right_value(s), votes_of(s, 2)))),
        "no_quorum",
    ),
    "a lock with a vote twice": (
        from_leader(
            lambda s: Lock(**s.here, prepared=prepared(right_value(s), [*votes_of(s, 2), votes_of(s, 1)[0]]))
        ),
        "repeated_vote",
    ),
    "a lock with forged votes": (
        from_leader(
            lambda s: Lock(
                **s.here, prepared=replace(prepared(right_value(s), votes_of(s, 3)), value=some_value(s))
            )
        ),
        "signature",
    ),
    "a lock from outside": (
        from_leader(lambda s: Lock(**s.here, prepared=prepared(right_value(s), [*votes_of(s, 2), STRANGER]))),
        "not_a_voter",
    ),
    "a lock of another attempt": (
        from_leader(lambda s: Lock(**s.here, prepared=prepared(right_value(s), votes_of(s, 3), attempt=1))),
        "stale",
    ),
    "a weak lock": (
        from_leader(lambda s: Lock(**s.here, prepared=prepared(right_value(s), votes_of(s, 3), weak=True))),
        "stale",
    ),
    "a vote, but we do not lead": (
        from_villain(
            lambda s: Vote(
                **s.here,
                value_hash=right_value(s).hash,
                phase="prepare",
                voter=s.villain.key,
                signature=bytes(64),
            )
        ),
        "not_the_leader",
    ),
    "an abort by who does not lead": (
        from_villain(lambda s: Abort(**s.here, reason="bored", suspects=())),
        "not_the_leader",
    ),
    "a certificate without quorum": (
        from_villain(lambda s: committed(s, certificate(s, right_value(s), 2))),
        "no_quorum",
    ),
    "a certificate with one voter's signature three times": (
        from_villain(lambda s: committed(s, certificate_by(s, [votes_of(s, 3)[0]] * 3))),
        "repeated_vote",
    ),
    "a certificate with a stranger's signature": (
        from_villain(lambda s: committed(s, certificate_by(s, [*votes_of(s, 3), STRANGER]))),
        "not_a_voter",
    ),
    "a certificate with a forged signature": (
        from_villain(
            lambda s: committed(
                s,
                replace(
                    certificate(s, right_value(s), 3),
                    votes=tuple(
                        replace(vote, signature=bytes(64)) for vote in certificate(s, right_value(s), 3).votes
                    ),
                ),
            )
        ),
        "signature",
    ),
    "a certificate of prepares": (
        from_villain(
            lambda s: committed(
                s,
                replace(
                    certificate(s, right_value(s), 3),
                    votes=sign_votes(right_value(s), votes_of(s, 3), phase="prepare"),
                ),
            )
        ),
        "signature",
    ),
    "a certificate of another branch": (
        from_villain(
            lambda s: committed(s, certificate(s, replace(right_value(s), prior=b"x" * 32, cut=()), 3))
        ),
        "wrong_branch",
    ),
    "a certificate of another swarm": (
        from_villain(
            lambda s: committed(s, certificate(s, replace(right_value(s), swarm=b"x" * 32, cut=()), 3))
        ),
        "wrong_branch",
    ),
}


@pytest.mark.parametrize("name", TO_A_VOTER)
def test_before_a_voter_votes(name: str) -> None:
    run(scene(victim=1, until=staged, slow_leader=True), *TO_A_VOTER[name])


def lone_round(made: Scene, attempt: int) -> Committed:
    """The villain was the only one present, it says, and counted nobody else."""
    value = some_value(made, (made.villain.key,))
    here = {"swarm": value.swarm, "round": value.round, "prior": value.prior}
    counted = make_contribution(made.villain.signer, numel=made.victim.machine.context.rules.numel, **here)
    value = replace(value, cut=(counted,))
    votes = sign_votes(value, [made.villain.signer], attempt=attempt, weak=True)
    return committed(made, Certificate(value=value, attempt=attempt, weak=True, votes=votes))


def idle() -> Scene:
    """Nobody has closed the round."""
    swarm = Swarm(4)
    order = leaders(swarm)
    return Scene(swarm, order, swarm.nodes[order[1]])


@pytest.mark.parametrize("attempt", [0, 7])
@pytest.mark.parametrize("until", [formed, exchanging, staged])
def test_one_voter_alone_ends_no_round_while_others_try(until: Callable[[Scene], bool], attempt: int) -> None:
    """Not even in the number of the attempt that is running."""
    run(scene(victim=1, until=until), from_villain(lambda made: lone_round(made, attempt)), "weak")


@pytest.mark.parametrize("num_there", [0, 1, 2, 3])
def test_an_idle_peer_follows_weak_rounds_only_where_no_quorum_is(num_there: int) -> None:
    """One of four voters sees so many of the others, the villain last. A quorum is three."""
    made = idle()
    others = [key for key in made.order if key not in (made.victim.key, made.villain.key)]
    made.victim.machine.reachable(
        {*others, made.villain.key} if num_there == 3 else {*others[:num_there]}, 0.0
    )
    message = lone_round(made, 7)
    if num_there < 2:
        (out,) = made.receive(made.villain.key, message)
        assert isinstance(out, outputs.NeedState)
    else:
        assert made.refuses(lambda: made.receive(made.villain.key, message), made.villain.key) == "weak"
        made.swarm.connect()
        made.swarm.close()
        made.finish()


def vote(made: Scene, signer: Any, value: Value, *, attempt: int = 0, weak: bool = False) -> Vote:
    signature = sign_votes(value, [signer], attempt=attempt, phase="prepare", weak=weak)[0].signature
    return Vote(**made.here, value_hash=value.hash, phase="prepare", voter=signer.key, signature=signature)


TO_A_COUNTER: dict[str, tuple[Attack, str]] = {
    "for another value": (
        from_villain(lambda s: vote(s, s.villain.signer, replace(right_value(s), digest=bytes(32)))),
        "different_value",
    ),
    "from outside": (lambda s: (STRANGER.key, vote(s, STRANGER, right_value(s))), "not_a_voter"),
    "of another attempt": (
        from_villain(lambda s: vote(s, s.villain.signer, right_value(s), attempt=1)),
        "signature",
    ),
    "weak": (from_villain(lambda s: vote(s, s.villain.signer, right_value(s), weak=True)), "signature"),
    "for another": (
        from_villain(
            lambda s: replace(vote(s, s.villain.signer, right_value(s)), voter=s.swarm.nodes[s.order[2]].key)
        ),
        "signature",
    ),
}


@pytest.mark.parametrize("name", TO_A_COUNTER)
def test_votes_that_a_leader_does_not_count(name: str) -> None:
    run(scene(victim=0, until=proposed), *TO_A_COUNTER[name])


def test_a_vote_before_the_proposal() -> None:
    made = scene(victim=0, until=exchanging)
    ballot = vote(made, made.villain.signer, some_value(made))
    run(made, lambda s: (s.villain.key, ballot), "too_early")


def test_a_vote_given_twice_counts_once() -> None:
    made = scene(victim=0, until=proposed)
    value = right_value(made)
    made.receive(made.villain.key, vote(made, made.villain.signer, value))
    before = fingerprint(made.victim.machine)
    assert made.receive(made.villain.key, vote(made, made.villain.signer, value)) == []
    assert fingerprint(made.victim.machine) == before
    made.finish()


def test_messages_after_the_round_are_stale() -> None:
    made = scene(victim=1, until=lambda s: bool(s.victim.commits))
    for message in (
        Abort(round=0, attempt=0, reason="late", suspects=()),
        Ahead(round=0, attempt=3),
        Call(round=0, attempt=1, prior=made.victim.digest, form_s=1.0),
    ):
        (refused,) = made.receive(made.leader.key, message)
        assert isinstance(refused, outputs.Refused)
        assert refused.reason == "stale"
    made.finish()


def test_an_abort_of_the_leader_ends_the_attempt_and_nothing_else() -> None:
    made = scene(victim=1, until=exchanging)
    outs = made.receive(made.leader.key, Abort(**made.here, reason="x" * 1000, suspects=(made.villain.key,)))
    (over,) = [out for out in outs if isinstance(out, outputs.AttemptOver)]
    assert len(over.reason) <= 64
    made.swarm.perform(made.victim, outs)
    made.swarm.run(60.0)
    assert {node.commits[0].kind for node in made.swarm.nodes.values()} == {"final"}


def test_receipts_that_a_leader_does_not_count() -> None:
    made = scene(victim=0, until=exchanging)
    villain, other = made.villain, made.swarm.nodes[made.order[2]]
    reducer = made.roster.parts[0].reducer
    assert villain.machine.local is not None
    owner = made.swarm.nodes[reducer]
    values: dict[str, Any] = {
        "roster": made.roster.hash, "reducer": reducer, "contributor": villain.key,
        "root": villain.machine.local.header.root,
    }  # fmt: skip
    good = sign(Receipt(**made.here, **values), owner.signer)
    for bad, reason in (
        (replace(good, roster=b"x" * 32), "wrong_round"),
        (replace(good, reducer=STRANGER.key), "unasked"),
        (replace(good, contributor=STRANGER.key), "unasked"),
        (replace(good, contributor=other.key), "signature"),
        (sign(Receipt(**made.here, **values), STRANGER), "signature"),
        (sign(replace(good, root=b"x" * 32), owner.signer), "different_value"),
    ):
        assert made.refuses(lambda bad=bad: made.receive(villain.key, bad), villain.key) == reason  # type: ignore[misc]
    made.finish()


def test_what_a_quorum_prepared_and_we_do_not_hold_is_obtained() -> None:
    made = scene(victim=1, until=staged)
    outs = made.receive(made.leader.key, prepared_by_a_quorum(made, digest=b"d" * 32))
    (job,) = outs
    assert isinstance(job, outputs.Obtain)
    assert job.ledger.voters == job.value.voters
    assert made.victim.machine._staged.value is None
