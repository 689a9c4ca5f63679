"""The correction of py-libp2p's listener, and whether it is still needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from outside_rig import needs_libp2p

pytestmark = [pytest.mark.processes, needs_libp2p]


def connections(*arguments: str) -> int:
    worker = Path(__file__).parent / "listener_worker.py"
    command = [sys.executable, str(worker), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    return int(done.stdout.splitlines()[-1])


@pytest.mark.trial
def test_the_listener_accepts_more_than_a_thousand_connections() -> None:
    assert connections("1100") >= 1100


def test_the_correction_is_still_needed() -> None:
    """If this fails, py-libp2p gives places back itself: remove `talkoot.dht.outside.listener`."""
    assert connections("300", "uncorrected") < 300
