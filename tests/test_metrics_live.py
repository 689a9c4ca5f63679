"""What live nodes of every role export: promtool has nothing to say of it, and every series is declared."""

import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_rig import needs_prometheus
from swarm_help import Daemons, daemons, small_manifest, until

from talkoot.cli.demo_node import TALKOOT, DemoNode
from talkoot.peer.metrics import FAMILIES, is_known
from talkoot.peer.metrics.known import MAX_SERIES
from talkoot.peer.options import ROLES

pytestmark = pytest.mark.processes


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Daemons]:
    with daemons(tmp_path) as made:
        yield made


def join(swarm: Daemons, role: str) -> DemoNode:
    invite = until(swarm.peers[0].invite, "invite", swarm.peers)
    node = DemoNode(role, swarm.folder, TALKOOT)
    swarm.peers.append(node)
    node.start(["--join", invite, "--profile", "test", "--device", "cpu", "--threads", "1", "--role", role])
    return node


def scrape(node: DemoNode) -> str:
    status = node.poll()
    assert status is not None
    with urlopen(f"http://127.0.0.1:{status['http_port']}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def number(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found is not None, series
    return float(found[1])


def complaints(text: str) -> str:
    """What `promtool check metrics` says."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    return checked.stdout + checked.stderr + (f"exit {checked.returncode}" if checked.returncode else "")


def observes(text: str) -> bool:
    """Whether an observer has fetched a state and sees who trains."""
    return (
        number(text, "talkoot_checkpoint_verifications_total") > 0
        and number(text, "talkoot_observed_round_max") > 0
        and number(text, 'talkoot_observed_peers{state="training"}') >= 1
    )


def exchanged(node: DemoNode) -> bool:
    """Whether it took what others sent in a round; who comes late may have fetched the first."""
    text = scrape(node)
    names = ("messages_received_total{message", "network_receive_bytes_total{protocol")
    return all(number(text, f'talkoot_{name}="bulk"}}') > 0 for name in names)


@pytest.mark.trial
@needs_prometheus
def test_every_role_exports_what_is_declared_and_promtool_is_content(swarm: Daemons) -> None:
    founder = swarm.found(small_manifest(peers=2, step_ms=20.0))
    nodes = dict(zip(ROLES, (founder, join(swarm, "client"), join(swarm, "observer")), strict=True))
    swarm.counted(founder, nodes["client"], since=0)
    until(lambda: (nodes["observer"].poll() or {}).get("round"), "round of the observer", swarm.peers)
    texts = {role: scrape(node) for role, node in nodes.items()}
    for role, text in texts.items():
        assert complaints(text) == ""
        families = list(text_string_to_metric_families(text))
        series = [sample for family in families for sample in family.samples]
        assert len(series) <= MAX_SERIES
        assert [sample for sample in series if not is_known(sample.name, sample.labels)] == []
        declared = {name.removesuffix("_total") for name, each in FAMILIES.items() if role in each.roles}
        assert {family.name for family in families} == declared
        assert number(text, f'talkoot_node_info{{role="{role}",run="test"}}') == 1
        assert number(text, "talkoot_disk_used_bytes") > 0
    for role in ("full", "client"):
        for name in ("inner_steps", "trained_tokens", "contributions_sent", "contribution_credits", "rounds"):
            assert number(texts[role], f"talkoot_{name}_total") > 0
        assert 0 < number(texts[role], "talkoot_duty_cycle_ratio") <= 1
        until(partial(exchanged, nodes[role]), f"{role} in an exchange", swarm.peers)
    until(lambda: observes(scrape(nodes["observer"])), "the swarm in the observer's metrics", swarm.peers)
