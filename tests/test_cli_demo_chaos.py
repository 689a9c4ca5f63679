"""The demo under chaos: its schedule, its figures, and a small run of it with real daemons."""

import json
import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import psutil
import pytest

from talkoot.cli.demo_chaos_faults import BALLAST, fill, possible_kinds, small_disks
from talkoot.cli.demo_chaos_plan import KINDS, Schedule, most_at_once
from talkoot.cli.demo_chaos_report import Rate, Struck, faults_by_kind, ratio, summary_of_kills, times_back
from talkoot.cli.demo_command import Trainer, demo
from talkoot.cli.demo_node import TALKOOT
from talkoot.cli.demo_watch import Watch
from talkoot.dht.errors import ConfigError


def schedule(seed: int = 1, peers: int = 8, gap_s: float = 15.0) -> Schedule:
    return Schedule(seed=seed, gap_s=gap_s, kinds=list(KINDS), peers=peers, now=0.0)


def drawn(plan: Schedule, until_s: float) -> list[tuple[str, int, float]]:
    """Faults when nobody is ever busy and the clock is looked at twice a second."""
    faults = (plan.due(step / 2, frozenset()) for step in range(int(2 * until_s)))
    return [fault for fault in faults if fault is not None]


def test_the_same_seed_gives_the_same_faults() -> None:
    assert drawn(schedule(), 600) == drawn(schedule(), 600)
    assert drawn(schedule(), 600) != drawn(schedule(seed=2), 600)


def test_gaps_are_exponential_and_all_kinds_and_peers_come() -> None:
    faults = drawn(schedule(), 40_000)
    assert len(faults) == pytest.approx(40_000 / 15, rel=0.1)
    assert Counter(kind for kind, _, _ in faults).keys() == KINDS.keys()
    assert {peer for _, peer, _ in faults} == set(range(8))
    for kind, _, lasts_s in faults:
        assert KINDS[kind].lasts_s[0] <= lasts_s <= KINDS[kind].lasts_s[1]


def test_busy_peers_are_passed_over_and_a_quorum_is_left() -> None:
    assert [most_at_once(peers) for peers in (1, 2, 4, 7, 8, 10)] == [1, 1, 1, 2, 2, 3]
    plan, rng, now = schedule(), random.Random(3), 0.0
    for _ in range(500):
        now += 100.0  # always due
        busy = set(rng.sample(range(8), rng.randrange(4)))
        fault = plan.due(now, busy)
        assert (fault is None) == (len(busy) >= 2)
        assert fault is None or fault[1] not in busy


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="choose one of them"):
        demo(kill=True, chaos=True)
    with pytest.raises(ConfigError, match="leave --trainer away"):
        demo(trainer=Trainer.NUMPY, preset="tiny")


def struck(kind: str, after_s: float | None) -> Struck:
    return Struck(at_s=1.0, kind=kind, peer="peer-1", lasted_s=2.0, counted_after_s=after_s)


def test_figures() -> None:
    events = [struck("kill", 9.0), struck("freeze", 3.0), struck("kill", None), struck("kill", 5.0)]
    assert faults_by_kind(events) == {"kill": 3, "freeze": 1}
    times = times_back(events)
    assert times == {"kill": [5.0, 9.0], "freeze": [3.0]}
    assert summary_of_kills(times["kill"]) == {"median": 7.0, "max": 9.0, "count": 2}
    assert summary_of_kills([]) == {"median": None, "max": None, "count": 0}
    under, before = Rate(steps=90, made=95, seconds=10), Rate(steps=20, made=20, seconds=2)
    assert ratio(under.per_s, before.per_s) == 0.9
    assert ratio(under.made_per_s, before.made_per_s) == 0.95
    assert ratio(under.per_s, Rate(steps=0, made=0, seconds=0).per_s) is None


def test_weak_certificates_of_two_sides_are_no_disagreement() -> None:
    watch = Watch(3)

    def see(peer: int, kind: str, digest: str, leader: str = "a", counted: tuple[str, ...] = ("a",)) -> None:
        entry = {"round": 5, "kind": kind, "digest": digest, "attempt": 2, "leader": leader}
        watch.see_rounds(peer, [entry | {"counted": list(counted)}])

    see(0, "weak", "x")
    see(1, "weak", "y", leader="b", counted=("b",))
    assert (watch.different_rounds, watch.rounds_committed, watch.next_round) == ([], 1, 6)
    see(2, "final", "z")
    assert watch.different_rounds == []
    see(0, "final", "other", counted=("a", "b"))  # never two final ones
    assert watch.different_rounds == [5]
    watch = Watch(3)
    see(0, "weak", "x")
    see(1, "weak", "y")
    assert watch.different_rounds == [5]


def test_a_full_disk_is_full(tmp_path: Path) -> None:
    _, left_out = possible_kinds()
    if "disk" in left_out:
        pytest.skip(left_out["disk"])
    disk = tmp_path / "disk"
    with small_disks([disk]):
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            (disk / "more").write_bytes(b"x")
        (disk / BALLAST).unlink()
        (disk / "more").write_bytes(b"x")
    assert list(disk.iterdir()) == []


@pytest.mark.trial
@pytest.mark.processes
def test_nobody_disagrees_and_nobody_ends_who_was_not_killed(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    times = ["--minutes", "0.8", "--baseline", "0.1", "--gap", "4", "--seed", "3"]
    command = [*TALKOOT, "demo", "--chaos", "--peers", "4", *times, "--json", str(file)]
    done = subprocess.run(
        [*command, "--dir", str(tmp_path / "demo")], capture_output=True, text=True, timeout=280, check=False
    )
    report = json.loads(file.read_text())
    assert report["digest_disagreements"] == report["states_differ"] == []
    assert report["exited"] == []
    assert report["rounds_committed"] >= 3
    assert sum(report["faults"].values()) == len(report["events"]) >= 2
    assert report["not_back"] == [], done.stdout
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.processes
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [*TALKOOT, "demo", "--chaos", "--peers", "2", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as demo:
        assert demo.stdout is not None
        assert any(text.startswith("Start-up") for text in demo.stdout)
        os.kill(demo.pid, signal.SIGINT)  # once: a second one may meet an interpreter that is about to end
        for _ in demo.stdout:
            pass
        assert demo.wait(timeout=120) == 1
    for process in psutil.process_iter(["cmdline"]):
        assert str(folder) not in " ".join(process.info["cmdline"] or ())
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert list(Path("/run/netns").glob(f"talkoot-{demo.pid}-*")) == []
