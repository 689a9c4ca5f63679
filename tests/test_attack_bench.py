"""The attack bench in small: the swarm's arithmetic, rows and errors as promised; and it can fail."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bad_input_rig import refused
from typer.testing import CliRunner

from talkoot.averaging.certificate import MAX_CLAIM
from talkoot.averaging.robustness import Robustness
from talkoot.cli.bench_attacks import table
from talkoot.cli.main import app
from talkoot.peer.attacks import reducers
from talkoot.peer.attacks.bench import Plan, load, measure
from talkoot.peer.attacks.catalogue import ATTACKS, MESSAGES, NONE
from talkoot.peer.attacks.exchange import Exchange, Sent, Terms
from talkoot.peer.attacks.nodes import run_nodes
from talkoot.peer.attacks.swarm import Laboratory, Setting, Training

MEAN = Robustness(norm_cap="none")


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    return Laboratory(max_bytes=2**19)


def small(robustness: Robustness = MEAN) -> Setting:
    return Setting(workers=3, liars=1, rounds=2, inner_steps=1, robustness=robustness)


def exchange_of(workers: int) -> Exchange:
    terms = Terms(workers=workers, inner_steps=10, robustness=MEAN, codec="fp32", aggregate_codec="fp32")
    return Exchange(terms, torch.zeros(100))


def test_rounds_are_the_mean_and_nesterov() -> None:
    exchange = exchange_of(2)
    for _ in range(2):
        exchange.round([Sent(delta=torch.full((100,), value), steps=10, tokens=100) for value in (1.0, 3.0)])
    assert torch.allclose(exchange.theta_P, torch.full((100,), -0.7 * (2 * 1.5 + 2 * (1.5 * 0.5 + 1))))


def test_claims_buy_no_more_than_twice_the_median() -> None:
    rows = [torch.ones(100), torch.full((100,), 3.0), torch.full((100,), -2.0)]
    states = []
    for claim in (200, 10**6, MAX_CLAIM):
        exchange = exchange_of(len(rows))
        sent = [Sent(delta=row, steps=10, tokens=100) for row in rows]
        exchange.round([replace(sent[0], tokens=claim), *sent[1:]])
        states.append(exchange.theta_P)
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_work_is_compared_by_the_step() -> None:
    """Twice the steps at the same pace push no further: who runs them is faster, not more right."""
    once, twice = exchange_of(2), exchange_of(2)
    row, other = torch.ones(100), torch.full((100,), 3.0)
    once.round([Sent(delta=row, steps=10, tokens=100), Sent(delta=other, steps=10, tokens=100)])
    twice.round([Sent(delta=row * 2, steps=20, tokens=100), Sent(delta=other, steps=10, tokens=100)])
    assert torch.equal(once.theta_P, twice.theta_P)


def test_each_attack_runs_and_a_clean_run_is_repeated_bit_for_bit(laboratory: Laboratory) -> None:
    states = {}
    for name, attack in [(NONE, None), ("again", None), *ATTACKS.items()]:
        training = Training(laboratory, small(), attack)
        *_, last = training.rounds()
        states[name] = training.exchange.theta_P
        assert bool(torch.isfinite(last.aggregate).all())
    assert torch.equal(states.pop("again"), states[NONE])
    distinct = {state.numpy().tobytes() for state in states.values()}
    assert len(distinct) == len(ATTACKS) - 2  # nan and inf count as zeros; alone, a Sybil is an honest peer


def test_liars_foresee_what_comes_of_a_lie_and_asking_changes_nothing() -> None:
    """With a residual of a late contribution, and under a rule that may arm."""
    states, asked = [], Robustness(rule="trimmed_mean", norm_cap="part", arms_at=0.25)
    drawn = torch.randn(5, 100, generator=torch.Generator().manual_seed(3))
    rows = [Sent(delta=row, steps=10, tokens=100) for row in drawn]
    for asks in (False, True):
        exchange = Exchange(Terms(workers=5, inner_steps=10, robustness=asked), torch.zeros(100))
        exchange.round(rows, late=[2])
        for strength in (0.5, 2.0, 100.0):
            lie = replace(rows[0], delta=torch.mul(rows[4].delta, -strength))
            sent = [lie, lie, *rows[2:]]
            if asks:
                foresee = exchange.foreseeing({n: sent[n] for n in (2, 3, 4)}, [0, 1])
                foresee(replace(lie, delta=torch.ones(100)))
                foreseen = foresee(lie)
            counted = exchange.round(sent)
            if asks:
                assert torch.equal(counted.aggregate, foreseen)
        states.append(exchange.theta_P)
    assert torch.equal(*states)


def test_a_factor_makes_another_run_of_the_same(laboratory: Laboratory) -> None:
    states = []
    for factor in (1.0, 1.0001):
        training = Training(laboratory, replace(small(), factor=factor), None)
        assert len(list(training.rounds())) == 2
        states.append(training.exchange.theta_P)
    usual, other = states
    assert not torch.equal(usual, other)
    assert torch.allclose(usual, other, atol=1e-2)


def test_the_bench_can_fail(laboratory: Laboratory) -> None:
    """A mean without bounds diverges under loud liars; a cap at the median norm does not."""
    losses = {}
    for name, robustness in {"mean": MEAN, "capped": Robustness()}.items():
        setting = replace(small(robustness), rounds=8, liars=1, inner_steps=2)
        training = Training(laboratory, setting, ATTACKS["sign-flip-10"])
        for _ in training.rounds():
            pass
        losses[name] = training.loss()
    assert losses["mean"] > 8  # guessing blindly costs ln 256 = 5.5
    assert losses["capped"] < 5.6


def test_whole_nodes_train_as_workers_without_messages_do(laboratory: Laboratory) -> None:
    setting = replace(small(), workers=4, inner_steps=8)
    training = Training(laboratory, setting, None)
    for _ in training.rounds():
        pass
    alone = training.loss()
    run = run_nodes(laboratory, setting, None)
    assert run.loss() == pytest.approx(alone, rel=1e-5)  # sums are in another order
    assert [len(cut) >= 3 for cut in run.counted] == [True, True]  # one may come late


@pytest.mark.parametrize("attack", MESSAGES)
def test_whole_nodes_that_lie_are_found_and_nobody_else(attack: str, laboratory: Laboratory) -> None:
    setting = replace(small(Robustness()), workers=4, rounds=2 if attack == "endless-calls" else 12)
    run = run_nodes(laboratory, setting, attack)
    assert run.honest_banned == set()
    assert run.loss() < 5.6
    assert run.honest_suspected == 0
    if attack == "lone-rounds":  # nothing shows that who certifies weakly saw the others
        assert run.detected_after is None
        honest = {peer.key for peer in run.honest}
        assert [len(cut & honest) >= 2 for cut in run.counted] == [True] * setting.rounds
    elif attack == "endless-calls":  # it said nothing that an honest one may not say
        assert run.detected_after is None
        assert all(len(cut) >= 2 for cut in run.counted[1:]), "no second one of the liar alone"
    elif attack == "chosen-cuts":
        assert run.detected_after is None
        liars = {peer.key for peer in run.liars}
        assert not any(cut <= liars for cut in run.counted)
    elif attack == "withheld":
        assert run.detected_after is None
        assert all(not peer.node.conduct.noted() for peer in run.honest if peer.node is not None)
    else:
        assert run.detected_after is not None


def test_a_reducer_that_claims_more_than_there_can_be_changes_nothing(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is proven all the same: whoever did not take its part audits it."""
    monkeypatch.setattr(reducers, "LOUDNESS", 1e6)
    setting = replace(small(Robustness()), workers=4, rounds=4)
    run = run_nodes(laboratory, setting, "lying-reducer")
    assert run.detected_after == 2
    assert run.honest_banned == set()
    assert run.loss() < 5.6
    assert [len(cut) for cut in run.counted[:1]] == [4]


