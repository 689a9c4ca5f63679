"""Whole nodes of an open swarm: who helps earns weight, who hurts is banned, and the checks can fail."""

import pytest

from talkoot.averaging.ledger import Ledger
from talkoot.averaging.reputation import banned, left_out, proven
from talkoot.averaging.rules import Rules
from talkoot.peer.simulation.kinds import KINDS
from talkoot.peer.simulation.run import run_seed
from talkoot.peer.simulation.strangers import Strangers, strangers_of

SEED, FAULTS_SEED = 32, 37


def test_some_seeds_have_strangers() -> None:
    assert strangers_of(SEED, 4) == strangers_of(FAULTS_SEED, 5) == 2
    assert strangers_of(SEED, 3) == 0
    assert 10 < sum(1 for seed in range(500) if strangers_of(seed, 4)) < 40


def test_who_helps_earns_weight_and_who_hurts_is_left_out_then_banned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set[str]()
    problem = Strangers.problem

    def watched(self: Strangers, ledger: Ledger, rules: Rules) -> str | None:
        helpful = self.keys - {self.harmful}
        seen.update(["left out"] if left_out([self.harmful], ledger) else [])
        seen.update(["banned"] if self.harmful in banned(ledger) else [])
        seen.update(["earned"] if helpful & proven(ledger, rules) else [])
        seen.update(["votes"] if helpful & set(ledger.voters) else [])
        return problem(self, ledger, rules)

    monkeypatch.setattr(Strangers, "problem", watched)
    result, lines = run_seed(peers=4, seed=SEED, kinds=(), rounds=20)
    assert not result.failed, (result, lines[-20:])
    assert seen == {"left out", "banned", "earned", "votes"}


def test_it_survives_faults() -> None:
    result, lines = run_seed(peers=4, seed=FAULTS_SEED, kinds=KINDS, rounds=3)
    assert not result.failed, (result, lines[-20:])
    assert result.faults


def test_auditors_that_all_lie_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    score = Strangers._score
    monkeypatch.setattr(Strangers, "_score", lambda self, by, of: -score(self, by, of))
    result, _ = run_seed(peers=4, seed=SEED, kinds=(), rounds=14)
    assert any("hurts has earned" in what or "banned" in what for what in result.safety_violations)
