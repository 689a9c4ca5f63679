"""Whole nodes on a virtual clock: determinism, survival of faults, and checkers that can fail."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from talkoot.averaging import certificate, context, voting
from talkoot.cli.main import app
from talkoot.peer.simulation.batch import run_batch
from talkoot.peer.simulation.faults import MAKERS
from talkoot.peer.simulation.kinds import KINDS
from talkoot.peer.simulation.run import run_seed


def test_a_seed_gives_the_same_run_in_another_process_and_order_and_with_other_hashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = [3, 14, 4]  # dense, sparse, and again
    transcripts = []
    for hash_seed, order in (("1", seeds), ("2", seeds[::-1])):
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
        results = run_batch(order, peers=0, rounds=3, kinds=KINDS, jobs=1)
        transcripts.append({result["seed"]: result["transcript"] for result in results})
    assert transcripts[0] == transcripts[1]
    assert len(set(transcripts[0].values())) == len(seeds)


def test_without_faults_every_round_is_final_and_no_attempt_is_lost() -> None:
    result, lines = run_seed(peers=4, seed=1, kinds=(), rounds=3)
    assert not result.failed, result
    assert result.rounds_aborted == 0
    assert result.rounds_committed >= 3
    assert not any(" weak " in line for line in lines)


def test_every_kind_has_a_maker_and_a_description() -> None:
    assert set(KINDS) == set(MAKERS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_is_survived(kind: str) -> None:
    result, lines = run_seed(peers=4, seed=11, kinds=(kind,), rounds=2)
    assert not result.failed, (result, lines[-30:])
    assert result.faults > 0


FAILED_ONCE = (1164, 1224, 1275, 2040, 2121, 2200)
"""Seeds that were violated at some commit: see the track record in docs/rounds.md."""


def test_seeds_that_failed_once() -> None:
    results = list(run_batch(list(FAILED_ONCE), peers=0, rounds=4, kinds=KINDS, jobs=2))
    failed = [r for r in results if r["safety_violations"] or r["liveness_violations"]]
    assert not failed, [(r["seed"], r["safety_violations"], r["liveness_violations"]) for r in failed]
    assert sum(r["faults"] for r in results) > 12
    assert sum(r["rounds_aborted"] for r in results) > 0


def test_all_faults_together_with_a_sparse_exchange() -> None:
    results = list(run_batch(list(range(6)), peers=4, rounds=3, kinds=KINDS, jobs=2, exchange="sparse"))
    failed = [r for r in results if r["safety_violations"] or r["liveness_violations"]]
    assert not failed, [(r["seed"], r["safety_violations"], r["liveness_violations"]) for r in failed]


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
