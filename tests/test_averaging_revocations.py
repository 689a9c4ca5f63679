"""Invites that a founder takes back: who may, what follows, and what is refused; one ledger for all."""

from collections.abc import Sequence
from dataclasses import replace
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
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from round_swarm import Node, Swarm, ToySigner, toy_verify

from talkoot.averaging.certificate import (
    CertificateError,
    Contribution,
    Value,
    check_certificate,
    decode_certificate,
)
from talkoot.averaging.context import Context
from talkoot.averaging.ledger import MAX_TOKENS_USED, Ledger, Used, decode_ledger
from talkoot.averaging.messages import Join, Message, MessageError, Proposal
from talkoot.averaging.revocations import MAX_REVOKED, NOBODY, Revocation, sign_revocation
from talkoot.averaging.succession import ledger_after, next_ledger, weigh
from talkoot.averaging.wire import encode

FOUR = peers(4)
KEYS = tuple(signer.key for signer in FOUR)
FOUNDER, OTHER_FOUNDER, INVITED, VOTER = FOUR
STRANGER = ToySigner(11)


def token(number: int) -> bytes:
    return b"token %02d" % number + bytes(24)


def admit(key: bytes, proof: bytes) -> bytes | None:
    """The test's invites: a key and the peer that it admits."""
    return proof[:32] if proof[32:] == key and proof else None


def issued(founder: bytes, key: bytes, terms: bytes) -> bool:
    return terms == founder + key


RULES = make_rules(admit=admit, issued=issued, founders=KEYS[:2])
BEFORE = make_ledger(KEYS, used=(Used(token(1), INVITED.key),))


def revoke(by: ToySigner, number: int, **changes: Any) -> Revocation:
    fields = {"swarm": RULES.swarm, "token": token(number), "permission": by.key + token(number)} | changes
    return sign_revocation(by, **fields)


# -- what follows ------------------------------------------------------------------------------------


def after(revoked: Sequence[Revocation], present: Sequence[ToySigner] = FOUR, **changes: Any) -> Ledger:
    there = tuple(signer.key for signer in present)
    cut = tuple(make_contribution(signer) for signer in present)
    arguments: dict[str, Any] = {"ledger": BEFORE, "cut": cut} | changes
    return next_ledger(**arguments, present=there, rules=RULES, revoked=revoked)


def newcomer(number: int, signer: ToySigner = STRANGER) -> Contribution:
    return make_contribution(signer, admission=token(number) + signer.key)


def test_an_open_invite_that_is_revoked_admits_nobody() -> None:
    ledger = after([revoke(FOUNDER, 2)])
    assert ledger.used == (*BEFORE.used, Used(token(2), NOBODY))
    assert ledger.voters == KEYS
    cut = sorted((make_contribution(FOUNDER), newcomer(2)), key=lambda item: item.key)
    weights = {item.contribution.key: item.weight for item in weigh(cut, ledger, RULES)}
    assert weights == {FOUNDER.key: 1.0, STRANGER.key: 0.0}
    assert STRANGER.key not in next_ledger(ledger, cut, KEYS, RULES).voters


def test_a_used_invite_that_is_revoked_takes_vote_and_weight_from_the_next_round_on() -> None:
    cut = [make_contribution(signer) for signer in FOUR]
    assert all(item.weight == 0.25 for item in weigh(cut, BEFORE, RULES))
    ledger = after([revoke(FOUNDER, 1)])
    assert ledger.voters == (*KEYS[:2], VOTER.key)
    assert ledger.used == (Used(token(1), NOBODY),)
    again = sorted((make_contribution(FOUNDER), newcomer(1, INVITED)), key=lambda item: item.key)
    weights = {item.contribution.key: item.weight for item in weigh(again, ledger, RULES)}
    assert weights == {FOUNDER.key: 1.0, INVITED.key: 0.0}
    assert INVITED.key not in next_ledger(ledger, again, KEYS, RULES).voters


def test_another_invite_lets_it_in_again_or_keeps_it() -> None:
    ledger = after([revoke(FOUNDER, 1)])
    assert INVITED.key in next_ledger(ledger, [newcomer(3, INVITED)], KEYS, RULES).voters
    two = make_ledger(KEYS, used=(*BEFORE.used, Used(token(2), INVITED.key)))
    assert INVITED.key in after([revoke(FOUNDER, 1)], ledger=two).voters


