"""Debian's Prometheus, for tests and benchmarks: its checks of rules, and a live one beside a swarm."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from talkoot.cli.demo_node import dying_with_us

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "docker" / "prometheus" / "prometheus.yml"
RULES = ROOT / "docker" / "prometheus" / "rules"

NODE = "127.0.0.1:9477"
"""The node of which the shipped configuration asks for the others."""

START_LIMIT_S = 60.0

needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="NOT TESTED: no prometheus and promtool here; install the package `prometheus` (.ci/run does)",
)


def promtool(*arguments: str, folder: Path | None = None) -> None:
    """Run one of its checks. Raises AssertionError with what it complains of."""
    command = ["promtool", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


Sample = tuple[dict[str, str], float]


class Prometheus:
    """A running one."""

    def __init__(self, port: int, pid: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.pid = pid

    def query(self, expression: str) -> list[Sample]:
        """The labels and values that the expression has now."""
        with urlopen(f"{self.url}/api/v1/query?{urlencode({'query': expression})}", timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
        data = found["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def alerts(self) -> dict[str, set[str]]:
        """Alerts that fire now, and for which nodes."""
        firing: dict[str, set[str]] = {}
        for labels, _ in self.query('ALERTS{alertstate="firing"}'):
            firing.setdefault(labels["alertname"], set()).add(labels.get("instance", ""))
        return firing

    def ready(self) -> bool:
        """Whether it answers queries."""
        with suppress(URLError, OSError), urlopen(f"{self.url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
        return False


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def watching(
    folder: Path, rules: Mapping[str, str], targets: Sequence[dict[str, Any]], *, interval_s: float = 1.0
) -> Iterator[Prometheus]:
    """A Prometheus with these rule files and targets, in `folder`; it has ended afterwards.

    Raises AssertionError when it does not start.
    """
    (folder / "rules").mkdir(parents=True)
    for name, text in rules.items():
        (folder / "rules" / name).write_text(text)
    (folder / "targets.json").write_text(json.dumps(list(targets)))
    interval = f"{round(interval_s * 1000)}ms"
    config = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [{"job_name": "talkoot", "file_sd_configs": [{"files": ["targets.json"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with started(folder, "prometheus.yml") as prometheus:
        yield prometheus


@contextmanager
def shipped(
    folder: Path, node_port: int, *, interval: str = "1s", timeout: str = "900ms"
) -> Iterator[Prometheus]:
    """A Prometheus with the shipped configuration, but for the node's port and how often it asks."""
    text = CONFIG.read_text()
    assert text.count(NODE) == 1
    text = text.replace(NODE, f"127.0.0.1:{node_port}")
    text = re.sub(r"(\w+_interval): \d+s", rf"\1: {interval}", text)
    text = re.sub(r"scrape_timeout: \d+s", f"scrape_timeout: {timeout}", text)
    (folder / CONFIG.name).write_text(text)
    with started(folder, CONFIG.name) as prometheus:
        yield prometheus


@contextmanager
def started(folder: Path, config: str) -> Iterator[Prometheus]:
    """A Prometheus with the configuration file `config` of `folder`."""
    port = free_port()
    command = [
        *dying_with_us(),
        "prometheus",
        f"--config.file={config}",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        prometheus = Prometheus(port, process.pid)
        deadline = time.monotonic() + START_LIMIT_S
        while not prometheus.ready():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()
