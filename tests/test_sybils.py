"""The benchmark of Sybils, in small."""

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "sybils.py"


def test_few_addresses_get_an_attacker_few_places_and_no_past() -> None:
    trials = ("eclipse", "admission, zero", "admission, random", "ground keys", "solo chain", "old keys")
    only = [word for trial in trials for word in ("--only", trial)]
    sizes = ["--trials", "5", "--rounds", "50", "--admission-rounds", "40"]
    command = [sys.executable, str(BENCHMARK), *only, *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
