"""`talkoot service`: the unit is what systemd takes, walls the node off, and holds no secrets."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from talkoot.cli import service
from talkoot.cli.errors import CommandError
from talkoot.cli.main import app
from talkoot.dht.errors import ConfigError
from talkoot.peer.guest.unit import WALLS, Scope, Service, text_of

MOST_EXPOSED = 2.5

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed (apt install systemd)"
)


def unit(scope: Scope = "user", *arguments: str) -> str:
    return text_of(
        Service(
            scope=scope,
            command=("/usr/bin/true",),
            state_dir="/home/ada/my state",
            arguments=arguments,
            environment_file="/etc/talkoot/service.env",
        )
    )


@needs_analyze
@pytest.mark.parametrize("scope", ["user", "system"])
def test_systemd_takes_the_unit_and_finds_it_walled_off(scope: Scope, tmp_path: Path) -> None:
    path = tmp_path / "talkoot.service"
    path.write_text(unit(scope, "--public-name", "50% of $HOME"))
    analyze = ["systemd-analyze", "--no-pager"]
    checked = subprocess.run([*analyze, "verify", path], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    told = subprocess.run(
        [*analyze, "security", "--offline=yes", path], capture_output=True, text=True, check=True
    )
    score = re.search(r"Overall exposure level for talkoot\.service: (\d+\.\d)", told.stdout)
    assert score is not None, told.stdout
    assert float(score[1]) <= MOST_EXPOSED


def test_words_of_the_command_stay_words() -> None:
    line = next(line for line in unit("user", "50% of $HOME", 'a"b').splitlines() if "ExecStart" in line)
    assert line == ('ExecStart=/usr/bin/true run --state-dir "/home/ada/my state" "50%% of $$HOME" "a\\"b"')
    with pytest.raises(ValueError, match="control characters"):
        unit("user", "two\nlines")


def test_walls_that_a_machine_refuses_are_left_out() -> None:
    without = frozenset(line.partition("=")[0] for line in WALLS.splitlines()) | {"ProtectHome"}
    bare = text_of(Service(scope="user", command=("/usr/bin/true",), state_dir="/s", without=without))
    for wall in (*without, "ReadWritePaths"):
        assert f"\n{wall}=" in unit()
        assert f"\n{wall}=" not in bare
    assert "NoNewPrivileges=yes" in bare


def test_the_unit_is_shown_without_being_installed(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["service", "install", "--print", "--state-dir", str(tmp_path)])
    assert shown.exit_code == 0
    assert "Type=notify" in shown.output
    assert f"run --state-dir {tmp_path}" in shown.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["install"], ConfigError, "holds no swarm yet: give --join INVITE"),
        (["install", "--join", "talkoot://x"], ConfigError, "invite"),
        (["install", "--system"], ConfigError, "leave --state-dir away"),
        (["install", "--print", "--", "--a\nb"], ConfigError, "control characters"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    command = ["service", arguments[0], "--state-dir", str(tmp_path), *arguments[1:]]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_system_service_without_a_swarm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would start, fail, and be started again for ever."""
    monkeypatch.setattr("talkoot.peer.guest.unit.SYSTEM_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(service, "SYSTEM_SECRETS", tmp_path / "service.env")
    result = CliRunner().invoke(app, ["service", "install", "--system"])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == f"{tmp_path / 'state'} holds no swarm yet: give --join INVITE"


@pytest.mark.parametrize("command", ["status", "uninstall"])
def test_what_is_not_installed_is_said(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["service", command])
    assert isinstance(result.exception, CommandError)
    assert "there is no" in str(result.exception)


FAKE = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
*show*) printf 'ActiveState=active\\nSubState=running\\nStatusText=training\\nNRestarts=2\\n' ;;
esac
"""


def test_the_whole_way_with_a_systemctl_that_writes_down_what_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where systemd is no process, this is how far it goes."""
    log, programs, config = tmp_path / "log", tmp_path / "bin", tmp_path / "config"
    programs.mkdir()
    (programs / "systemctl").write_text(FAKE.format(log=log))
    (programs / "systemd-run").write_text('#!/bin/sh\ncase "$*" in *ProtectKernelLogs*) exit 226;; esac\n')
    for name in ("systemctl", "systemd-run"):
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    monkeypatch.setattr(service, "RUNNING", tmp_path)
    state, run = tmp_path / "state", CliRunner()
    state.mkdir()
    (state / "swarm").write_text("")
    monkeypatch.setattr("talkoot.peer.statedir.StateDir.swarm_id", bytes(32))
    installed = run.invoke(app, ["service", "install", "--state-dir", str(state)])
    assert installed.exit_code == 0, installed.exception
    assert "the unit is without: ProtectKernelLogs\n" in installed.output
    path = config / "systemd" / "user" / "talkoot.service"
    assert "ProtectKernelLogs" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    shown = run.invoke(app, ["service", "status"])
    assert "active (running)" in shown.output
    assert "says: training" in shown.output
    assert "restarts: 2" in shown.output
    removed = run.invoke(app, ["service", "uninstall"])
    assert removed.exit_code == 0, removed.exception
    assert not path.exists()
    assert state.exists()
    told = [line.replace("--user --no-pager ", "") for line in log.read_text().splitlines()]
    assert told[:3] == ["daemon-reload", "enable talkoot.service", "restart --no-block talkoot.service"]
    assert told[-2:] == ["disable --now talkoot.service", "daemon-reload"]
