"""What a running node takes of the computer, as the system sees it, follows its limits at once.

Power is in `test_duty_outside.py`, traffic in `test_dht_pacing.py` and `benchmarks/rates.py`, the quota in
`test_quota_daemon.py`, the disk in `test_guest_room.py`.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from swarm_help import Daemons, daemons, small_manifest, until

from talkoot.cli.demo_node import TALKOOT, DemoNode

pytestmark = [pytest.mark.processes, pytest.mark.trial]

RAM = 256 * 2**20
"""The least that may be set; a daemon alone has more."""


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Daemons]:
    with daemons(tmp_path) as made:
        yield made


def change(node: DemoNode, key: str, value: str) -> None:
    command = [*TALKOOT, "config", "set", key, value, "--state-dir", str(node.state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def daemon_of(node: DemoNode) -> psutil.Process:
    assert node._process is not None
    return psutil.Process(node._process.pid)


def trainer_of(node: DemoNode) -> psutil.Process | None:
    children = daemon_of(node).children(recursive=True)
    return next((child for child in children if "trainer.worker" in " ".join(child.cmdline())), None)


def test_the_trainer_is_as_nice_as_it_is_told_to_be(swarm: Daemons) -> None:
    node = swarm.found(small_manifest(peers=1))
    swarm.counted(node, since=0)
    own = daemon_of(node).nice()
    trainer = trainer_of(node)
    assert trainer is not None
    assert trainer.nice() == own
    change(node, "limits.nice", "5")
    until(lambda: trainer.nice() == min(19, own + 5), "niceness", [node])
    assert daemon_of(node).nice() == own
    swarm.counted(node, since=swarm.round_of(node))


def test_memory_above_the_limit_is_given_back_until_there_is_more(swarm: Daemons) -> None:
    node = swarm.found(small_manifest(peers=1))
    swarm.counted(node, since=0)
    family = [daemon_of(node), *daemon_of(node).children(recursive=True)]
    assert sum(one.memory_info().rss for one in family) > RAM
    change(node, "limits.ram", f"{RAM} B")
    until(lambda: (node.poll() or {}).get("reason") == "memory", "pause", [node])
    until(lambda: trainer_of(node) is None, "end of the trainer", [node])
    change(node, "limits.ram", "none")
    since = swarm.round_of(node)
    swarm.counted(node, since=since)
    assert trainer_of(node) is not None
