"""The benchmark of killed nodes, in small: it finds every call, and nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "state_kills.py"


@pytest.mark.trial
@pytest.mark.processes
def test_a_killed_process_leaves_a_certified_round(tmp_path: Path) -> None:
    file = tmp_path / "kills.json"
    command = [sys.executable, str(BENCHMARK), "--numel", "20000", "--rounds", "1", "--random", "5"]
    done = subprocess.run([*command, "--json", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())
    assert result["wrong"] == []
    assert result["records_found"] > 0
    assert result["calls_in_rounds"] > 20
    assert result["kills"] == 2 * result["calls_in_rounds"] + 5
