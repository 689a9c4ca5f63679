"""The demo against stand-ins for the daemon: its course, its kill, its failures; nothing is left behind."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from talkoot.cli import demo as demo_module
from talkoot.cli.demo_compare import Outcome
from talkoot.cli.demo_report import Losses
from talkoot.cli.demo_swarm import Demo, DemoOptions
from talkoot.cli.errors import CommandError
from talkoot.dht.errors import ConfigError
from talkoot.peer import manifest_file

FAKE = (sys.executable, str(Path(__file__).parent / "fake_node.py"))


def compare(outcome: Outcome, say: Callable[[str], None]) -> Losses:
    assert outcome.final.stat().st_size == 4000
    say("comparing")
    return Losses(
        start=5.5, end=1.9, single=2.0, single_steps=outcome.steps, single_curve=[(0, 5.5), (60, 2.0)]
    )


def run(folder: Path, **changes: object) -> int:
    values = {"peers": 3, "minutes": 0.05, "preset": "numpy-test", "folder": folder, **changes}
    return demo_module.run_demo(DemoOptions(**values), program=FAKE, compare=compare)  # type: ignore[arg-type]


def left_behind(folder: Path) -> list[int]:
    """Children of the fake nodes that still live."""
    pids = [
        int(pid)
        for log in folder.glob("*.log")
        for pid in re.findall(r"child (\d+)", log.read_text(errors="replace"))
    ]
    alive = [pid for pid in pids if psutil.pid_exists(pid)]
    return [pid for pid in alive if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.mark.processes
def test_the_whole_course(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = tmp_path / "demo", tmp_path / "out.json"
    assert run(folder, json_file=file, seed=7) == 0
    manifest, _ = manifest_file.load(folder)
    assert manifest.swarm.start_peers == 3
    assert manifest.inner.seed == 7

    report = json.loads(file.read_text())
    assert report == json.loads((folder / "summary.json").read_text())
    assert report["peers"] == 3
    assert report["rounds_committed"] >= 5
    assert report["rounds_aborted"] == 0
    assert report["digests_equal"] is True
    assert (report["loss_start"], report["loss_end"], report["loss_single"]) == (5.5, 1.9, 2.0)
    assert report["data_parallel_ratio"] == pytest.approx(
        report["data_parallel_bytes_per_peer"] / report["bytes_sent_per_peer"]
    )
    assert report["inner_share"] == pytest.approx(0.95)
    assert len(report["steps_per_peer"]) == 3
    assert [point["round"] for point in report["curve"]] == list(range(report["rounds_committed"]))
    assert report["killed"] is None
    assert (folder / "loss.svg").read_text().startswith("<?xml")

    out = capsys.readouterr().out
    assert "All 3 peers train" in out
    assert "5.500 -> 1.900" in out
    assert "5.0 % lower" in out
    assert "equal on all peers in every round" in out
    assert left_behind(folder) == []


@pytest.mark.processes
def test_kill_and_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "demo", minutes=0.15, kill=True) == 0
    report = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert report["killed"]["peer"] == "peer-2"
    assert report["killed"]["state"] == "exchanging"
    assert report["killed"]["back_after_s"] > 0
    assert 0 < report["killed"]["counted_in_round"] < report["rounds_committed"]
    assert report["exited"] == []
    assert "Killing peer-2" in capsys.readouterr().out
    assert (tmp_path / "demo" / "peer-2.log").read_text().count("fake node") == 2
    assert left_behind(tmp_path / "demo") == []


@pytest.mark.processes
def test_other_digests_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    once_started(monkeypatch, lambda: (folder / "differ-peer-1").touch())
    assert run(folder) == 1
    report = json.loads((folder / "summary.json").read_text())
    assert report["digests_equal"] is False
    assert report["different_rounds"]
    assert "DIFFERENT in round" in capsys.readouterr().out


def once_started(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Call `act` when all peers train."""
    train = Demo.train

    def wrapped(self: Demo, screen: object) -> None:
        act()
        train(self, screen)  # type: ignore[arg-type]

    monkeypatch.setattr(Demo, "train", wrapped)


@pytest.mark.processes
def test_a_peer_that_ends_during_start_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "demo"
    make = demo_module._make_folder

    def with_death(given: Path | None) -> Path:
        made = make(given)
        (made / "die-peer-1").touch()
        return made

    monkeypatch.setattr(demo_module, "_make_folder", with_death)
    with pytest.raises(CommandError, match="peer-1 ended during start-up: talkoot: no memory"):
        run(folder)
    assert left_behind(folder) == []


@pytest.mark.processes
def test_ctrl_c_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    once_started(monkeypatch, interrupt)
    assert run(tmp_path / "demo") == 1
    assert left_behind(tmp_path / "demo") == []


@pytest.mark.processes
def test_what_a_peer_leaves_behind_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "demo"
    once_started(monkeypatch, lambda: (folder / "orphan-peer-0").touch())
    assert run(folder) == 0
    assert left_behind(folder) == []


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(ConfigError, match="not empty"):
        run(tmp_path)
    with pytest.raises(ConfigError, match="File exists"):
        run(tmp_path / "something")


def test_a_summary_without_a_place_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        run(tmp_path / "demo", json_file=tmp_path / "missing" / "out.json")
    assert not (tmp_path / "demo").exists()


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean tiny"):
        run(tmp_path / "demo", preset="tini")