def test_who_shows_it_in_the_same_round_is_not_admitted() -> None:
    ledger = after([revoke(FOUNDER, 2)], cut=(newcomer(2),))
    assert (ledger.voters, ledger.used[1]) == (KEYS, Used(token(2), NOBODY))


def test_a_founder_stays_and_a_key_of_zeros_gains_nothing() -> None:
    used = make_ledger(KEYS, used=(Used(token(1), OTHER_FOUNDER.key),))
    assert after([revoke(FOUNDER, 1)], ledger=used).voters == KEYS
    zeros = make_contribution(STRANGER, key=NOBODY, admission=token(1) + NOBODY)
    ledger = after([revoke(FOUNDER, 1)])
    assert NOBODY not in next_ledger(ledger, [zeros], KEYS, RULES).voters


def test_without_a_majority_no_vote_is_taken_but_open_invites_are() -> None:
    revoked = [revoke(FOUNDER, 1), revoke(FOUNDER, 2)]
    ledger = after(revoked, FOUR[:2])
    assert ledger.voters == KEYS
    assert ledger.used == (*BEFORE.used, Used(token(2), NOBODY))
    assert INVITED.key not in after(revoked, [*FOUR[:2], VOTER]).voters


def test_a_full_ledger_takes_no_more_and_has_room_for_those_that_it_knows() -> None:
    full = (*BEFORE.used, *(Used(b"x%031d" % number, VOTER.key) for number in range(MAX_TOKENS_USED - 1)))
    ledger = after([revoke(FOUNDER, 1), revoke(FOUNDER, 2)], ledger=make_ledger(KEYS, used=full))
    assert len(ledger.used) == MAX_TOKENS_USED
    assert Used(token(1), NOBODY) in ledger.used
    assert token(2) not in {use.token for use in ledger.used}


Step = tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...]]
"""Who of four is present, which peer shows which token, which tokens the founder takes back."""
STEPS = st.lists(
    st.tuples(
        st.sets(st.integers(1, 3)).map(lambda ones: (0, *sorted(ones))),
        st.dictionaries(st.integers(1, 3), st.integers(1, 5)).map(lambda shown: tuple(shown.items())),
        st.sets(st.integers(1, 5), max_size=3).map(lambda ones: tuple(sorted(ones))),
    ),
    max_size=8,
)


@examples(150)
@given(STEPS)
def test_what_is_revoked_stays_so_and_only_a_majority_takes_votes(steps: list[Step]) -> None:
    rules = replace(RULES, founders=KEYS[:1])
    ledger = make_ledger(KEYS[:1])
    gone = set[bytes]()
    for present, shown, back in steps:
        there = [KEYS[number] for number in present]
        tokens = {number: token(t) for number, t in shown if number in present}
        cut = [
            make_contribution(FOUR[n], admission=tokens[n] + KEYS[n] if n in tokens else b"") for n in present
        ]
        fresh = [number for number in back if token(number) not in gone]
        before = ledger
        ledger = next_ledger(before, cut, there, rules, revoked=[revoke(FOUNDER, n) for n in fresh])
        owners = {use.token: use.peer for use in ledger.used}
        gone |= {key for key, owner in owners.items() if owner == NOBODY}
        assert all(owners[key] == NOBODY for key in gone)
        assert KEYS[0] in ledger.voters
        assert set(ledger.voters) <= {KEYS[0], *owners.values()} | set(before.voters)
        if 2 * len(set(before.voters) & set(there)) <= len(before.voters):
            assert set(before.voters) <= set(ledger.voters)
        else:
            assert gone >= {token(number) for number in fresh}
            assert set(ledger.voters) - {KEYS[0]} <= set(owners.values())
        assert decode_ledger(ledger.encode()) == ledger


# -- what is refused ---------------------------------------------------------------------------------


def join(by: ToySigner, revoked: Sequence[Revocation]) -> Join:
    ours = make_context(by, FOUR, ledger=BEFORE, rules=RULES, revoked=lambda: tuple(revoked))
    return ours.join(0, role="full", upload=0.0, contribution=None, lock=None, holds=())


def context(**changes: Any) -> Context:
    return make_context(VOTER, FOUR, **({"ledger": BEFORE, "rules": RULES} | changes))


def refusal(said: Join, ours: Context) -> str:
    with pytest.raises(MessageError) as refused:
        ours.check_join(said)
    return refused.value.reason


