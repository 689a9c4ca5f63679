"""Weights, norm caps, the next ledger and the next voters."""

from statistics import median_low
from typing import Any

import msgspec
import pytest
from averaging_help import keys_of, make_contribution, make_ledger, make_rules, peers
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import ToySigner

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.ledger import (
    MAX_TOKENS_USED,
    MAX_VOTERS,
    NORM_HISTORY,
    Ledger,
    Standing,
    Used,
    decode_ledger,
)
from talkoot.averaging.succession import MAX_TOKENS, next_ledger, weigh

FIVE = peers(5)
KEYS = keys_of(FIVE)
STRANGER = ToySigner(77)
OPEN = make_rules(invited_vote=False, founders=KEYS[:1])
PRIVATE = make_rules(founders=KEYS[:1])


def cut_of(*items: Contribution) -> list[Contribution]:
    return sorted(items, key=lambda item: item.key)


def proof(signer: ToySigner, token: bytes = b"token") -> bytes:
    return token + b"|" + signer.key


def by_key(items: list[Any]) -> dict[bytes, Any]:
    return {item.contribution.key: item for item in items}


# -- weights and caps --------------------------------------------------------------------------------------

CLAIMS = st.lists(
    st.tuples(st.integers(0, 10**15), st.floats(0, 1e99), st.integers(0, 5)), min_size=1, max_size=5
)


@examples(100)
@given(CLAIMS)
def test_weights_and_caps_against_their_definition(claims: list[tuple[int, float, int]]) -> None:
    cut = [
        make_contribution(signer, tokens=tokens, norm2=norm2, carried=carried)
        for signer, (tokens, norm2, carried) in zip(FIVE, claims, strict=False)
    ]
    weighed = weigh(cut, make_ledger(KEYS), make_rules())
    assert sum(item.weight for item in weighed) == pytest.approx(1.0)
    tokens = median_low([claim[0] for claim in claims]) or 1
    raw = [min(2.0, max(0.5, claim[0] / tokens)) for claim in claims]
    cap = median_low([claim[1] ** 0.5 for claim in claims])
    for item, own, (_, norm2, carried) in zip(weighed, raw, claims, strict=True):
        assert item.weight == pytest.approx(own / sum(raw))
        allowed = cap * (1 if carried == 0 else 2)
        assert norm2**0.5 * item.clip <= allowed * (1 + 1e-12)
        assert item.clip == 1.0 or item.clip == pytest.approx(allowed / norm2**0.5)
        assert item.allowance == min(2, 1 + item.contribution.carried)


def test_a_boaster_weighs_at_most_four_times_the_least() -> None:
    cut = [make_contribution(signer, tokens=8000) for signer in FIVE[:3]]
    cut[0] = make_contribution(FIVE[0], tokens=10**15)
    cut[1] = make_contribution(FIVE[1], tokens=0)
    weights = [item.weight for item in weigh(cut, make_ledger(KEYS), make_rules())]
    assert weights == pytest.approx([2 / 3.5, 0.5 / 3.5, 1 / 3.5])


def test_of_two_norms_the_lower_one_caps() -> None:
    cut = [make_contribution(FIVE[0], norm2=1.0), make_contribution(FIVE[1], norm2=100.0)]
    assert [item.clip for item in weigh(cut, make_ledger(KEYS), make_rules())] == [1.0, 0.1]


def test_a_carried_contribution_may_be_twice_as_long() -> None:
    carried = [make_contribution(FIVE[n], norm2=16.0, carried=n) for n in range(3)]
    cut = [*carried, *(make_contribution(signer, norm2=1.0) for signer in FIVE[3:])]
    cut[2] = make_contribution(FIVE[2], norm2=1.0)
    assert [item.clip for item in weigh(cut, make_ledger(KEYS), make_rules())] == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_all_zero_contributions_are_not_divided_by_zero() -> None:
    cut = [make_contribution(FIVE[0], norm2=0.0), make_contribution(FIVE[1], norm2=4.0)]
    assert [item.clip for item in weigh(cut, make_ledger(KEYS), make_rules())] == [1.0, 0.0]


def test_who_is_on_probation_neither_weighs_nor_moves_the_medians() -> None:
    loud = make_contribution(STRANGER, tokens=10**15, norm2=1e20)
    others = [make_contribution(signer) for signer in FIVE[:2]]
    for rules in (OPEN, PRIVATE):
        weighed = by_key(weigh(cut_of(loud, *others), make_ledger(KEYS[:2]), rules))
        assert weighed[STRANGER.key].weight == 0.0
        assert {weighed[signer.key].weight for signer in FIVE[:2]} == {0.5}
        alone = weigh([loud], make_ledger(KEYS[:2]), rules)
        assert [item.weight for item in alone] == [0.0]


