"""Real daemons on loopback, in small: the demo, and a swarm whose parts die one after the other."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swarm_help import Daemons, daemons, small_manifest, until

from talkoot.averaging.ladder import LADDERS
from talkoot.cli.demo_node import TALKOOT
from talkoot.cli.local_api import Json
from talkoot.peer.manifest import Compression

pytestmark = pytest.mark.processes

DEMO_KEYS = {
    "peers", "rounds_committed", "rounds_aborted", "digests_equal", "loss_start", "loss_end", "loss_single",
    "bytes_sent_per_peer", "data_parallel_ratio", "inner_share", "seconds",
}  # fmt: skip


def talkoot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TALKOOT, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.trial
def test_the_demo_trains_loses_a_peer_and_gets_it_back(tmp_path: Path) -> None:
    folder, file = tmp_path / "demo", tmp_path / "demo.json"
    command = ["demo", "--preset", "numpy-test", "--peers", "3", "--minutes", "0.15", "--kill"]
    done = subprocess.run(
        [*TALKOOT, *command, "--dir", str(folder), "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert report.keys() >= DEMO_KEYS
    assert report["peers"] == 3
    assert report["rounds_committed"] >= 5
    assert report["digests_equal"] is True
    assert report["loss_start"] == pytest.approx(5.55, abs=0.1)
    assert report["loss_end"] < 3.0
    assert report["loss_single"] < 3.0
    assert report["data_parallel_ratio"] > 20
    assert 0 < report["inner_share"] <= 1
    assert report["killed"]["peer"] == "peer-2"
    assert report["killed"]["back_after_s"] > 0
    assert report["killed"]["counted_in_round"] is not None
    assert report["exited"] == report["forced"] == []
    assert (folder / "loss.svg").stat().st_size > 1000

    refused = talkoot("export", str(tmp_path / "checkpoint"), "--state-dir", str(folder / "peer-0"))
    assert refused.returncode == 2
    assert "numpy" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "checkpoint").exists()


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """Three peers that have committed a round together; tests leave it as healthy as it was."""
    with daemons(tmp_path_factory.mktemp("swarm"), "--uplink", "0.25") as made:
        codecs = Compression(codec="auto", aggregate_codec="auto", feedback_decay=0.95)
        made.found(replace(small_manifest(peers=3), compression=codecs))
        made.join()
        made.join()
        made.counted(*made.peers, since=0)
        yield made


def test_status_of_a_running_node_is_json(swarm: Daemons) -> None:
    answer = talkoot("status", "--json", "--state-dir", str(swarm.peers[1].state_dir))
    assert answer.returncode == 0, answer.stderr
    status = json.loads(answer.stdout)
    assert status["state"] in ("training", "exchanging")
    assert status["round"] >= 1
    assert (status["codec"], status["aggregate_codec"]) in LADDERS["dense"]
    assert swarm.peers[1].rounds()[-1]["codec"] in {codec for codec, _ in LADDERS["dense"]}
    assert len(status["peers"]) == 2
    assert all(peer["connected"] for peer in status["peers"])


def test_slow_links_choose_codecs_of_few_bits(swarm: Daemons) -> None:
    def chosen() -> set[str]:
        return {entry["codec"] for entry in swarm.peers[0].rounds()}

    until(lambda: "lloyd2" in chosen(), "round in lloyd2", swarm.peers)
    swarm.counted(*swarm.peers, since=swarm.round_of(swarm.peers[0]))


def test_a_banned_peer_is_cut_off_until_the_ban_is_lifted(swarm: Daemons) -> None:
    one, other = swarm.peers[1], swarm.peers[2]
    name, where = swarm.status(other)["peer_id"], ("--state-dir", str(one.state_dir))

    def shown() -> dict[str, Any]:
        answer = json.loads(talkoot("peers", "--json", *where).stdout)
        assert answer["running"] is True
        return next(entry for entry in answer["peers"] if entry["peer_id"] == name)

    assert shown()["ban"] is None
    assert talkoot("ban", name[-10:], "--reason", "a test", "--for", "1h", *where).returncode == 0
    until(lambda: shown()["state"] == "banned" and not shown()["connected"], "end of the link", swarm.peers)
    assert shown()["ban"]["reason"] == "a test"
    assert swarm.status(other)["state"] in ("training", "exchanging")
    assert talkoot("unban", name, *where).returncode == 0
    swarm.counted(*swarm.peers, since=swarm.round_of(one))
    assert talkoot("unban", name, *where).returncode == 1


@pytest.mark.trial
@pytest.mark.parametrize("name", ["trainer", "p2pd"])
def test_a_killed_part_is_started_again_and_the_node_is_back(swarm: Daemons, name: str) -> None:
    victim, others = swarm.peers[2], swarm.peers[:2]
    process = until(lambda: victim.part(name), f"{name} of the victim", swarm.peers)
    os.kill(process.pid, signal.SIGKILL)
    until(
        lambda: (new := victim.part(name)) is not None and new.pid != process.pid,
        f"new {name}",
        swarm.peers,
    )
    swarm.counted(*swarm.peers, since=swarm.round_of(victim) + 1)
    assert all(peer.running for peer in (victim, *others))


@pytest.mark.trial
def test_an_orderly_stop_and_a_restart(tmp_path: Path) -> None:
    with daemons(tmp_path) as swarm:
        links_choose = Compression(codec="auto")
        node = swarm.found(replace(small_manifest(peers=1), compression=links_choose))
        first = swarm.counted(node, since=1)
        node.interrupt()
        assert until(lambda: node.exit_code, "end", swarm.peers) == 0
        stopped_at = head_round(node.state_dir)
        assert stopped_at > first
        again = talkoot("status", "--state-dir", str(node.state_dir))
        assert again.returncode == 3

        node.start()
        swarm.counted(node, since=stopped_at)
        assert node.rounds()[0]["round"] == stopped_at
        assert swarm.status(node)["steps_total"] > 0
        assert swarm.status(node)["codec"] == "int8"  # the densest: nothing slow was measured


@pytest.mark.trial
def test_an_archivist_keeps_a_swarm_that_everybody_left(tmp_path: Path) -> None:
    with daemons(tmp_path) as swarm:
        founder = swarm.found(small_manifest(peers=1))
        invite, second = (until(swarm._invite, "invite", swarm.peers) for _ in range(2))
        options = ("--profile", "test", "--observe", "--checkpoint-every", "1")
        archivist = swarm._start(None, "--join", invite, *options)
        seen = swarm.round_of(archivist)
        until(lambda: swarm.round_of(archivist) >= seen + 3, "rounds that it follows", swarm.peers)
        status = swarm.status(archivist)
        assert (status["state"], status["role"], status["trainer_pid"]) == ("observing", "observer", None)
        assert archivist.part("worker") is None
        founder.interrupt()
        assert until(lambda: founder.exit_code, "end", swarm.peers) == 0

        address = status["addresses"][0]
        volunteer = swarm._start(None, "--join", second, "--bootstrap", address, "--profile", "test")
        swarm.round_of(volunteer)
        kept = swarm.status(archivist)
        until(lambda: swarm.status(volunteer)["digest"] == kept["digest"], "the kept state", swarm.peers)
        assert swarm.status(volunteer)["round"] == kept["round"]
        assert talkoot("verify", str(archivist.state_dir)).returncode == 0
        (*_, checkpoint) = sorted((archivist.state_dir / "checkpoints").glob("*.safetensors"))
        assert talkoot("verify", str(checkpoint)).returncode == 0
        founder.start()  # who alone had the vote
        ours = swarm.status(volunteer)["peer_id"]

        def counting() -> Json | None:
            return next((entry for entry in volunteer.rounds() if ours in entry["counted"]), None)

        counted = until(counting, "a round that counts the volunteer", swarm.peers)
        assert counted["round"] >= kept["round"]
        assert kept["round"] in [entry["round"] for entry in founder.rounds()]  # it went on from there


def head_round(state_dir: Path) -> int:
    """Rounds in the committed outer state."""
    from talkoot.peer.head import read_head

    head = read_head(state_dir / "outer")
    assert head is not None
    return head.round


@pytest.mark.trial
def test_a_founder_that_lost_all_but_its_key_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    for number in range(40):
        (tmp_path / "books" / f"{number}.txt").write_text(
            f"{number} green bottles hanging on the wall, " * 100
        )
    manifest = small_manifest(peers=1)
    manifest = replace(manifest, data=replace(manifest.data, source="text", paths=("books/*.txt",)))
    with daemons(tmp_path, "--checkpoint-every", "1", "--checkpoint-keep", "1") as swarm:
        founder = swarm.found(manifest)
        swarm.counted(founder, since=2)
        state = founder.state_dir
        until(lambda: sorted(state.glob("checkpoints/*.safetensors")), "checkpoint", swarm.peers)
        founder.interrupt()
        assert until(lambda: founder.exit_code, "end", swarm.peers) == 0
        (*_, newest) = sorted(state.glob("checkpoints/*.safetensors"))
        kept = newest.rename(tmp_path / newest.name)
        key = (state / "identity.key").read_bytes()
        shutil.rmtree(state)
        state.mkdir()
        (state / "identity.key").write_bytes(key)
        (state / "identity.key").chmod(0o600)
        rounds = int(kept.stem.removeprefix("round-"))

        options = ("--profile", "test", "--device", "cpu", "--data", str(tmp_path / "books" / "*.txt"))
        founder.start(["--checkpoint", str(kept), *options])
        swarm.counted(founder, since=rounds)
        assert founder.rounds()[0]["round"] == rounds
        assert (swarm.status(founder)["certificate"], founder.rounds()[0]["kind"]) == ("final", "final")
        founder.interrupt()
        assert until(lambda: founder.exit_code, "end", swarm.peers) == 0
        answer = talkoot("verify", str(state))
        assert answer.returncode == 0, answer.stdout
        again = talkoot("run", "--checkpoint", str(kept), "--state-dir", str(state), "--profile", "test")
        assert (again.returncode, "already: run without --checkpoint" in again.stderr) == (2, True)
