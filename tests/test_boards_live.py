"""Every query of every dashboard finds data in a real Prometheus beside a real swarm."""

import math
import time
from pathlib import Path

import pytest
from board_queries import filled, names_in, queries
from prometheus_rig import RULES, Prometheus, needs_prometheus, watching
from swarm_help import daemons, small_manifest, until

from talkoot.peer.metrics import family_of

pytestmark = [pytest.mark.processes, pytest.mark.trial, pytest.mark.timeout(600), needs_prometheus]

NEEDS_A_GPU = {
    "talkoot_gpu_energy_joules_total",
    "talkoot_gpu_memory_limit_bytes",
    "talkoot_gpu_memory_used_bytes",
    "talkoot_gpu_temperature_celsius",
    "talkoot_gpu_utilization_ratio",
}
UNKNOWN_ON_LOOPBACK = {"talkoot_node_reachable"}
"""NaN where no peer says whether it can dial this node: none is asked on loopback."""
WITHOUT_DATA = NEEDS_A_GPU | UNKNOWN_ON_LOOPBACK
"""Metrics without a number in a swarm of CPUs on loopback. All others must have one."""

PATIENCE_S = 90.0


def answered(prometheus: Prometheus, expression: str) -> bool:
    """Whether there is a number among what it finds."""
    return any(not math.isnan(value) for _, value in prometheus.query(filled(expression)))


def test_every_query_of_every_board_finds_data(tmp_path: Path) -> None:
    left = {(board, panel, expression) for board, panel, expression in queries()}
    asked = len(left)
    with daemons(tmp_path, "--checkpoint-every", "2") as swarm:
        swarm.found(small_manifest(peers=2))
        swarm.join()
        invite = until(swarm._invite, "invite", swarm.peers)
        swarm._start(None, "--join", invite, "--profile", "test", "--observe")
        swarm.counted(*swarm.peers[:2], since=0)
        targets = [
            {
                "targets": [f"127.0.0.1:{swarm.status(node)['http_port']}"],
                "labels": {"instance": node.name, "swarm": "test"},
            }
            for node in swarm.peers
        ]
        rules = {path.name: path.read_text() for path in RULES.glob("*.yml")}
        with watching(tmp_path / "prometheus", rules, targets) as prometheus:
            deadline = time.monotonic() + PATIENCE_S
            while left and time.monotonic() < deadline:
                left = {each for each in left if not answered(prometheus, each[2])}
                if {name for *_, expression in left for name in names_in(expression)} <= WITHOUT_DATA:
                    break
                time.sleep(1.0)  # between two scrapes
            assert prometheus.alerts() == {}, "an alert in a healthy swarm"
    for board, panel, expression in sorted(left):
        names = names_in(expression)
        assert names <= WITHOUT_DATA, f"no data: {board}, {panel}: {expression}"
        assert all(family_of(name) is not None for name in names)
    assert asked - len(left) > 80
