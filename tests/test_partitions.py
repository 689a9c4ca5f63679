"""The benchmark of partitions, in small."""

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "partitions.py"


def test_one_swarm_of_each_kind_is_one_again_within_two_rounds() -> None:
    command = [sys.executable, str(BENCHMARK), "--peers", "5", "--seeds", "1", "--first", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 one again within 2 rounds" in done.stdout
