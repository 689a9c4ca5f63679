"""`talkoot config`: what it writes, what it refuses, and what `talkoot run` makes of it."""

import json
import time
import tomllib
from pathlib import Path

import pytest
from state_rig import MANIFEST
from test_cli_main import bad_use, fake_daemon, talkoot

from talkoot.cli.limits_text import limits_text
from talkoot.peer.config.configuration import Configuration
from talkoot.peer.guest.month import Month, month_of
from talkoot.peer.statedir import StateDir

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    for name in ("TALKOOT_LIMITS_UPLOAD", "TALKOOT_LIMITS_NICE"):
        monkeypatch.delenv(name, raising=False)
    return "--state-dir", str(tmp_path / "state")


def content(state: tuple[str, str]) -> str:
    return Path(state[1], "config.toml").read_text()


def test_from_nothing_to_a_changed_file(capsys: Capsys, state: tuple[str, str]) -> None:
    code, out, _ = talkoot(capsys, "config", "init", *state, "--profile", "lowpower")
    assert (code, out.strip()) == (0, f"{state[1]}/config.toml")
    assert tomllib.loads(content(state))["node"] == {"profile": "lowpower"}
    assert "exists already" in bad_use(capsys, "config", "init", *state)
    code, out, _ = talkoot(capsys, "config", "set", "limits.upload", "16 Mbit/s", *state)
    assert (code, out) == (0, "limits.upload = 2 MB/s; no node runs: holds from its next start\n")
    assert talkoot(capsys, "config", "get", "upload", *state)[0] == 2
    assert talkoot(capsys, "config", "get", "limits.upload", *state)[1] == "2 MB/s\n"
    _, out, _ = talkoot(capsys, "config", "get", "limits.power", "--json", *state)
    assert json.loads(out) | {"about": ""} == {
        "value": 0.33,
        "words": "light",
        "source": "profile",
        "live": True,
        "about": "",
    }
    code, out, _ = talkoot(capsys, "config", "list", *state)
    assert "limits.upload        2 MB/s" in out
    assert talkoot(capsys, "config", "unset", "limits.upload", *state)[0] == 0
    assert "limits" not in {k for k, v in tomllib.loads(content(state)).items() if v}
    code, out, _ = talkoot(capsys, "config", "check", *state)
    assert (code, "nothing wrong" in out) == (0, True)
    code, _, err = talkoot(capsys, "config", "apply", *state)
    assert (code, err.count("\n")) == (3, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("limits.uplaod", "1"), "limits.uplaod is no setting; did you mean limits.upload?"),
        (("quota", "1GB"), "quota is no setting; did you mean limits.quota?"),
        (("limits.upload", "fast"), "limits.upload must be a rate such as 2 MB/s"),
        (("limits.power", "0"), "limits.power must be light, medium, full"),
        (("node.profile", "hoem"), "node.profile must be one of home, server, lowpower, lan, test"),
        (
            ("yield.programs", "no-such-program-here"),
            "no program 'no-such-program-here' is installed",
        ),
        (("limits.disk", "1MB"), "at least 64 MiB"),
        (("limits.upload", "0"), "at least 64 kB/s, or none, not '0'"),
        (("limits.download", "-1"), "limits.download must be a rate"),
        (("limits.download", "1 kB/s"), "at least 64 kB/s"),
        (("limits.quota", "0"), "limits.quota must be a size such as 6 GB or 512 MiB, or none"),
        (("limits.quota", "2GB"), "2.0 GB are used up already (3.0 GB this month): set more"),
    ],
)
def test_a_bad_set_changes_nothing(
    capsys: Capsys, state: tuple[str, str], arguments: tuple[str, str], words: str
) -> None:
    talkoot(capsys, "config", "init", *state)
    Path(state[1], "quota.json").write_bytes(Month(month_of(time.time()), 10**9, 2 * 10**9).encode())
    before = content(state)
    assert words in bad_use(capsys, "config", "set", *arguments, *state)
    assert content(state) == before


