"""Two daemons on two machines, almost: network namespaces that share nothing but a virtual cable."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from swarm_help import daemons, small_manifest

from talkoot.cli.demo_node import TALKOOT, DemoNode

pytestmark = pytest.mark.processes

ROUNDS = "import sys; from pathlib import Path; from talkoot.cli.local_api import LocalApi; import json; "
ROUNDS += "print(json.dumps(LocalApi(Path(sys.argv[1])).rounds()))"


def why_not() -> str:
    """What is missing for namespaces here, or nothing."""
    if shutil.which("ip") is None:
        return "the program `ip` is missing"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    name = f"talkoot-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two namespaces, 10.77.0.1 in the first and 10.77.0.2 in the second."""
    reason = why_not()
    if reason:
        print(f"SKIPPED: {reason}", file=sys.stderr)
        pytest.skip(reason)
    names = (f"talkoot-{os.getpid()}-a", f"talkoot-{os.getpid()}-b")
    cables = (f"tk{os.getpid()}a", f"tk{os.getpid()}b")
    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)  # its end of the cable goes with it
        ip("link", "add", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1],
           "netns", names[1])  # fmt: skip
        for number, (name, cable) in enumerate(zip(names, cables, strict=True), start=1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names


class ShutIn(DemoNode):
    """A daemon in a namespace: its API is on the loopback of that namespace."""

    def __init__(self, name: str, folder: Path, namespace: str) -> None:
        self._enter = ("ip", "netns", "exec", namespace)
        super().__init__(name, folder, (*self._enter, *TALKOOT))

    def _ask(self, *command: str) -> Any:
        done = subprocess.run(
            [*self._enter, *command], capture_output=True, text=True, timeout=30, check=False
        )
        return msgspec.json.decode(done.stdout) if done.returncode == 0 else None

    def poll(self) -> dict[str, Any] | None:
        self.status = self._ask(*TALKOOT, "status", "--json", "--state-dir", str(self.state_dir))
        return self.status

    def rounds(self) -> list[dict[str, Any]]:
        return self._ask(sys.executable, "-c", ROUNDS, str(self.state_dir)) or []

    def invite(self) -> str | None:
        answer = self._ask(*TALKOOT, "invite", "--json", "--state-dir", str(self.state_dir))
        return answer["invite"] if answer else None


def test_two_namespaces_train_together_by_invite(tmp_path: Path, namespaces: tuple[str, str]) -> None:
    with daemons(tmp_path) as swarm:
        founder = swarm.found(
            small_manifest(peers=2, step_ms=20), ShutIn("founder", tmp_path, namespaces[0]), profile="lan"
        )
        joiner = swarm.join(ShutIn("joiner", tmp_path, namespaces[1]), profile="lan")
        swarm.counted(founder, joiner, since=1)
        status = swarm.status(joiner)
        assert any(address.startswith("/ip4/10.77.0.2/") for address in status["addresses"])
        assert status["state_bytes_received"] > 4 * status["numel"]
        assert status["bytes_received"] > 0
    assert [node.exit_code for node in (founder, joiner)] == [0, 0]
