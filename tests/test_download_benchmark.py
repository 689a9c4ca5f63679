"""The benchmark of downloads, in small and on loopback: a state comes whole from two processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "download.py"

NUMEL = 600_000
MOST_MEMORY = 300_000_000
"""Anonymous memory above idle that serving and joining may take."""


@pytest.mark.processes
def test_a_state_comes_whole_and_takes_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    options = ["--numel", str(NUMEL), "--sources", "2", "--mbit", "0", "--dir", str(tmp_path)]
    command = [sys.executable, str(BENCHMARK), *options, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["ok"]
    assert found["bytes"] == 8 * NUMEL
    assert found["rejected"] == {}
    assert max(told["anonymous_bytes"] for told in (found, *found["serving"])) < MOST_MEMORY
    assert list(tmp_path.iterdir()) == [file]
