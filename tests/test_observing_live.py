"""One real daemon as the eyes of a Prometheus: what it lists, and what two others tell it over libp2p."""

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_rig import needs_prometheus
from swarm_help import Daemons, daemons, small_manifest, until

from talkoot.cli.demo_node import TALKOOT, DemoNode
from talkoot.peer.metrics import CONTENT_TYPE, is_known
from talkoot.peer.metrics.known import MAX_SERIES

pytestmark = [pytest.mark.trial, pytest.mark.processes, needs_prometheus]

STEPS = "talkoot_inner_steps_total"
MEMORY = "talkoot_disk_used_bytes"
"""Told by those only who share everything."""


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Daemons]:
    with daemons(tmp_path) as made:
        yield made


def join(swarm: Daemons, name: str, *options: str) -> DemoNode:
    invite = until(swarm.peers[0].invite, "invite", swarm.peers)
    node = DemoNode(name, swarm.folder, TALKOOT)
    swarm.peers.append(node)
    node.start(["--join", invite, "--profile", "test", "--device", "cpu", "--threads", "1", *options])
    return node


class Api:
    """What an HTTP client without a token sees of a node."""

    def __init__(self, swarm: Daemons, node: DemoNode) -> None:
        status = swarm.status(node)
        self.peer_id: str = status["peer_id"]
        self.place = f"127.0.0.1:{status['http_port']}"

    def get(self, path: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        try:
            with urlopen(f"http://{self.place}{path}", timeout=30) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except HTTPError as error:
            return error.code, "", error.read().decode()

    def listed(self) -> dict[str, dict[str, str]]:
        """Labels of the targets at /sd by their paths."""
        found: list[dict[str, Any]] = json.loads(self.get("/sd")[2])
        assert {target for each in found for target in each["targets"]} == {self.place}
        return {each["labels"].pop("__metrics_path__"): each["labels"] for each in found}

    def told(self, path: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float] | None:
        """All samples at `path`, which promtool has nothing to say of; None where there is no answer yet."""
        status, kind, text = self.get(path)
        if status != 200:
            print(__import__("time").time(), status, text, flush=True)
            return None
        assert kind == CONTENT_TYPE
        command = ["promtool", "check", "metrics"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
        assert len(samples) <= MAX_SERIES
        assert all(is_known(each.name, each.labels) for each in samples)
        return {(each.name, tuple(sorted(each.labels.items()))): each.value for each in samples}


def test_an_observer_shows_what_each_of_two_nodes_says_of_itself(swarm: Daemons) -> None:
    founder = swarm.found(small_manifest(peers=2, step_ms=20.0))
    other = join(swarm, "open", "--share-metrics", "all")
    watcher = Api(swarm, join(swarm, "watcher", "--role", "observer"))
    swarm.counted(founder, other, since=0)
    apis = {node.name: Api(swarm, node) for node in (founder, other)}
    paths = {name: f"/peer/{api.peer_id}/metrics" for name, api in apis.items()}
    until(lambda: set(watcher.listed()) == {"/metrics", *paths.values()}, "list of three", swarm.peers)
    labels = watcher.listed()
    assert labels.pop("/metrics") == {"instance": watcher.peer_id[-12:], "role": "observer", "swarm": "test"}
    for name, path in paths.items():
        assert labels[path] == {"instance": apis[name].peer_id[-12:], "role": "full", "swarm": "test"}

    for name, path in paths.items():
        own = until(partial(apis[name].told, "/metrics"), f"metrics of {name}", swarm.peers)
        told = until(partial(watcher.told, path), f"{name} in the observer's eyes", swarm.peers)
        later = until(partial(apis[name].told, "/metrics"), f"metrics of {name}", swarm.peers)
        assert told[("talkoot_node_info", (("role", "full"), ("run", "test")))] == 1
        assert told.keys() <= own.keys() | {("talkoot_node_info", (("role", "full"), ("run", "test")))}
        assert 0 < own[(STEPS, ())] <= told[(STEPS, ())] <= later[(STEPS, ())]
        assert ((MEMORY, ()) in told) == (name == "open")
        assert (MEMORY, ()) in own

    nobody = until(lambda: watcher.get(f"/peer/{'1' * 40}/metrics")[0], "answer", swarm.peers)
    assert nobody == 404
    other.kill()
    until(lambda: watcher.get(paths["open"])[0] == 503, "silence of the killed node", swarm.peers)
    assert "no metrics" in watcher.get(paths["open"])[2]
    assert paths["open"] in watcher.listed()  # Prometheus sees that it is down
    assert until(partial(watcher.told, paths[founder.name]), "the founder, still", swarm.peers)
