"""Rounds of a swarm whose trainers are audited: real machines, verdicts in joins, one ledger for all."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from averaging_help import (
    certify,
    make_context,
    make_contribution,
    make_ledger,
    make_rules,
    make_value,
    peers,
)
from msgspec import UNSET
from round_swarm import Swarm, ToySigner, toy_verify

from talkoot.averaging import outputs
from talkoot.averaging.audits import Audits
from talkoot.averaging.certificate import (
    Certificate,
    CertificateError,
    Value,
    check_certificate,
    decode_certificate,
)
from talkoot.averaging.context import Context
from talkoot.averaging.ledger import Audited, Ledger, Repute
from talkoot.averaging.messages import Join, MessageError, sign
from talkoot.averaging.reputation import banned, left_out, on_probation, subject_of
from talkoot.averaging.succession import ledger_after
from talkoot.averaging.verdicts import Verdict, sign_verdict

AUDITS = Audits(trainers=True, probation_audits=1, vote_audits=2, epoch_rounds=2, ban_rounds=20)
SMALL: dict[str, Any] = {"numel": 700, "chunk_size": 256}


def make_swarm(num_peers: int, num_voters: int, audits: Audits | None = AUDITS, **options: Any) -> Swarm:
    return Swarm(num_peers, num_voters=num_voters, audits=audits, **SMALL, **options)


def play(swarm: Swarm, rounds: int) -> list[Certificate]:
    """So many rounds; who was left out fetches the state. All have one state after each."""
    certificates = list[Certificate]()
    for _ in range(rounds):
        swarm.start_round()
        swarm.close()
        swarm.run(swarm.now + 20.0)
        done = next(node for node in swarm.nodes.values() if len(node.commits) > len(certificates))
        for node in swarm.nodes.values():
            if node.ledger.round < done.ledger.round:
                node.theta, node.momentum = done.theta.clone(), done.momentum.clone()
                node.ledger, node.digest = done.ledger, done.digest
        assert len({node.digest for node in swarm.nodes.values()}) == 1
        certificates.append(done.commits[-1])
        done.commits[:] = certificates
    return certificates


def ledger_of(swarm: Swarm) -> Ledger:
    return next(iter(swarm.nodes.values())).ledger


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
def test_newcomers_earn_weight_and_vote_in_certified_rounds(exchange: Any) -> None:
    swarm = make_swarm(4, 2, exchange=exchange)
    voters = set(ledger_of(swarm).voters)
    newcomers = set(swarm.nodes) - voters
    swarm.judge = lambda _by, _of: 1000
    promoted = list[bytes]()
    for number in range(12):
        fresh = on_probation(newcomers, ledger_of(swarm), swarm.rules)
        value = decode_certificate(play(swarm, 1)[0].encode()).value
        assert len(fresh & set(value.present)) <= 1
        assert value.verdicts is not UNSET
        assert value.promoted is not UNSET
        assert {verdict.auditor for verdict in value.verdicts} == (voters if number else set())
        voters |= set(value.promoted)
        promoted += value.promoted
    assert sorted(promoted) == sorted(newcomers)
    assert set(ledger_of(swarm).voters) == set(swarm.nodes)


def test_who_hurts_is_left_out_then_refused_by_all() -> None:
    swarm = make_swarm(4, 4)
    *_, good, bad = ledger_of(swarm).voters
    swarm.judge = lambda by, of: 900 if (of == bad) == (by == bad) else -900
    stages = list[str]()
    while stages[-1:] != ["banned"]:
        value = play(swarm, 1)[0].value
        assert bad in value.present
        stage = "left out" if left_out([bad], ledger_of(swarm)) else "voter"
        stage = "banned" if bad in banned(ledger_of(swarm)) else stage
        stages += [stage] if stage not in stages[-1:] else []
    assert stages == ["voter", "left out", "banned"]
    assert bad not in ledger_of(swarm).voters
    swarm.start_round()
    swarm.close()
    began, before = swarm.now, len(swarm.nodes[good].commits)
    swarm.run_until(lambda: len(swarm.nodes[good].commits) > before)
    assert bad not in swarm.nodes[good].commits[-1].value.present
    assert swarm.now - began < swarm.timing.form_s  # nobody waited for it
    for _ in range(8):  # a join that comes later than that is late, and nothing else
        if not swarm.counted["banned"]:
            play(swarm, 1)
    assert swarm.counted["banned"]


def test_a_new_voter_needs_a_quorum_that_vouches_for_it() -> None:
    swarm = make_swarm(4, 3)
    voters = ledger_of(swarm).voters
    swarm.judge = lambda _by, _of: 1000
    swarm.vouches = lambda voter, _candidate: voter == voters[0]
    while not swarm.counted["objection"]:
        certificate = play(swarm, 1)[0]
        assert (certificate.kind, certificate.value.promoted) == ("final", ())
    assert certificate.attempt == 1  # the next leader goes on without the new voter
    swarm.vouches = lambda voter, _candidate: voter != voters[0]
    while not certificate.value.promoted:
        certificate = play(swarm, 1)[0]
    assert len(ledger_of(swarm).voters) == 4


def test_without_audits_nothing_of_them_is_in_any_byte() -> None:
    swarm = make_swarm(3, 3, audits=None)
    swarm.judge = lambda _by, _of: 1000
    (certificate,) = play(swarm, 1)
    for data in (certificate.encode(), ledger_of(swarm).encode()):
        assert not {b"verdicts", b"promoted", b"audited"} & {
            name for name in (b"verdicts", b"promoted", b"audited") if name in data
        }


# -- what is refused ---------------------------------------------------------------------------------

FOUR = peers(4)
NEW, STRANGER = ToySigner(10), ToySigner(11)
KEYS = tuple(sorted(signer.key for signer in FOUR))
RULES = make_rules(invited_vote=False, audits=AUDITS, founders=KEYS[:1])


def repute(key: bytes, passed: int, opinion: int = 20) -> Repute:
    return Repute(key, passed, (opinion,) * 4, 4)


def ledger(*known: Repute, promoted: int = 0) -> Ledger:
    items = {key: repute(key, 4) for key in KEYS} | {item.key: item for item in known}
    everybody = tuple(sorted((*KEYS, NEW.key)))
    audited = Audited(tuple(items[key] for key in sorted(items)), everybody, promoted)
    return make_ledger(KEYS, audited=audited)


def context(before: Ledger | None = None) -> Context:
    return make_context(FOUR[0], FOUR, ledger=before or ledger(), rules=RULES)


def verdict(by: ToySigner, subject: bytes | None = None, **changes: Any) -> Verdict:
    ours = context()
    drawn = subject_of(by.key, ours.ledger, ours.prior, RULES) or bytes(32)
    fields: dict[str, Any] = {
        "swarm": RULES.swarm,
        "round_number": 5,
        "prior": ours.prior,
        "subject": subject or drawn,
        "score": 5,
    }
    return sign_verdict(by, **(fields | changes))


def join(by: ToySigner, said: Verdict) -> Join:
    plain = make_context(by, FOUR, ledger=ledger(), rules=RULES, verdict=lambda: said)
    return plain.join(0, role="full", upload=0.0, contribution=None, lock=None, holds=())


def other_than_drawn(by: ToySigner) -> bytes:
    return next(key for key in KEYS if key not in (by.key, verdict(by).subject))


BAD_VERDICTS: dict[str, tuple[Any, str]] = {
    "of another subject": (lambda: verdict(FOUR[1], other_than_drawn(FOUR[1])), "wrong_draw"),
    "of itself": (lambda: verdict(FOUR[1], FOUR[1].key), "signature"),
    "of another round": (lambda: verdict(FOUR[1], round_number=4), "signature"),
    "of another branch": (lambda: verdict(FOUR[1], prior=b"q" * 32), "signature"),
    "of another swarm": (lambda: verdict(FOUR[1], swarm=b"t" * 32), "signature"),
    "out of bounds": (lambda: verdict(FOUR[1], score=1001), "signature"),
    "of another auditor": (lambda: verdict(FOUR[2]), "unasked"),
    "with another score": (lambda: msgspec.structs.replace(verdict(FOUR[1]), score=6), "signature"),
}


@pytest.mark.parametrize("name", BAD_VERDICTS)
def test_a_join_with_a_bad_verdict_is_refused(name: str) -> None:
    make, reason = BAD_VERDICTS[name]
    with pytest.raises(MessageError) as refused:
        context().check_join(join(FOUR[1], make()))
    assert refused.value.reason == reason


def test_a_join_with_a_good_verdict_is_taken_and_who_does_not_vote_has_none() -> None:
    context().check_join(join(FOUR[1], verdict(FOUR[1])))
    with pytest.raises(MessageError) as refused:
        context().check_join(join(NEW, verdict(NEW, KEYS[0])))
    assert refused.value.reason == "unasked"
    ours = make_context(FOUR[0], FOUR)  # a swarm without audits
    said = sign(msgspec.structs.replace(join(FOUR[1], verdict(FOUR[1])), prior=ours.prior), FOUR[1])
    with pytest.raises(MessageError) as refused:
        ours.check_join(said)
    assert refused.value.reason == "unasked"


def test_who_is_banned_is_refused_by_all_until_its_time_is_over() -> None:
    bare = make_context(NEW, FOUR, rules=RULES).join(
        0, role="full", upload=0.0, contribution=None, lock=None, holds=()
    )
    context(ledger(Repute(NEW.key, 0, (0,) * 4, 4, 5))).check_join(bare)
    with pytest.raises(MessageError) as refused:
        context(ledger(Repute(NEW.key, 0, (0,) * 4, 4, 6))).check_join(bare)
    assert refused.value.reason == "banned"


def value_of(said: Sequence[Verdict], new: Sequence[bytes], **changes: Any) -> Value:
    value = make_value((*FOUR, NEW), FOUR, verdicts=tuple(said), promoted=tuple(new))
    voters = tuple(sorted((*KEYS, *new)))
    return msgspec.structs.replace(value, **({"voters": voters} | changes))


GOOD = [verdict(signer) for signer in sorted(FOUR, key=lambda signer: signer.key)]
ELIGIBLE = repute(NEW.key, 4)


def test_what_follows_from_the_ledger_is_taken() -> None:
    before = ledger(ELIGIBLE)
    value = value_of(GOOD, [NEW.key])
    check_certificate(certify(value, FOUR), KEYS, toy_verify)
    assert NEW.key in ledger_after(value, before, RULES).voters


BAD_VALUES: dict[str, tuple[Any, str]] = {
    "a verdict twice": (lambda: value_of([GOOD[0], GOOD[0]], []), "malformed"),
    "verdicts out of order": (lambda: value_of(GOOD[::-1], []), "malformed"),
    "too many verdicts": (lambda: value_of(GOOD * 17, []), "malformed"),
    "a score out of bounds": (
        lambda: value_of([msgspec.structs.replace(GOOD[0], score=-1001)], []), "malformed"
    ),
    "a forged verdict": (
        lambda: value_of([msgspec.structs.replace(GOOD[0], score=7)], []), "signature"
    ),
    "a verdict of another round": (
        lambda: value_of([verdict(FOUR[0], round_number=4)], []), "signature"
    ),
    "a short key": (lambda: value_of([], [b"short"]), "malformed"),
    "a new voter twice": (lambda: value_of([], [NEW.key, NEW.key]), "malformed"),
    "another draw": (
        lambda: value_of([verdict(FOUR[0], other_than_drawn(FOUR[0]))], []), "wrong_draw"
    ),
    "a newcomer's verdict": (lambda: value_of([verdict(NEW, KEYS[0])], []), "wrong_draw"),
    "an absent auditor": (
        lambda: value_of(GOOD, [], present=tuple(sorted((*KEYS[1:], NEW.key)))), "wrong_cut"
    ),
    "a new voter that is none": (lambda: value_of(GOOD, [NEW.key]), "ineligible"),
    "a new voter that was not there": (lambda: value_of(GOOD, [STRANGER.key]), "ineligible"),
    "a voter as a new voter": (lambda: value_of(GOOD, [KEYS[1]], voters=KEYS), "ineligible"),
    "no verdicts at all": (lambda: value_of([], [], verdicts=UNSET), "malformed"),
    "nobody promoted, not even in words": (lambda: value_of([], [], promoted=UNSET), "malformed"),
    "a voter of its own": (
        lambda: value_of([], [], voters=tuple(sorted((*KEYS, NEW.key)))), "different_value"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_value_with_what_does_not_follow_is_refused(name: str) -> None:
    make, reason = BAD_VALUES[name]
    with pytest.raises(CertificateError) as refused:
        take(make())
    assert refused.value.reason == reason


def take(value: Value) -> Ledger:
    """What a peer does that follows the chain."""
    check_certificate(decode_certificate(certify(value, FOUR).encode()), KEYS, toy_verify)
    return ledger_after(value, ledger(), RULES)


@pytest.mark.parametrize(
    ("known", "promoted", "present"),
    [
        (repute(NEW.key, 1), 0, 5), (repute(NEW.key, 4, opinion=7), 0, 5), (repute(NEW.key, 4), 1, 5),
        (repute(NEW.key, 4), 0, 2), (Repute(NEW.key, 4, (20,) * 4, 4, 9), 0, 5),
    ],
    ids=["too few audits", "too little reputation", "no room in this epoch", "no majority", "banned"],
)  # fmt: skip
def test_who_may_not_become_a_voter(known: Repute, promoted: int, present: int) -> None:
    there = tuple(sorted((*KEYS[: present - 1], NEW.key)))
    before = ledger(known, promoted=promoted)
    with pytest.raises(CertificateError) as refused:
        ledger_after(value_of([], [NEW.key], present=there), before, RULES)
    assert refused.value.reason == "ineligible"


def test_a_swarm_without_audits_takes_no_verdicts() -> None:
    plain = make_ledger(KEYS)
    for changes in ({"verdicts": ()}, {"promoted": ()}):
        with pytest.raises(CertificateError) as refused:
            ledger_after(msgspec.structs.replace(make_value(FOUR, FOUR), **changes), plain, make_rules())
        assert refused.value.reason == "malformed"


def test_a_roster_with_more_newcomers_than_an_eighth_is_refused() -> None:
    swarm = make_swarm(6, 4)
    swarm.start_round()
    swarm.close()
    nodes = list(swarm.nodes.values())
    leader = next(node for node in nodes if node.key == nodes[0].machine.context.leader(0))
    swarm.run_until(lambda: leader.machine.last is not None and leader.machine.last.roster is not None)
    attempt = leader.machine.last
    assert attempt is not None
    assert attempt.roster is not None
    roster = attempt.roster
    there = {item.key for item in roster.members}
    assert len(on_probation(there, leader.ledger, swarm.rules)) == 1
    missing = next(node for node in nodes if node.key not in there)
    late = missing.machine.context.join(0, role="full", upload=0.0, contribution=None, lock=None, holds=())
    members = tuple(sorted((*roster.members, late), key=lambda item: item.key))
    crowded = sign(msgspec.structs.replace(roster, members=members), leader.signer)
    with pytest.raises(MessageError) as refused:
        nodes[0].machine.context.check_roster(crowded)
    assert refused.value.reason == "full"
    assert not any(isinstance(note, outputs.Refused) and note.reason == "full" for note in leader.notes)


def test_a_flood_of_newcomers_takes_no_voters_place() -> None:
    swarm = make_swarm(40, 4)
    swarm.start_round()
    swarm.close()
    swarm.run(swarm.now + 20.0)
    value = next(node.commits[0].value for node in swarm.nodes.values() if node.commits)
    assert set(ledger_of(swarm).voters) < set(value.present)
    assert len(value.present) == 5


def test_contributions_of_newcomers_are_counted_without_weight() -> None:
    before = ledger(repute(NEW.key, 0))
    value = value_of(
        GOOD,
        [],
        cut=tuple(sorted((make_contribution(one) for one in (*FOUR, NEW)), key=lambda c: c.key)),
    )
    after = ledger_after(value, before, RULES)
    assert after.tokens == before.tokens + 4 * 8000
    assert isinstance(after.audited, Audited)
    assert NEW.key in after.audited.cut
