"""A real daemon under faults: signals, deaths, a stopped clock of its own, a full disk, closed outputs, bad
requests. After each: nothing is left behind, and what was committed is still there."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import psutil
import pytest
from swarm_help import Daemons, daemons, small_manifest, until

from talkoot.cli.demo_node import TALKOOT, DemoNode
from talkoot.peer import manifest_file, presets
from talkoot.peer.head import read_head
from talkoot.peer.manifest import Model

pytestmark = pytest.mark.processes


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the daemons of a test keep their sockets: a short path, and empty at the end."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


@pytest.fixture
def swarm(tmp_path: Path, temporary: Path) -> Iterator[Daemons]:
    with daemons(tmp_path) as made:
        yield made


def trained(swarm: Daemons, peers: int = 1) -> DemoNode:
    """The founder of a swarm that has committed a round with all its peers."""
    founder = swarm.found(small_manifest(peers=peers))
    for _ in range(peers - 1):
        swarm.join()
    swarm.counted(*swarm.peers, since=0)
    return founder


def pid_of(node: DemoNode) -> int:
    assert node._process is not None
    return node._process.pid


def family(node: DemoNode) -> list[psutil.Process]:
    """The daemon's children: its p2pd and its trainer."""
    children: list[psutil.Process] = psutil.Process(pid_of(node)).children(recursive=True)
    assert len(children) >= 2
    return children


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    living = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


def end(node: DemoNode, children: list[psutil.Process]) -> int:
    """The exit code, once the daemon and its children are gone."""
    code = until(lambda: node.exit_code, "end of the daemon", [node])
    until(lambda: not alive(children), "end of its children", [node])
    return code


def lines(node: DemoNode) -> list[str]:
    return node.log_path.read_text(errors="replace").splitlines()


def told(node: DemoNode) -> list[str]:
    """What was said to people, beside the log."""
    return [line for line in lines(node) if not line.startswith("{")]


def rounds_on_disk(node: DemoNode) -> int:
    head = read_head(node.state_dir / "outer")
    assert head is not None
    return head.round


# -- signals -----------------------------------------------------------------------------------------


