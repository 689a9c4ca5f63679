"""Bare rounds over real p2pd processes: what they send without a fault, and whether they end with one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from talkoot.cli.demo_node import TALKOOT

pytestmark = pytest.mark.processes

NUMEL = 16 * 2**18
"""Whole chunks for each peer; what is said besides them weighs little."""

FAULTS = Path(__file__).parents[1] / "benchmarks" / "round_faults.py"


def figures(*command: str) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.trial
def test_a_round_sends_hardly_more_than_an_all_reduce_must() -> None:
    measured = figures(
        *TALKOOT, "bench", "round", "--peers", "4", "--numel", str(NUMEL), "--rounds", "2", "--json"
    )
    assert measured["digests_equal"]
    assert 1 <= measured["ratio_to_lower_bound"] < 1.05


@pytest.mark.trial
def test_survivors_of_a_death_in_the_exchange_hold_one_round() -> None:
    arguments = ["--kills", "2", "--stops", "1", "--partial", "2", "--numel", str(NUMEL)]
    measured = figures(sys.executable, str(FAULTS), *arguments)
    for fate, trials in (("kill", 2), ("stop", 1), ("partial", 2)):
        told = measured[fate]
        assert told["trials"] == told["committed"] == told["digests_equal"] == trials
