"""A relay in one process with clients that behave, and with some that do not; each on real connections."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from outside_rig import needs_libp2p

pytestmark = [pytest.mark.processes, needs_libp2p]


def test_every_scenario_comes_out_as_it_should() -> None:
    program = Path(__file__).parent / "relay_scenarios.py"
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=280, check=False
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    failed = {each["name"]: each["failed"] for each in results if each["failed"]}
    assert not failed, "\n".join(f"{name}: {words}" for name, words in failed.items())
    assert done.returncode == 0, done.stderr
    assert len(results) > 30