@pytest.fixture
def heard_hangups() -> Iterator[None]:
    """SIGHUP as in a terminal: whoever runs the tests under nohup ignores it, and so would the daemons."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard_hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_stop(swarm: Daemons, temporary: Path, number: signal.Signals) -> None:
    node = trained(swarm)
    children = family(node)
    os.kill(pid_of(node), number)
    assert end(node, children) == 0
    assert told(node) == []
    assert not (node.state_dir / "api.json").exists()
    assert not (node.state_dir / "api.token").exists()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("stopped_child", [False, True])
def test_a_second_signal_stops_at_once(swarm: Daemons, temporary: Path, stopped_child: bool) -> None:
    node = trained(swarm)
    children = family(node)
    if stopped_child:  # a polite stop would wait for it
        until(lambda: node.part("worker"), "trainer").suspend()
    os.kill(pid_of(node), signal.SIGINT)
    until(lambda: any("once more to stop at once" in line for line in lines(node)), "the offer", [node])
    os.kill(pid_of(node), signal.SIGINT)
    code = end(node, children)
    assert code == 130 or (not stopped_child and code in (0, -signal.SIGINT))  # it may have been through
    assert told(node) == []
    assert not (node.state_dir / "api.json").exists()
    assert list(temporary.iterdir()) == []


def test_a_signal_while_it_starts(swarm: Daemons, temporary: Path) -> None:
    node = swarm.found(small_manifest(peers=1))
    until(lambda: any("founding a swarm" in line for line in lines(node)), "founding", [node])
    os.kill(pid_of(node), signal.SIGTERM)
    assert until(lambda: node.exit_code, "end", [node]) == 130
    assert told(node) == []
    assert list(temporary.iterdir()) == []
    node.start()
    swarm.counted(node, since=0)


# -- deaths ------------------------------------------------------------------------------------------


def reached(swarm: Daemons, node: DemoNode, number: int) -> bool:
    return swarm.round_of(node) >= number


@pytest.mark.trial
def test_killed_again_and_again(swarm: Daemons, temporary: Path) -> None:
    founder = trained(swarm, peers=2)
    victim, random = swarm.peers[1], Random(7)
    for _ in range(3):
        until(lambda: victim.part("p2pd"), "its children", swarm.peers)
        children = family(victim)
        at = swarm.round_of(victim) + random.randrange(2)
        until(partial(reached, swarm, victim, at), "a moment to kill it", swarm.peers)
        os.kill(pid_of(victim), signal.SIGKILL)
        assert end(victim, children) == -signal.SIGKILL
        committed = rounds_on_disk(victim)
        victim.start()
        swarm.counted(founder, victim, since=committed)
    assert told(victim) == []
    assert len(list(temporary.iterdir())) <= 5  # what SIGKILL left is removed by later starts


@pytest.mark.trial
def test_halted_for_a_while(swarm: Daemons) -> None:
    founder = trained(swarm, peers=2)
    victim = swarm.peers[1]
    process = psutil.Process(pid_of(victim))
    process.suspend()
    try:
        until(lambda: any("_timeout" in line for line in lines(founder)), "a try without it", swarm.peers)
    finally:
        process.resume()
    swarm.counted(founder, victim, since=swarm.round_of(founder))
    assert victim.running
    assert told(victim) == []


@pytest.mark.trial
def test_nobody_else_is_there_any_more(swarm: Daemons, temporary: Path) -> None:
    trained(swarm, peers=2)
    stopped = [(node, family(node)) for node in swarm.peers]
    for node, _ in stopped:
        node.interrupt()
    assert [end(node, children) for node, children in stopped] == [0, 0]
    joiner = swarm.peers[1]
    committed = rounds_on_disk(joiner)
    outer = joiner.state_dir / "outer"
    kept = outer.rename(swarm.folder / "outer")
    joiner.start()  # in vain: nobody gives it the state
    until(lambda: any("once the outer state is here" in line for line in lines(joiner)), "trainer", [joiner])
    shown, children = swarm.status(joiner), family(joiner)
    assert (shown["state"], shown["trainer"], shown["round"]) == ("syncing", "ready", None)
    os.kill(pid_of(joiner), signal.SIGTERM)
    assert end(joiner, children) == 0
    shutil.rmtree(outer, ignore_errors=True)
    kept.rename(outer)
    joiner.start()
    until(lambda: (joiner.poll() or {}).get("state") == "training", "training alone", [joiner])
    assert any(f"going on alone from round {committed}" in line for line in lines(joiner))
    assert told(joiner) == []


@pytest.mark.trial
def test_no_memory_for_one_micro_batch(swarm: Daemons, temporary: Path) -> None:
    manifest = presets.make("tiny", name="test")
    config = {**manifest.model.config, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    path = swarm.folder / manifest_file.FILE_NAME
    manifest_file.save(replace(manifest, model=Model(config=config)), path)
    node = swarm._start(None, str(path), "--profile", "test", "--memory-limit", "20MB")
    assert until(lambda: node.exit_code, "end", [node]) == 1
    (line,) = told(node)
    assert line.startswith("talkoot: no memory for one micro-batch within 19 MiB; free some")
    assert "--memory-limit" in line
    assert list(temporary.glob("talkoot-*")) == []  # torch has a cache of its own there


# -- what it says and to whom --------------------------------------------------------------------------


@pytest.mark.trial
def test_nobody_reads_what_it_says(swarm: Daemons, tmp_path: Path) -> None:
    """As with `talkoot run ... 2>&1 | head -1`."""
    node = trained(swarm)
    os.kill(pid_of(node), signal.SIGTERM)
    end(node, [])
    command = [*TALKOOT, "run", "--profile", "test", "--device", "cpu", "--state-dir", str(node.state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        committed = rounds_on_disk(node)
        until(lambda: rounds_on_disk(node) >= committed + 2, "rounds", [node])
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.trial
def test_its_outputs_are_closed(swarm: Daemons) -> None:
    """As with `talkoot run ... >&- 2>&-`."""
    node = trained(swarm)
    os.kill(pid_of(node), signal.SIGTERM)
    end(node, [])
    committed = rounds_on_disk(node)
    command = [*TALKOOT, "run", "--profile", "test", "--device", "cpu", "--state-dir", str(node.state_dir)]
    with subprocess.Popen(["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *command]) as process:
        until(lambda: rounds_on_disk(node) >= committed + 2, "rounds", [node])
        process.terminate()
        assert process.wait(30) == 0


GARBAGE = [
    b"\0" * 200,
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"POST /api/v1/leave HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


def test_garbage_at_the_local_api(swarm: Daemons) -> None:
    node = trained(swarm)
    port = swarm.status(node)["http_port"]
    for data in GARBAGE * 3:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    hanging = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(50)]
    swarm.counted(node, since=swarm.round_of(node))
    for connection in hanging:
        connection.close()
    assert told(node) == []
    assert not [line for line in lines(node) if "Traceback" in line]


# -- a full disk -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB: the state takes 3 MB, the prepared tokens 11 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_state(small_disk: Path, swarm: Daemons) -> Path:
    """The small disk, with the state directory of the first peer on it; its log is elsewhere."""
    (small_disk / "state").mkdir()
    (swarm.folder / "peer-0").symlink_to(small_disk / "state")
    return small_disk


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Take all space but `leave` bytes."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(path, max(0, path.stat().st_size - leave))
    return path


def goes_on(swarm: Daemons, node: DemoNode) -> None:
    """It commits another round, started again if it ended."""
    committed = rounds_on_disk(node) if (node.state_dir / "outer" / "HEAD").exists() else 0
    if not node.running:
        node.start()
    until(lambda: swarm.round_of(node) > committed, "rounds", [node])


@pytest.mark.parametrize("leave_kib", [4, *(pytest.param(kib, marks=pytest.mark.trial) for kib in (64, 200))])
def test_the_disk_is_full_at_founding(small_state: Path, swarm: Daemons, leave_kib: int) -> None:
    ballast = fill(small_state, leave=leave_kib * 1024)
    node = swarm.found(small_manifest(peers=1))
    assert until(lambda: node.exit_code, "end", [node]) == 2
    (line,) = told(node)
    assert "No space left on device" in line or "MB are free" in line
    assert not [line for line in lines(node) if "Traceback" in line]
    ballast.unlink()
    goes_on(swarm, node)


def test_the_disk_is_full_when_the_tokens_are_prepared(small_state: Path, swarm: Daemons) -> None:
    ballast = fill(small_state, leave=4 * 2**20)
    node = swarm.found(small_manifest(peers=1))
    until(lambda: paused(node), "a pause", [node])
    first = pid_of(node)
    assert (node.status or {})["disk"] == "the disk is full"
    assert not [line for line in lines(node) if "Traceback" in line]
    ballast.unlink()
    goes_on(swarm, node)
    assert pid_of(node) == first
    assert told(node) == []


@pytest.mark.parametrize("leave_kib", [0, 72])
def test_the_disk_is_full_while_it_trains(small_state: Path, swarm: Daemons, leave_kib: int) -> None:
    node = trained(swarm)
    first, steps = pid_of(node), (node.poll() or {})["steps_total"]
    ballast = fill(small_state, leave=leave_kib * 1024)
    until(lambda: "No space left" in "".join(lines(node)) or paused(node), "full disk", [node])
    assert not [line for line in lines(node) if "Traceback" in line]
    ballast.unlink()
    goes_on(swarm, node)
    assert pid_of(node) == first  # the same process: nobody had to start it again
    assert (node.poll() or {})["steps_total"] >= steps
    assert told(node) == []


def paused(node: DemoNode) -> bool:
    """Whether it shows that it waits for room."""
    shown = node.poll() or {}
    return (shown.get("state"), shown.get("reason")) == ("paused", "disk")


@pytest.mark.trial
def test_a_peer_whose_disk_is_full_is_paused_and_can_be_stopped(small_state: Path, swarm: Daemons) -> None:
    node = trained(swarm, peers=2)
    ballast = fill(small_state)
    until(lambda: paused(node), "a pause", [node])
    assert node.status is not None
    assert node.status["round"] is not None
    assert node.invite() is None
    os.kill(pid_of(node), signal.SIGTERM)
    assert until(lambda: node.exit_code is not None and [node.exit_code], "end", [node]) == [0]
    ballast.unlink()
    goes_on(swarm, node)


@pytest.mark.trial
def test_the_disk_of_the_log_is_full(small_disk: Path, swarm: Daemons) -> None:
    node = trained(swarm)
    os.kill(pid_of(node), signal.SIGTERM)
    end(node, [])
    node.log_path = small_disk / "log"
    ballast = fill(small_disk)
    node.start()
    goes_on(swarm, node)
    ballast.unlink()
    goes_on(swarm, node)
    assert until(lambda: lines(node), "log", [node])
    assert told(node) == []