def test_audits_leave_liars_out_and_ban_them_and_nobody_else(laboratory: Laboratory) -> None:
    plan = Plan(
        sizes=[(4, 1)], attacks=["sign-flip"], rules=["default"], seeds=1, rounds=12, steps=4, model="bigram"
    )
    clean, lies = measure(plan, None, laboratory)
    assert clean["detected_after"] is clean["honest_left_out"] is clean["honest_banned"] is None
    assert lies["audits"]
    assert lies["detected_after"] is not None
    assert lies["honest_left_out"] == lies["honest_banned"] == 0


def test_rows_are_kept_and_not_run_again(laboratory: Laboratory, tmp_path: Path) -> None:
    plan = Plan(
        sizes=[(4, 1)], attacks=["zero"], rules=["default"], seeds=1, rounds=1, steps=1, model="bigram"
    )
    out = tmp_path / "rows.json"
    rows = list(measure(plan, out, laboratory))
    assert [(row["attack"], row["rule"]) for row in rows] == [(NONE, "mean"), ("zero", "default")]
    assert load(out) == rows
    assert rows[1]["loss_clean"] == rows[0]["loss"] == rows[0]["loss_clean"]
    out.write_text(json.dumps([rows[0] | {"loss": 1.5, "loss_clean": 1.5}]))
    again = list(measure(plan, out, laboratory))
    assert [row["loss_clean"] for row in again] == [1.5, 1.5]
    assert again[1]["loss"] == rows[1]["loss"]


