"""What stands still is found: a loop, a worker thread, a trainer. What only takes long is left alone."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from swarm_help import Daemons, daemons, small_manifest, until

from talkoot.cli.demo_node import DemoNode
from talkoot.peer.guest import restarting
from talkoot.peer.guest.notify import MAX_STATUS, Notifier
from talkoot.peer.guest.standstill import JOB_LOOKS, LOOP_LOOKS, Standstill
from talkoot.peer.guest.workers import Job, Progress, Workers, progress_of
from talkoot.peer.trainer.silence import STOPPED_LOOKS, Look, Silence

STANDING = (sys.executable, str(Path(__file__).with_name("standing_talkoot.py")), "4")


def job(number: int) -> Job:
    return Job(number=number, name=f"work{number}", thread=number)


def progress(ticks: int, *, moved: int = 0, disk: bool = False) -> Progress:
    return Progress(ticks=ticks, transferred=moved, waits_for_disk=disk)


# -- the daemon, on paper ----------------------------------------------------------------------------


def test_a_loop_that_does_not_turn_is_found_by_the_number_of_looks() -> None:
    standstill = Standstill()
    found = [standstill.look(7, [], 0) for _ in range(LOOP_LOOKS + 1)]
    assert found[:-1] == [None] * LOOP_LOOKS
    assert found[-1] == f"the event loop has not turned for {LOOP_LOOKS} s"


def test_a_loop_that_turns_late_and_one_that_has_ended_are_left_alone() -> None:
    standstill = Standstill()
    assert not any(standstill.look(look // (LOOP_LOOKS - 1), [], 0) for look in range(300))
    assert not any(standstill.look(None, [], 0) for _ in range(300))


def test_a_worker_that_does_nothing_hangs() -> None:
    standstill = Standstill()
    found = [standstill.look(turn, [(job(1), progress(5))], 0) for turn in range(JOB_LOOKS + 1)]
    assert found[-2:] == [None, f"a worker thread hangs in work1 for {JOB_LOOKS} s"]


@pytest.mark.parametrize(
    "seen",
    [
        lambda turn: [(job(1), progress(turn // 10))],  # computes
        lambda turn: [(job(1), progress(0, moved=turn // 30))],  # reads or writes
        lambda turn: [(job(1), progress(0, disk=True))],  # waits for the disk
        lambda turn: [(job(turn), progress(0))],  # another one each time
        lambda turn: [(job(1), progress(turn)), (job(2), progress(0))],  # waits for an older one
        lambda turn: [(job(1), None)],  # nothing is known of it
    ],
)
def test_a_worker_that_only_takes_long_is_left_alone(seen: object) -> None:
    standstill = Standstill()
    assert callable(seen)
    assert not any(standstill.look(turn, seen(turn), 0) for turn in range(300))


def test_threads_that_a_job_has_started_count_for_it() -> None:
    standstill = Standstill()
    assert not any(standstill.look(turn, [(job(1), progress(0))], turn) for turn in range(300))


def test_younger_workers_do_not_hide_one_that_hangs() -> None:
    standstill = Standstill()
    seen = [
        standstill.look(turn, [(job(1), progress(0)), (job(2 + turn), progress(9 * turn))], 0)
        for turn in range(JOB_LOOKS + 1)
    ]
    assert seen[-1] is not None


def test_the_executor_tells_what_it_does() -> None:
    async def main() -> None:
        workers = Workers()
        asyncio.get_running_loop().set_default_executor(workers)
        inside, over = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait_for_it() -> None:
            loop.call_soon_threadsafe(inside.set)
            asyncio.run_coroutine_threadsafe(over.wait(), loop).result()

        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(wait_for_it))
            await inside.wait()
            (seen,) = workers.jobs
            assert "wait_for_it" in seen.name
            if sys.platform == "linux":
                assert progress_of(seen.thread) is not None
            over.set()
        assert workers.jobs == []
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)

    asyncio.run(main())


# -- a trainer, on paper -----------------------------------------------------------------------------


def looked(
    silence: Silence, *looks: Look, allowed_s: float | None = 600.0, idles: bool = False
) -> list[bool]:
    return [silence.look(look, allowed_s=allowed_s, idles=idles) is not None for look in looks]


def still(silent_s: float, cpu_s: float | None = 0.0, *, stopped: bool = False) -> Look:
    return Look(silent_s=silent_s, cpu_s=cpu_s, stopped=stopped)


def test_a_trainer_that_neither_speaks_nor_computes_is_wedged_at_the_second_look() -> None:
    assert looked(Silence(idle_s=45.0), still(44), still(45), still(46)) == [False, False, True]


def test_one_that_computes_has_ten_minutes() -> None:
    busy = [still(seconds, cpu_s=0.5 * seconds) for seconds in (60, 599, 600, 601)]
    assert looked(Silence(idle_s=45.0), *busy) == [False, False, False, True]


def test_one_that_loads_or_waits_for_us_may_do_nothing() -> None:
    assert not any(looked(Silence(idle_s=45.0), *[still(500)] * 9, idles=True))
    assert not any(looked(Silence(idle_s=45.0), *[still(9000)] * 9, allowed_s=None))


def test_one_that_a_signal_has_stopped_is_seen_in_any_phase() -> None:
    looks = looked(Silence(idle_s=45.0), *[still(1, stopped=True)] * STOPPED_LOOKS, allowed_s=None)
    assert looks == [False] * (STOPPED_LOOKS - 1) + [True]


def test_a_moment_of_being_stopped_is_none() -> None:
    looks = [still(1, stopped=True)] * (STOPPED_LOOKS - 1) + [still(1)]
    assert not any(looked(Silence(idle_s=45.0), *looks, *looks))


# -- the supervisor ----------------------------------------------------------------------------------


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "n"))
        listening.settimeout(10)
        yield listening


def test_a_supervisor_hears_of_it(supervisor: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": supervisor.getsockname()})
    assert notifier.present
    notifier.ready()
    notifier.status("training")
    notifier.status("training")
    notifier.status("paused:\n" + "x" * 1000)
    notifier.alive()
    notifier.stopping()
    assert [supervisor.recv(4096).decode() for _ in range(3)] == [
        "READY=1",
        "STATUS=training",
        "STATUS=" + ("paused: " + "x" * 1000)[:MAX_STATUS],
    ]
    assert [supervisor.recv(4096) for _ in range(2)] == [b"WATCHDOG=1", b"STOPPING=1"]


def test_without_a_supervisor_nothing_is_said() -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:1"}):
        notifier = Notifier(environment)
        assert not notifier.present
        notifier.ready()


def test_a_supervisor_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()


# -- a real process ----------------------------------------------------------------------------------

PROGRAM = Path(__file__).with_name("standing_program.py")


@pytest.mark.skipif(sys.platform != "linux", reason="what threads do is known on Linux only")
@pytest.mark.parametrize(
    ("kind", "code", "why"),
    [
        ("loop", 0, "the event loop has not turned for 2 s"),
        ("worker", 0, "a worker thread hangs in hang for 2 s"),
        ("leaving", restarting.STOOD_STILL, ""),
    ],
)
def test_a_process_that_stands_still_begins_again(kind: str, code: int, why: str, tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (code, why), done.stderr
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))
    stacks = (tmp_path / (restarting.KEPT_NAME if why else restarting.FILE_NAME)).read_text()
    assert "in hang" in stacks
    assert done.stderr.strip().endswith("begins again" if why else "ends")


def test_with_a_supervisor_it_ends_and_is_started_again(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(tmp_path), "loop"]
    environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    first = subprocess.run(command, capture_output=True, env=environment, check=False, timeout=120)
    assert (first.returncode, first.stdout) == (restarting.STOOD_STILL, b"")
    second = subprocess.run(command, capture_output=True, env=environment, check=False, timeout=120)
    assert (second.returncode, second.stdout) == (0, b"the event loop has not turned for 2 s\n")


# -- real daemons ------------------------------------------------------------------------------------


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Daemons]:
    with daemons(tmp_path) as made:
        yield made


def pid_of(node: DemoNode) -> int:
    assert node._process is not None
    return node._process.pid


@pytest.mark.processes
@pytest.mark.trial
@pytest.mark.skipif(sys.platform != "linux", reason="what threads do is known on Linux only")
@pytest.mark.parametrize(
    ("number", "why"), [(signal.SIGUSR1, "event loop has not turned"), (signal.SIGUSR2, "hangs in hang")]
)
def test_a_daemon_that_stands_still_begins_again(swarm: Daemons, number: int, why: str) -> None:
    node = swarm.found(small_manifest(peers=1), DemoNode("peer-0", swarm.folder, STANDING))
    swarm.counted(node, since=0)
    pid, before = pid_of(node), swarm.round_of(node)
    children = psutil.Process(pid).children(recursive=True)
    os.kill(pid, number)
    told = until(
        lambda: next(
            (line for line in node.log_path.read_text().splitlines() if "began again by itself" in line), None
        ),
        "word of the new start",
        [node],
    )
    assert why in told
    swarm.counted(node, since=before)
    assert pid_of(node) == pid
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    stacks = (node.state_dir / "logs" / "standstill.txt.1").read_text()
    assert "most recent call first" in stacks