GOOD = [revoke(FOUNDER, 1), revoke(FOUNDER, 2)]
FORGED = Revocation(FOUNDER.key, token(1), FOUNDER.key + token(1), revoke(VOTER, 1).signature)
BAD: dict[str, tuple[Sequence[Revocation], str]] = {
    "an invite of another founder": (
        [revoke(FOUNDER, 1, permission=OTHER_FOUNDER.key + token(1))], "not_issued"
    ),
    "an invite that nobody issued": ([revoke(FOUNDER, 1, permission=b"")], "not_issued"),
    "twice": ([GOOD[0], GOOD[0]], "malformed"),
    "out of order": (GOOD[::-1], "malformed"),
    "none, in words": ([], "malformed"),
    "of another swarm": ([revoke(FOUNDER, 1, swarm=b"t" * 32)], "signature"),
    "signed by another": ([FORGED], "signature"),
}  # fmt: skip


def with_list(said: Join, revoked: Sequence[Revocation]) -> Join:
    """An empty list too, which `Context.join` leaves out."""
    changed = msgspec.structs.replace(said, revoked=tuple(revoked), signature=b"")
    return msgspec.structs.replace(changed, signature=FOUNDER.sign(changed.unsigned()))


@pytest.mark.parametrize("name", BAD)
def test_a_join_with_a_bad_revocation_is_refused(name: str) -> None:
    revoked, reason = BAD[name]
    assert refusal(with_list(join(FOUNDER, []), revoked), context()) == reason


def test_only_a_founder_revokes_and_only_by_itself() -> None:
    context().check_join(join(FOUNDER, GOOD))
    context().check_join(join(OTHER_FOUNDER, [revoke(OTHER_FOUNDER, 3)]))
    assert refusal(join(OTHER_FOUNDER, GOOD), context()) == "not_a_founder"
    assert refusal(join(VOTER, [revoke(VOTER, 1)]), context()) == "not_a_founder"
    assert refusal(join(STRANGER, [revoke(STRANGER, 1)]), context()) == "not_a_founder"


def test_too_many_repeated_and_misplaced_ones_are_refused() -> None:
    most = [revoke(FOUNDER, number) for number in range(10, 10 + MAX_REVOKED)]
    context().check_join(join(FOUNDER, most))
    assert refusal(join(FOUNDER, [*most, revoke(FOUNDER, 90)]), context()) == "oversized"
    known = make_ledger(KEYS, used=(Used(token(1), NOBODY),))
    assert refusal(join(FOUNDER, GOOD[:1]), context(ledger=known)) == "revoked"
    for rules in (replace(RULES, invited_vote=False), replace(RULES, listed=KEYS)):
        assert refusal(join(FOUNDER, GOOD), context(rules=rules)) == "unasked"


def value_of(revoked: Any, **changes: Any) -> Value:
    changes = {"revoked": revoked, "voters": (*KEYS[:2], VOTER.key)} | changes
    return msgspec.structs.replace(make_value(FOUR, FOUR), **changes)


def take(value: Value) -> Ledger:
    """What a peer does that follows the chain."""
    check_certificate(decode_certificate(certify(value, FOUR).encode()), KEYS, toy_verify)
    return ledger_after(value, BEFORE, RULES)


def test_what_founders_revoked_is_taken_from_a_certificate() -> None:
    assert take(value_of(tuple(GOOD))).voters == (*KEYS[:2], VOTER.key)


