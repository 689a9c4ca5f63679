"""What is judged is what the arithmetic counts; and from losses to a score."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.aggregate import combine
from talkoot.averaging.certificate import Value
from talkoot.averaging.inputs import Input, sources_of
from talkoot.averaging.robustness import Robustness
from talkoot.averaging.verdicts import MAX_SCORE
from talkoot.peer.attacks.exchange import Counted, Exchange, Sent, Terms
from talkoot.peer.judging import case as case_module
from talkoot.peer.judging.case import Case, dense_case, sparse_case
from talkoot.peer.judging.purse import SAVED_ROUNDS, Purse
from talkoot.peer.judging.score import CLEAR, SIGNIFICANT, ratio_of, score_of, windows_seed

NUMEL = 4000
TERMS = Terms(
    workers=4, inner_steps=10, robustness=Robustness(norm_cap="part"), codec="int8", aggregate_codec="fp32"
)


def _round(exchange: Exchange, *, forge: bool = False) -> Counted:
    noise = torch.Generator().manual_seed(3)
    sent = [
        Sent(delta=scale * torch.randn(NUMEL, generator=noise), steps=10, tokens=100 * scale)
        for scale in (1, 2, 3, 9)
    ]
    if forge:
        sent[2] = replace(sent[2], forge="nan")
    return exchange.round(sent)


def _case(exchange: Exchange, counted: Counted, auditor: int, subject: int) -> Case:
    value = counted.value
    key, reducer = value.cut[subject].key, value.parts[auditor].reducer
    made = dense_case(
        value, counted.slices[auditor], counted.ledger, exchange.rules, auditor=reducer, subject=key
    )
    assert made is not None
    return made


def test_the_slices_that_are_judged_add_up_to_what_was_counted(tmp_path: Path) -> None:
    exchange = Exchange(TERMS, torch.zeros(NUMEL))
    counted = _round(exchange)
    for auditor in range(4):
        total = torch.zeros(NUMEL)
        for subject in range(4):
            made = _case(exchange, counted, auditor, subject)
            piece = made.decode()
            assert piece is not None
            span = slice(made.start, made.start + made.numel)
            total[span] += counted.weights[subject] * piece
            assert made.write(tmp_path / "piece")
            assert np.fromfile(tmp_path / "piece", dtype="<f4").tobytes() == piece.numpy().tobytes()
        assert torch.allclose(total[span], counted.aggregate[span], rtol=1e-5, atol=1e-6)
    assert min(made.caps) < 1  # the last one is the loudest


def test_a_whole_blob_is_judged_as_it_was_added_up() -> None:
    exchange = Exchange(replace(TERMS, robustness=Robustness(norm_cap="chunk")), torch.zeros(NUMEL))
    counted = _round(exchange)
    value, rules = counted.value, exchange.rules
    inputs = []
    for item in value.cut:
        held = [piece[item.key] for piece in counted.slices]
        index = held[0].index
        assert index is not None
        chunks = {number: data for piece in held for number, data in piece.chunks.items()}
        inputs.append(Input(item, index.entries, [chunks[number] for number in range(rules.num_chunks)]))
    sources = sources_of(inputs, counted.ledger, rules)
    total, exact = torch.zeros(NUMEL), torch.empty(NUMEL)
    for subject, item in enumerate(value.cut):
        made = sparse_case(value, sources, rules, auditor=bytes(32), subject=item.key)
        assert made is not None
        piece = made.decode()
        assert piece is not None
        assert (made.start, made.numel) == (0, NUMEL)
        total += counted.weights[subject] * piece
    combine(sources, rules=rules, out_P=exact)
    assert torch.allclose(total, exact, rtol=1e-5, atol=1e-6)


def test_what_does_not_decode_is_said(tmp_path: Path) -> None:
    exchange = Exchange(TERMS, torch.zeros(NUMEL))
    counted = _round(exchange, forge=True)
    made = _case(exchange, counted, 1, 2)
    assert made.decode() is None
    assert not made.write(tmp_path / "piece")


def test_without_all_of_it_there_is_no_case() -> None:
    exchange = Exchange(TERMS, torch.zeros(NUMEL))
    counted = _round(exchange)
    value, held = counted.value, dict(counted.slices[1])
    reducer, key, other = value.parts[1].reducer, value.cut[2].key, value.cut[3].key

    def made(auditor: bytes) -> Case | None:
        return dense_case(value, held, counted.ledger, exchange.rules, auditor=auditor, subject=key)

    assert made(reducer) is not None
    assert made(bytes(32)) is None  # reduced nothing
    held[other] = replace(held[other], chunks={})  # of others only the norms are needed
    assert made(reducer) is not None
    held[key] = replace(held[key], chunks={})
    assert made(reducer) is None
    held = {name: piece for name, piece in counted.slices[1].items() if name != other}
    assert made(reducer) is None


def test_of_a_large_part_a_run_is_judged_that_nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange(TERMS, torch.zeros(NUMEL))
    counted = _round(exchange)
    value, rules = counted.value, exchange.rules
    item = value.cut[3]
    held = [piece[item.key] for piece in counted.slices]
    index = held[0].index
    assert index is not None
    chunks = {number: data for piece in held for number, data in piece.chunks.items()}
    lone = replace_cut(counted, 3)
    inputs = [Input(item, index.entries, [chunks[number] for number in range(4)])]
    sources = sources_of(inputs, counted.ledger, rules)
    whole = sparse_case(lone, sources, rules, auditor=bytes(32), subject=item.key)
    assert whole is not None
    monkeypatch.setattr(case_module, "MAX_NUMEL", 2 * rules.chunk_size)
    starts = set()
    for number in range(20):
        some = sparse_case(lone, sources, rules, auditor=bytes([number]) * 32, subject=item.key)
        assert some is not None
        starts.add(some.start // rules.chunk_size)
        piece, all_of_it = some.decode(), whole.decode()
        assert piece is not None
        assert all_of_it is not None
        assert some.numel == 2 * rules.chunk_size
        assert torch.equal(piece, all_of_it[some.start : some.start + some.numel])
    assert starts == {0, 1, 2}


def replace_cut(counted: Counted, subject: int) -> Value:
    """The value with one contribution only."""
    return msgspec.structs.replace(counted.value, cut=(counted.value.cut[subject],))


# -- scores ------------------------------------------------------------------------------------------


def _plain_ratio(before: Sequence[float], after: Sequence[float]) -> float:
    decrease = np.asarray(before) - np.asarray(after)
    return float(decrease.mean() / (decrease.std(ddof=1) / math.sqrt(len(decrease))))


Losses = st.lists(st.tuples(st.floats(0.5, 9), st.floats(-0.3, 0.3)), min_size=8, max_size=64)


@examples(60)
@given(Losses)
def test_scores_follow_students_ratio_and_turn_around(drawn: list[tuple[float, float]]) -> None:
    before = [loss for loss, _ in drawn]
    after = [loss - change for loss, change in drawn]
    score, back = score_of(before, after), score_of(after, before)
    assert score is not None
    assert back is not None
    assert -MAX_SCORE <= score == -back <= MAX_SCORE
    mean = sum(change for _, change in drawn) / len(drawn)
    spread = float(np.std([change for _, change in drawn]))
    if abs(mean) > 1e-3 and spread > 1e-3:
        assert ratio_of(before, after) == pytest.approx(_plain_ratio(before, after), rel=1e-6)
    ratio = ratio_of(before, after)
    assert (score == 0) == (abs(ratio) < SIGNIFICANT)
    assert abs(score) == MAX_SCORE or abs(ratio) < CLEAR


def test_scores_at_the_edges() -> None:
    flat = [2.0] * 8
    assert score_of(flat, flat) == 0
    assert score_of(flat, [2.0 + 1e-8] * 8) == 0  # rounding
    assert score_of(flat, [1.9] * 8) == MAX_SCORE
    assert score_of(flat, [2.1] * 8) == -MAX_SCORE
    assert score_of(flat, [2.0] * 7 + [math.nan]) == -MAX_SCORE
    assert score_of(flat, [math.inf] * 8) == -MAX_SCORE
    assert score_of([math.nan] * 8, flat) is None


def test_windows_are_another_draw_for_everybody() -> None:
    seeds = {windows_seed(bytes([a]) * 32, bytes([b]) * 32) for a in range(8) for b in range(8)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)


# -- time --------------------------------------------------------------------------------------------


@examples(50)
@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 100)), max_size=30))
def test_a_purse_never_pays_more_than_the_share(turns: list[tuple[float, float]]) -> None:
    purse, most = Purse(0.03), 0.0
    for steps_s, wanted_s in turns:
        purse.earn(steps_s)
        most = max(most, 0.03 * steps_s)
        spent = min(wanted_s, max(0.0, purse.left_s))
        purse.spend(spent)
        assert purse.left_s <= SAVED_ROUNDS * most + 1e-9
    assert purse.spent_s <= purse.earned_s + 1e-9
    assert purse.earned_s == pytest.approx(0.03 * sum(steps_s for steps_s, _ in turns))


def test_what_was_spent_too_much_is_paid_back() -> None:
    purse = Purse(0.1)
    purse.earn(10.0)
    purse.spend(3.0)
    assert purse.left_s == -2.0
    purse.earn(10.0)
    assert purse.left_s == -1.0
    for _ in range(20):
        purse.earn(10.0)
    assert purse.left_s == SAVED_ROUNDS