def test_a_disk_limit_without_room_for_the_state_is_refused(capsys: Capsys, state: tuple[str, str]) -> None:
    paths = StateDir(Path(state[1]))
    paths.prepare()
    paths.save_manifest(MANIFEST.canonical())
    words = bad_use(capsys, "config", "set", "limits.disk", "64MiB", *state)
    assert "the disk limit of 67 MB is below the" in words
    assert not Path(state[1], "config.toml").exists()
    assert talkoot(capsys, "config", "set", "limits.disk", "2GB", *state)[0] == 0


def test_no_limit_has_a_word_of_its_own(capsys: Capsys, state: tuple[str, str]) -> None:
    for key in ("limits.upload", "limits.quota", "limits.max_celsius", "limits.disk", "checkpoints.max"):
        code, out, _ = talkoot(capsys, "config", "set", key, "none", *state)
        assert (code, out.startswith(f"{key} = none;")) == (0, True)
    assert talkoot(capsys, "config", "set", "limits.quota", "4GB", *state)[0] == 0
    assert talkoot(capsys, "config", "get", "limits.upload", *state)[1] == "none\n"
    assert Configuration.load(Path(state[1]), {}).guest().upload == 0


def test_a_program_that_is_not_here_is_taken_anyway(capsys: Capsys, state: tuple[str, str]) -> None:
    code, *_ = talkoot(capsys, "config", "set", "yield.programs", "no-such-program", "--anyway", *state)
    assert code == 0
    assert tomllib.loads(content(state))["yield"]["programs"] == ["no-such-program"]


def test_a_broken_file_is_said_by_check_and_run(capsys: Capsys, state: tuple[str, str]) -> None:
    talkoot(capsys, "config", "init", *state)
    path = Path(state[1], "config.toml")
    path.write_text(content(state).replace('# quota = "none"', "quota = true"))
    line = path.read_text().split("quota = true")[0].count("\n") + 1
    for command in (("config", "check"), ("config", "set", "limits.nice", "3"), ("run",)):
        assert f"{path}:{line}: limits.quota must be a size" in bad_use(capsys, *command, *state)


def test_run_takes_file_environment_and_flags_in_order(
    capsys: Capsys, state: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talkoot(capsys, "init", tmp_path / "swarm")
    for key, value in (("limits.upload", "1MB/s"), ("limits.nice", "1"), ("limits.threads", "1")):
        talkoot(capsys, "config", "set", key, value, *state)
    monkeypatch.setenv("TALKOOT_LIMITS_UPLOAD", "2MB/s")
    monkeypatch.setenv("TALKOOT_LIMITS_NICE", "2")
    seen = fake_daemon(monkeypatch)
    code, *_ = talkoot(
        capsys, "run", tmp_path / "swarm", *state, "--set", "limits.nice=3", "--profile", "test"
    )
    assert code == 7
    guest = seen[0].guest
    assert (guest.upload, guest.nice, guest.threads, seen[0].threads) == (2e6, 3, 1, 1)
    assert (seen[0].profile, guest.games) == ("test", False)
    assert "write KEY=VALUE" in bad_use(capsys, "run", *state, "--set", "limits.nice")
    assert "--set: limits.nic is no setting" in bad_use(capsys, "run", *state, "--set", "limits.nic=3")
    monkeypatch.setenv("TALKOOT_LIMITS_NICE", "x")
    assert "TALKOOT_LIMITS_NICE: limits.nice must be" in bad_use(capsys, "run", *state)


def test_the_limits_in_words(tmp_path: Path) -> None:
    settings = Configuration.load(tmp_path, {}, {"limits.upload": ("--upload", "2MB/s")}).as_json()
    settings["limits.disk"]["used"] = 3_200_000_000
    settings["limits.power"]["used"] = 0.498
    settings["yield.programs"]["holds"] = "blender runs"
    settings["node.role"] |= {"source": "file", "pending": "client"}
    text = [line.split() for line in limits_text(settings).splitlines()]
    assert ["limits.upload", "2", "MB/s", "flag"] in text
    assert ["limits.disk", "no", "limit", "3.2", "GB", "default"] in text
    assert ["limits.power", "full", "49.8", "%", "default"] in text
    assert ["node.role", "full", "file;", "client", "after", "a", "restart"] in text
    assert ["yield.programs", "-", "paused:", "blender", "runs", "default"] in text
    assert limits_text({}) == ""
