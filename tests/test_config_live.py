"""Settings of a node that runs: taken at once where that can be, and never harmed by bad ones."""

import json
from pathlib import Path

import pytest
from swarm_help import daemons, small_manifest
from test_cli_main import bad_use, talkoot

pytestmark = [pytest.mark.trial, pytest.mark.processes]


def test_a_running_node_takes_what_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemons(tmp_path) as swarm:
        node = swarm.found(small_manifest(peers=1))
        swarm.counted(node, since=0)
        state = ("--state-dir", node.state_dir)

        def shown(key: str) -> tuple[str, str]:
            _, out, _ = talkoot(capsys, "status", *state, "--json")
            entry = json.loads(out)["settings"][key]
            return entry["words"], entry["source"]

        assert shown("node.profile") == ("test", "flag")
        assert shown("limits.nice") == ("0", "profile")
        code, out, _ = talkoot(capsys, "config", "set", "limits.nice", "3", *state)
        assert (code, out) == (0, "limits.nice = 3; the running node has it\n")
        assert shown("limits.nice") == ("3", "file")
        _, out, _ = talkoot(capsys, "config", "set", "node.audit_parts", "2", *state)
        assert out == "node.audit_parts = 2; the running node takes it after a restart\n"
        _, out, _ = talkoot(capsys, "config", "set", "node.profile", "home", *state)
        assert out == "node.profile = home; the running node was started with another value, which wins\n"
        _, out, _ = talkoot(capsys, "status", *state)
        assert "node.audit_parts" in out
        assert "default; 2 after a restart" in out

        before = (node.state_dir / "config.toml").read_bytes()
        assert "0 to 19" in bad_use(capsys, "config", "set", "limits.nice", "99", *state)
        assert (node.state_dir / "config.toml").read_bytes() == before
        (node.state_dir / "config.toml").write_text("[limits]\nnice = 4\nthreads = true\n")
        assert ":3: limits.threads must be" in bad_use(capsys, "config", "apply", *state)
        assert shown("limits.nice") == ("3", "file")
        (node.state_dir / "config.toml").write_text("[limits]\nnice = 4\n")
        code, out, _ = talkoot(capsys, "config", "apply", *state)
        assert (code, out) == (0, "taken: limits.nice\n")
        assert shown("limits.nice") == ("4", "file")

        assert talkoot(capsys, "healthcheck", *state)[0] == 0
        since = swarm.round_of(node)
        swarm.counted(node, since=since)  # all the while it trains
    assert talkoot(capsys, "healthcheck", *state)[0] == 1