BAD_VALUES: dict[str, tuple[Any, str]] = BAD | {
    "by a voter": ([revoke(VOTER, 1)], "not_a_founder"),
    "too many": ([GOOD[0]] * (64 * MAX_REVOKED + 1), "malformed"),
    "a short key": ([revoke(FOUNDER, 1, token=b"short")], "malformed"),
    "a long permission": ([revoke(FOUNDER, 1, permission=bytes(129))], "malformed"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_value_with_a_bad_revocation_is_refused(name: str) -> None:
    revoked, reason = BAD_VALUES[name]
    with pytest.raises((CertificateError, ValueError)) as refused:
        take(value_of(tuple(revoked)))
    assert str(refused.value).startswith(("oversized", reason) if name == "too many" else reason)


def test_a_value_says_what_the_roster_says_and_draws_its_conclusion() -> None:
    for value, reason in (
        (value_of(tuple(GOOD), present=KEYS[1:]), "wrong_cut"),
        (value_of(tuple(GOOD), voters=KEYS), "different_value"),
        (value_of(UNSET), "different_value"),
    ):
        with pytest.raises(CertificateError) as refused:
            take(value)
        assert refused.value.reason == reason


def test_who_revokes_nothing_says_nothing() -> None:
    value = make_value(FOUR, FOUR)
    assert b"revoked" not in msgspec.msgpack.encode(value)
    assert b"revoked" not in encode(join(FOUNDER, []))


# -- rounds of machines ------------------------------------------------------------------------------


def invited_swarm(exchange: Any) -> tuple[Swarm, Node, Node, Node]:
    """Two voters, one of them the founder; two newcomers with invites."""
    swarm = Swarm(4, num_voters=2, numel=700, chunk_size=256, exchange=exchange)
    swarm.rules = replace(
        swarm.rules,
        admit=lambda peer, proof: proof.ljust(32, b"-") if proof == b"token-" + peer[:8] else None,
        issued=issued,
    )
    nodes = list(swarm.nodes.values())
    founder = next(node for node in nodes if node.key in swarm.rules.founders)
    early, late = (node for node in nodes if node.key not in node.ledger.voters)
    return swarm, founder, early, late


def play(swarm: Swarm) -> list[Node]:
    """One round; those who are alive have one state after it, who was not there takes it over."""
    swarm.start_round()
    swarm.close()
    swarm.run(swarm.now + 20.0)
    newest = max(swarm.nodes.values(), key=lambda node: node.ledger.round)
    for node in swarm.nodes.values():
        if node.ledger.round < newest.ledger.round:
            node.theta, node.momentum = newest.theta.clone(), newest.momentum.clone()
            node.ledger, node.digest = newest.ledger, newest.digest
    assert len({node.digest for node in swarm.nodes.values()}) == 1
    return [newest]


def token_of(node: Node) -> bytes:
    return (b"token-" + node.key[:8]).ljust(32, b"-")


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
def test_in_rounds_a_peer_is_thrown_out_and_another_never_gets_in(exchange: Any) -> None:
    swarm, founder, early, late = invited_swarm(exchange)
    late.alive = False
    play(swarm)
    assert early.key in founder.ledger.voters
    late.alive = True
    wanted = sorted((token_of(early), token_of(late)))

    def pending(key: bytes, ledger: Ledger) -> tuple[Revocation, ...]:
        done = {use.token for use in ledger.used if use.peer == NOBODY}
        return tuple(
            sign_revocation(founder.signer, swarm=swarm.rules.swarm, token=one, permission=key + one)
            for one in wanted
            if key == founder.key and one not in done
        )

    swarm.revoked = pending
    play(swarm)
    value = founder.commits[-1].value
    assert value.revoked is not UNSET
    assert [item.token for item in value.revoked] == wanted
    assert founder.ledger.used == tuple(Used(one, NOBODY) for one in wanted)
    play(swarm)
    value = decode_certificate(founder.commits[-1].encode()).value
    assert value.revoked is UNSET
    assert {early.key, late.key}.isdisjoint(founder.ledger.voters)
    weights = {item.contribution.key: item.weight for item in weigh(value.cut, founder.ledger, swarm.rules)}
    assert {weights.get(node.key, 0.0) for node in (early, late)} == {0.0}


def test_a_revoked_invite_is_told_at_the_door() -> None:
    ledger = after([revoke(FOUNDER, 2)])
    ours = make_context(FOUNDER, FOUR, ledger=ledger, rules=RULES, door=lambda key, proof: None)
    for number, reason in ((2, "revoked"), (3, None)):
        made = make_context(STRANGER, FOUR, ledger=ledger, rules=RULES)
        shown = newcomer(number)
        said = made.join(0, role="full", upload=0.0, contribution=shown, lock=None, holds=())
        assert ours.refusal(said) == reason


def test_a_leader_that_drops_a_revocation_gets_no_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    swarm, founder, _early, late = invited_swarm("dense")
    late.alive = False
    play(swarm)
    late.alive = True
    one = token_of(late)
    swarm.revoked = lambda key, ledger: (
        (sign_revocation(founder.signer, swarm=bytes(32), token=one, permission=key + one),)
        if key == founder.key
        else ()
    )
    receive = swarm._receive

    def without(to: bytes, sender: bytes, message: Message) -> None:
        if isinstance(message, Proposal):
            assert message.value.revoked is not UNSET
            less = msgspec.structs.replace(message.value, revoked=UNSET)
            message = msgspec.structs.replace(message, value=less)
        receive(to, sender, message)

    monkeypatch.setattr(swarm, "_receive", without)
    swarm.start_round()
    swarm.close()
    swarm.run(swarm.now + 20.0)
    assert swarm.counted["different_value"] > 0
    assert len(founder.commits) == 1
