"""A daemon whose quota is used up: it rests, also after a kill, and goes on when it is raised."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from swarm_help import Daemons, daemons, small_manifest, until

from talkoot.cli.demo_node import TALKOOT, DemoNode
from talkoot.cli.local_api import Json
from talkoot.peer.guest.quota import kept_month

pytestmark = [pytest.mark.processes, pytest.mark.trial]


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Daemons]:
    with daemons(tmp_path) as made:
        yield made


def set_quota(node: DemoNode, value: str) -> subprocess.CompletedProcess[str]:
    command = [*TALKOOT, "config", "set", "limits.quota", value, "--state-dir", str(node.state_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def used_by(node: DemoNode) -> int:
    status = node.poll() or {}
    return int(status.get("settings", {}).get("limits.quota", {}).get("used") or 0)


def rests(node: DemoNode) -> Json | None:
    """Its status, once it rests."""
    status = node.poll()
    return (
        status if status is not None and (status["state"], status["reason"]) == ("paused", "quota") else None
    )


def carriers(node: DemoNode) -> list[str]:
    """Its processes that others can reach and that reach others: nothing is served without one."""
    assert node._process is not None
    children = psutil.Process(node._process.pid).children(recursive=True)
    return [child.name() for child in children if "p2pd" in child.name()]


def test_it_rests_through_a_kill_and_goes_on_with_more(swarm: Daemons) -> None:
    founder = swarm.found(small_manifest(peers=2))
    node = swarm.join()
    since = swarm.counted(founder, node, since=0)
    until(lambda: used_by(node) or None, "traffic", [node])
    done = set_quota(node, "1 kB")
    assert done.returncode == 2
    assert "limits.quota: 1.0 kB are used up already" in done.stderr
    assert swarm.status(node)["state"] != "paused"

    def limited() -> int | None:
        """A little more than is used; None where that was used up before the command had begun."""
        most = used_by(node) + 500_000
        done = set_quota(node, f"{most} B")
        assert done.returncode == 0 or "are used up already" in done.stderr
        assert done.returncode or done.stdout.endswith("; the running node has it\n")
        return None if done.returncode else most

    limit = until(limited, "quota", [node])
    status = until(lambda: rests(node), "rest", [node])
    assert "are used up" in status["detail"]
    until(lambda: not carriers(node), "end of p2pd", [node])

    until(lambda: kept_month(node.state_dir / "quota.json").used >= limit, "count on disk", [node])
    node.kill()
    node.start(["--profile", "test", "--device", "cpu", "--threads", "1"])
    status = until(lambda: rests(node), "rest after a kill", [node])
    assert status["settings"]["limits.quota"]["used"] >= limit
    until(lambda: not carriers(node), "end of p2pd", [node])

    assert set_quota(node, "none").returncode == 0
    swarm.counted(founder, node, since=since + 1)