# -- the next ledger ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "steps"), [(1, 91), (2, 81)])
def test_counts_move_on(version: int, steps: int) -> None:
    ledger = make_ledger(KEYS[:2], norms=(9.0,), arithmetic=version)
    cut = cut_of(
        make_contribution(FIVE[0], steps=100, tokens=1000, norm2=4.0),
        make_contribution(FIVE[1], steps=81, tokens=1000, norm2=9.0),
        make_contribution(STRANGER, steps=10**9, tokens=10**15, norm2=1e9),
    )
    after = next_ledger(ledger, cut, KEYS[:2], PRIVATE)
    assert (after.round, after.global_step, after.reference_steps) == (6, 400 + steps, steps)
    assert after.tokens == 12_000
    assert after.norms == (9.0, 2.0)
    assert (after.codec, after.aggregate_codec, after.arithmetic) == ("int8", "int8", version)
    assert decode_ledger(after.encode()) == after


@pytest.mark.parametrize(("version", "steps"), [(1, (4 * 80 + 160) // 5), (2, 80)])
def test_one_claim_of_steps_does_not_move_the_clock(version: int, steps: int) -> None:
    cut = [make_contribution(signer, steps=80) for signer in FIVE]
    cut[3] = make_contribution(FIVE[3], steps=10**9)
    after = next_ledger(make_ledger(KEYS, arithmetic=version), cut, KEYS, PRIVATE)
    assert after.global_step - 400 == after.reference_steps == steps
    assert after.arithmetic == version


TWELVE = peers(12)


@examples(100)
@given(
    honest=st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**9)), min_size=3, max_size=9),
    lies=st.tuples(st.integers(1, 10**12), st.integers(0, 10**15)),
)
def test_a_quarter_of_liars_keeps_the_clock_among_honest_claims(
    honest: list[tuple[int, int]], lies: tuple[int, int]
) -> None:
    """Whatever they claim, of steps and of tokens."""
    claims = [*honest, *[lies] * (len(honest) // 3)]
    cut = [
        make_contribution(signer, steps=steps, tokens=tokens)
        for signer, (steps, tokens) in zip(TWELVE, claims, strict=False)
    ]
    keys = keys_of(TWELVE)
    after = next_ledger(make_ledger(keys, arithmetic=2), cut, keys, PRIVATE)
    claimed = [steps for steps, _ in honest]
    assert min(claimed) <= after.reference_steps <= max(claimed)


def test_who_does_as_many_steps_as_the_others_sees_no_difference_between_the_versions() -> None:
    cut = [make_contribution(signer, steps=77, tokens=100 * n) for n, signer in enumerate(FIVE)]
    first, second = (
        next_ledger(make_ledger(KEYS, arithmetic=version), cut, KEYS, PRIVATE) for version in (1, 2)
    )
    assert msgspec.structs.replace(second, arithmetic=1) == first


def test_a_round_in_which_nobody_weighs_changes_no_clock() -> None:
    after = next_ledger(make_ledger(KEYS[:2]), [make_contribution(STRANGER)], KEYS[:2], PRIVATE)
    assert (after.tokens, after.reference_steps, after.voters) == (10_000, 80, KEYS[:2])
    assert after.norms == (0.0,)


def test_tokens_of_work_that_was_counted_late_count_but_give_no_weight() -> None:
    cut = [
        make_contribution(FIVE[0], tokens=1000, carried=2, carried_tokens=2500),
        make_contribution(FIVE[1], tokens=1000),
    ]
    ledger = make_ledger(KEYS[:2], tokens=7)
    assert next_ledger(ledger, cut, KEYS[:2], make_rules()).tokens == 7 + 4500
    assert [item.weight for item in weigh(cut, ledger, make_rules())] == [0.5, 0.5]


def test_the_norm_history_is_short_and_tokens_fit_their_integer() -> None:
    ledger = make_ledger(KEYS[:1], norms=tuple(float(n) for n in range(NORM_HISTORY)), tokens=MAX_TOKENS)
    after = next_ledger(ledger, [make_contribution(FIVE[0])], KEYS[:1], PRIVATE)
    assert after.norms == (*ledger.norms[1:], 2.0)
    assert decode_ledger(after.encode()).tokens == MAX_TOKENS


# -- voters ------------------------------------------------------------------------------------------------


def rounds(ledger: Ledger, present: tuple[bytes, ...], count: int) -> Ledger:
    """The ledger after rounds with these peers."""
    for _ in range(count):
        cut = [make_contribution(s) for s in FIVE if s.key in present]
        ledger = next_ledger(ledger, cut, present, PRIVATE)
    return ledger


def test_a_long_absent_voter_is_removed_by_a_strict_majority_only() -> None:
    assert rounds(make_ledger(KEYS[:3]), KEYS[:2], 2).voters == KEYS[:3]
    assert rounds(make_ledger(KEYS[:3]), KEYS[:2], 3).voters == KEYS[:2]
    assert rounds(make_ledger(KEYS[:4]), KEYS[:2], 9).voters == KEYS[:4]  # two of four are no majority
    assert rounds(make_ledger(KEYS[:2]), KEYS[:1], 9).voters == KEYS[:2]
    assert rounds(make_ledger(KEYS), KEYS[:3], 3).voters == KEYS[:3]


def test_being_there_once_starts_the_count_again() -> None:
    ledger = rounds(make_ledger(KEYS[:3]), KEYS[:2], 2)
    assert ledger.absent == (0, 0, 2)
    ledger = rounds(ledger, KEYS[:3], 1)
    assert ledger.absent == (0, 0, 0)
    assert rounds(ledger, KEYS[:2], 2).voters == KEYS[:3]


def test_an_invited_contributor_weighs_at_once_and_votes_from_the_next_round_on() -> None:
    newcomer = make_contribution(STRANGER, admission=proof(STRANGER))
    cut = cut_of(make_contribution(FIVE[0]), newcomer)
    ledger = make_ledger(KEYS[:1])
    assert by_key(weigh(cut, ledger, PRIVATE))[STRANGER.key].weight == 0.5
    after = next_ledger(ledger, cut, (KEYS[0], STRANGER.key), PRIVATE)
    assert after.voters == tuple(sorted((KEYS[0], STRANGER.key)))
    assert after.used == (Used(b"token", STRANGER.key),)
    assert next_ledger(ledger, [make_contribution(FIVE[0])], KEYS[:1], PRIVATE).voters == KEYS[:1]


def test_a_token_admits_one_peer_for_good() -> None:
    ledger = make_ledger(KEYS[:1], used=(Used(b"token", FIVE[1].key),))
    again = make_contribution(FIVE[1], admission=proof(FIVE[1]))
    other = make_contribution(FIVE[2], admission=proof(FIVE[2]))
    stolen = make_contribution(FIVE[3], admission=proof(FIVE[1]))
    after = next_ledger(ledger, cut_of(again, other, stolen), KEYS, PRIVATE)
    assert after.voters == KEYS[:2]
    assert after.used == ledger.used


def test_a_token_shown_by_two_in_one_cut_admits_the_first() -> None:
    cut = cut_of(*(make_contribution(signer, admission=proof(signer)) for signer in FIVE[1:]))
    weighed = weigh(cut, make_ledger(KEYS[:1]), PRIVATE)
    assert [item.weight for item in weighed] == [1.0, 0.0, 0.0, 0.0]
    after = next_ledger(make_ledger(KEYS[:1]), cut, KEYS, PRIVATE)
    assert after.voters == KEYS[:2]
    assert after.used == (Used(b"token", KEYS[1]),)


def test_when_no_more_tokens_can_be_remembered_no_more_are_taken() -> None:
    used = tuple(Used(b"%05d" % number, bytes(32)) for number in range(MAX_TOKENS_USED))
    cut = [make_contribution(FIVE[1], admission=proof(FIVE[1]))]
    after = next_ledger(make_ledger(KEYS[:1], used=used), cut, KEYS, PRIVATE)
    assert (after.voters, after.used) == (KEYS[:1], used)


def test_a_founder_that_comes_back_votes_again() -> None:
    ledger = make_ledger(KEYS[1:3])
    after = next_ledger(ledger, [make_contribution(FIVE[0])], KEYS[:3], PRIVATE)
    assert after.voters == KEYS[:3]


def test_there_is_room_for_so_many_voters() -> None:
    many = tuple(sorted(bytes([number]) * 32 for number in range(MAX_VOTERS)))
    cut = [make_contribution(STRANGER, admission=proof(STRANGER))]
    after = next_ledger(make_ledger(many), cut, (*many, STRANGER.key), PRIVATE)
    assert after.voters == many


def test_listed_peers_weigh_at_once_and_vote_from_the_next_round_and_nobody_else_does() -> None:
    rules = make_rules(founders=KEYS[:1], listed=(FIVE[1].key,))
    invited = make_contribution(STRANGER, admission=proof(STRANGER))
    cut = cut_of(make_contribution(FIVE[0]), make_contribution(FIVE[1]), invited)
    ledger = make_ledger(KEYS[:1])
    assert [item.weight for item in weigh(cut, ledger, rules) if item.contribution.key == STRANGER.key] == [0]
    after = next_ledger(ledger, cut, KEYS, rules)
    assert after.voters == tuple(sorted((KEYS[0], FIVE[1].key)))
    assert after.used == ()


def test_in_an_open_swarm_newcomers_weigh_after_probation_and_do_not_vote() -> None:
    ledger = make_ledger(KEYS[:1])
    weights = []
    for _ in range(5):
        cut = cut_of(
            make_contribution(FIVE[0], round=ledger.round),
            make_contribution(STRANGER, admission=proof(STRANGER), round=ledger.round),
        )
        weights.append(by_key(weigh(cut, ledger, OPEN))[STRANGER.key].weight)
        ledger = next_ledger(ledger, cut, (KEYS[0], STRANGER.key), OPEN)
        assert (ledger.voters, ledger.used) == (KEYS[:1], ())
    assert weights == [0.0, 0.0, 0.0, 0.5, 0.5]
    assert ledger.standings == (Standing(STRANGER.key, 3),)
