"""Whole nodes on a virtual clock: determinism, survival of faults, and checkers that can fail."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from talkoot.averaging import certificate, context, voting
from talkoot.cli.main import app
from talkoot.peer.simulation.batch import run_batch
from talkoot.peer.simulation.kinds import KINDS
from talkoot.peer.simulation.run import run_seed


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    runs = [next(run_batch([3], peers=4, rounds=2, kinds=KINDS, jobs=1))["transcript"] for _ in range(2)]
    assert runs[0] == runs[1]
    other = next(run_batch([4], peers=4, rounds=2, kinds=KINDS, jobs=1))["transcript"]
    assert other != runs[0]


def test_without_faults_every_round_is_final_and_no_attempt_is_lost() -> None:
    result, lines = run_seed(peers=4, seed=1, kinds=(), rounds=2)
    assert not result.failed, result
    assert result.rounds_aborted == 0
    assert result.rounds_committed >= 3
    assert not any(" weak " in line for line in lines)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_is_survived(kind: str) -> None:
    result, lines = run_seed(peers=5, seed=11, kinds=(kind,), rounds=4)
    assert not result.failed, (result, lines[-30:])
    assert result.faults > 0


def test_all_faults_together_over_several_seeds() -> None:
    results = list(run_batch(list(range(12)), peers=5, rounds=4, kinds=KINDS, jobs=2))
    failed = [r for r in results if r["safety_violations"] or r["liveness_violations"]]
    assert not failed, [(r["seed"], r["safety_violations"], r["liveness_violations"]) for r in failed]
    assert sum(r["faults"] for r in results) > 12


def test_the_checkers_notice_a_quorum_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (certificate, context, voting):
        monkeypatch.setattr(module, "quorum", lambda count: max(1, count // 2))
    found = [
        run_seed(peers=5, seed=seed, kinds=("partition",), rounds=4)[0].safety_violations for seed in range(6)
    ]
    assert any("two final certificates" in violation for violations in found for violation in violations)


def test_the_command_line() -> None:
    done = CliRunner().invoke(app, ["simulate", "--peers", "3", "--rounds", "1", "--seed", "5", "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    wanted = "seed peers transcript rounds_committed rounds_aborted safety_violations liveness_violations"
    assert set(wanted.split()) | {"peer_rounds_per_s"} <= set(figures)
    run = subprocess.run(
        [sys.executable, "-m", "talkoot.cli.main", "simulate", "--faults", "meteor"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "meteor" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
