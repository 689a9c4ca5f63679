"""The power level as the kernel sees it: `benchmarks/duty.py`, shorter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.trial]

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "duty.py"


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not say who waits")
def test_a_trainer_asks_for_its_share_of_the_processor_and_no_more() -> None:
    arguments = [sys.executable, str(BENCHMARK), "--minutes", "0.3", "--level", "light", "--level", "medium"]
    ran = subprocess.run([*arguments, "--json"], capture_output=True, text=True, timeout=300, check=True)
    for row in json.loads(ran.stdout):
        assert row["steps"] > 0
        assert row["own"] == pytest.approx(row["set_to"], abs=0.05)
        assert row["wanted"] == pytest.approx(row["set_to"], abs=0.08), "of twenty seconds only"