def test_the_command_prints_the_promised_fields(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    key = {"attack": NONE, "n": 4, "f": 1, "rule": "mean", "seed": 0, "model": "bigram"}
    row = key | {"rounds": 40, "steps": 10, "codec": "int8", "loss": 2.0, "loss_clean": 2.0}
    row |= {"audits": False, "detected_after": None, "suspected_after": None, "honest_suspected": 0}
    row |= {"honest_left_out": None, "honest_banned": None}
    lies = {"attack": "zero", "rule": "default", "audits": True, "loss": 1e9, "detected_after": 7}
    rows = [row, row | lies | {"honest_left_out": 1, "honest_banned": 0}]
    out.write_text(json.dumps(rows))
    arguments = [
        "--n",
        "4",
        "--f",
        "1",
        "--attack",
        "zero",
        "--rule",
        "default",
        "--seeds",
        "1",
        "--model",
        "bigram",
        "--out",
    ]
    level = logging.getLogger("talkoot").level
    result = CliRunner().invoke(app, ["bench", "attacks", *arguments, str(out), "--json"])
    assert logging.getLogger("talkoot").level == level
    assert json.loads(result.stdout) == rows
    assert "diverged" in table(rows)
    assert max(map(len, table(rows).splitlines())) <= 110


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--n", "1"], "--n must be 2 to 64"),
        (["--n", "4", "--f", "3"], "--f must be 0 to 2"),
        (["--n", "4", "--n", "8", "--f", "1"], "in pairs"),
        (["--attack", "nonsense"], "nonsense is unknown; known: none, sign-flip"),
        (["--rule", "nonsense"], "neither default, mean nor"),
        (["--rule", "clip_radius=x"], "clip_radius must be a number"),
        (["--rule", "rule=nonsense"], "rule must be one of mean, coordinate_median"),
        (["--rule", "hostile_share=2"], "hostile_share must be"),
        (["--rule", "rule=krum", "--codec", "topk"], "is a vote for 0"),
        (["--rounds", "0"], "--rounds must be"),
        (["--model", "huge"], "--model must be"),
        (["--codec", "zip"], "no codec"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = refused(capsys, "bench", "attacks", *arguments)
    assert outcome.code == 2
    assert words in outcome.line


@pytest.mark.parametrize("content", ["{", "3", '[{"attack": 1}]'])
def test_a_file_of_something_else_is_left_alone(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    outcome = refused(capsys, "bench", "attacks", "--out", path)
    assert outcome.code == 2
    assert "give another file to --out" in outcome.line
    assert path.read_text() == content
