"""The codecs of the next round: what the links allow, one rung a round."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from averaging_help import keys_of, make_contribution, make_ledger, make_rules, peers
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.certificate import CertificateError, Contribution
from talkoot.averaging.contribution import encoded_bytes
from talkoot.averaging.ladder import FIRST_PEERS, FIRST_UPLOAD, LADDERS, first_rung, next_rung, rungs_of
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Adaptive, Rules
from talkoot.averaging.succession import next_ledger

FIVE = peers(5)
KEYS = keys_of(FIVE)
RUNGS = (("fp32", "fp32"), ("bf16", "bf16"), ("int8", "int8"))
NUMEL = 1_000_000
ADAPTIVE = Adaptive(rungs=RUNGS, share=0.125, warm_rounds=2, exchange_ms=10**6, certify_ms=10**6)
RULES = make_rules(adaptive=ADAPTIVE, numel=NUMEL)


def uplink(times: float = 1.0) -> int:
    """Bytes/s on which bf16 both ways takes so many seconds less with four peers: 3/4 of 2 vectors."""
    return int(times * encoded_bytes(RULES, "bf16") * 3 / 2)


def cut_of(*uploads: int, **changes: Any) -> list[Contribution]:
    """Contributions of peers with these uplinks, whose steps took 8 s: an eighth is a second."""
    values = {"milliseconds": 8000} | changes
    return [
        make_contribution(signer, upload=upload, **values)
        for signer, upload in zip(FIVE, uploads, strict=False)
    ]


def after(rung: int, cut: list[Contribution], rules: Rules = RULES, **changes: Any) -> int:
    """The rung after a round on `rung`."""
    codec, back = RUNGS[rung]
    ledger = make_ledger(KEYS, codec=codec, aggregate_codec=back, **changes)
    return RUNGS.index(next_rung(ledger, cut, cut, rules))


def test_a_rung_is_kept_while_its_exchange_keeps_within_its_share() -> None:
    assert after(1, cut_of(*4 * [uplink(1.01)])) == 1
    assert after(1, cut_of(*4 * [uplink(0.99)])) == 2


def test_the_slowest_uplink_decides() -> None:
    fast = 3 * [uplink(7)]
    assert after(0, cut_of(*fast, uplink(7))) == 0
    assert after(0, cut_of(*fast, uplink())) == 1
    assert after(2, cut_of(*fast, uplink(0.01))) == 2  # there is nothing sparser


def test_a_claim_of_nearly_nothing_counts_as_an_eighth_of_the_median() -> None:
    assert after(1, cut_of(*3 * [8 * uplink(1.01)], 1)) == 1
    assert after(1, cut_of(*3 * [8 * uplink(0.99)], 1)) == 2


def test_a_denser_rung_needs_a_margin() -> None:
    assert after(2, cut_of(*4 * [uplink(1.3)])) == 2
    assert after(2, cut_of(*4 * [uplink(1.4)])) == 1


def test_one_rung_a_round() -> None:
    assert after(2, cut_of(*4 * [100 * uplink()])) == 1
    assert after(0, cut_of(*4 * [uplink(0.01)])) == 1


def test_the_length_of_a_round_is_the_lower_median() -> None:
    lengths = (1, 8000, 8000, 10**12)
    cut = [
        make_contribution(signer, upload=uplink(1.01), milliseconds=length)
        for signer, length in zip(FIVE, lengths, strict=False)
    ]
    assert after(1, cut) == 1


@pytest.mark.parametrize("cut", [cut_of(0, 0, 0, 0), cut_of(*4 * [10], milliseconds=0)])
def test_nothing_measured_changes_nothing(cut: list[Contribution]) -> None:
    assert [after(rung, cut) for rung in range(3)] == [0, 1, 2]


def test_what_is_not_measured_does_not_count() -> None:
    assert after(1, cut_of(0, *3 * [uplink(1.01)])) == 1


def test_first_rounds_may_take_longer() -> None:
    cut = cut_of(*4 * [uplink(0.26)])
    assert after(1, cut, round=0) == 1
    assert after(1, cut, round=1) == 2


def test_no_share_is_worth_a_missed_deadline() -> None:
    long = cut_of(*4 * [uplink(0.5)], milliseconds=10**9)  # a second each way
    assert after(1, long, replace(RULES, adaptive=replace(ADAPTIVE, exchange_ms=2001))) == 1
    assert after(1, long, replace(RULES, adaptive=replace(ADAPTIVE, exchange_ms=1999))) == 2
    assert after(1, long, replace(RULES, adaptive=replace(ADAPTIVE, certify_ms=1999))) == 2


def test_sparse_the_slowest_sends_its_blob_once_and_the_median_one_for_each() -> None:
    rules = replace(RULES, exchange="sparse")
    blob = encoded_bytes(RULES, "bf16") + 1
    assert after(1, cut_of(*3 * [3 * blob], blob), rules) == 1
    assert after(1, cut_of(*3 * [3 * blob - 4], blob), rules) == 2
    assert after(1, cut_of(*3 * [3 * blob], blob - 2), rules) == 2


def test_only_those_that_weigh_are_believed() -> None:
    rules = make_rules(adaptive=ADAPTIVE, numel=NUMEL, invited_vote=False, founders=KEYS[:1])
    ledger = make_ledger(KEYS[:1], codec="bf16", aggregate_codec="bf16")
    own, *others = (
        make_contribution(signer, upload=uplink(1.01) if signer.key == KEYS[0] else 1, milliseconds=8000)
        for signer in sorted(FIVE[:4], key=lambda signer: signer.key)
    )
    assert next_ledger(ledger, [own, *others], KEYS, rules).codec == "bf16"
    assert next_ledger(replace_voters(ledger), [own, *others], KEYS, rules).codec == "int8"


def replace_voters(ledger: Ledger) -> Ledger:
    return make_ledger(KEYS, codec=ledger.codec, aggregate_codec=ledger.aggregate_codec)


def test_without_auto_codecs_stay() -> None:
    cut = cut_of(1, 1, 1, 1)
    ledger = next_ledger(make_ledger(KEYS, aggregate_codec="bf16"), cut, KEYS, make_rules(numel=NUMEL))
    assert (ledger.codec, ledger.aggregate_codec) == ("int8", "bf16")


@given(
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), min_size=1, max_size=5),
    st.integers(0, 4),
)
@examples(100)
def test_whatever_one_of_three_honest_claims_the_swarm_moves_at_most_a_rung(
    rung: int, claims: list[tuple[int, int]], round_: int
) -> None:
    cut = [
        make_contribution(signer, upload=upload, milliseconds=length)
        for signer, (upload, length) in zip(FIVE, claims, strict=False)
    ]
    assert abs(after(rung, cut, round=round_) - rung) <= 1


@given(
    st.integers(10**3, 10**9), st.integers(10, 10**7), st.integers(1, 5), st.sampled_from(["dense", "sparse"])
)
@examples(60)
def test_steady_links_come_to_a_steady_rung(upload: int, length: int, num: int, exchange: Any) -> None:
    cut = cut_of(*num * [upload], milliseconds=length)
    rules = replace(RULES, exchange=exchange)
    for start in range(len(RUNGS)):
        rung, seen = start, []
        for _ in range(5):
            rung = after(rung, cut, rules)
            seen.append(rung)
        assert len(set(seen[2:])) == 1


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
def test_a_new_swarm_begins_with_what_its_deadlines_allow_on_a_slow_uplink(exchange: Any) -> None:
    def first(seconds: float) -> tuple[str, str]:
        adaptive = replace(ADAPTIVE, exchange_ms=int(1000 * seconds), certify_ms=int(1000 * seconds))
        return first_rung(replace(RULES, exchange=exchange, adaptive=adaptive))

    copies = Fraction(FIRST_PEERS - 1, FIRST_PEERS) if exchange == "dense" else FIRST_PEERS - 1
    needed_s = float(2 * copies * encoded_bytes(RULES, "bf16") / FIRST_UPLOAD)
    assert first(1.01 * needed_s) == RUNGS[1]
    assert first(0.99 * needed_s) == RUNGS[2]
    assert first(0.001) == RUNGS[2]


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
def test_ladders_lead_from_dense_to_sparse(exchange: Any) -> None:
    rules = make_rules(numel=10**8)
    sizes = [
        encoded_bytes(rules, codec) + (encoded_bytes(rules, back) if exchange == "dense" else 0)
        for codec, back in LADDERS[exchange]
    ]
    assert sizes == sorted(set(sizes), reverse=True)


def test_an_aggregate_codec_can_be_the_same_on_all_rungs() -> None:
    assert {back for _, back in rungs_of("dense", "fp16")} == {"fp16"}
    assert len(rungs_of("dense", "fp16")) == len({codec for codec, _ in LADDERS["dense"]})
    assert rungs_of("dense") == LADDERS["dense"]


@pytest.mark.parametrize("changes", [{"upload": -1}, {"upload": 10**12 + 1}, {"milliseconds": 10**12 + 1}])
def test_claims_have_bounds(changes: dict[str, int]) -> None:
    with pytest.raises(CertificateError, match="speed out of range"):
        make_contribution(FIVE[0], **changes).check(lambda *_: True)
