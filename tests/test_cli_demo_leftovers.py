"""What a killed demo leaves behind: its daemons die with it, the next one clears up, and nothing else."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from talkoot.cli.demo_chaos_faults import why_no_disk
from talkoot.cli.demo_chaos_network import run_tool, why_not
from talkoot.cli.demo_leftovers import NAMESPACES, dead_owner, remove_leftovers
from talkoot.cli.demo_node import TALKOOT, dying_with_us


def unmount(folder: Path) -> None:
    if folder.is_mount():
        run_tool("umount", str(folder))


def delete(namespace: str) -> None:
    if (NAMESPACES / namespace).exists():
        run_tool("ip", "netns", "delete", namespace)


@pytest.fixture
def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_whose_a_name_is(dead: int) -> None:
    assert dead_owner(f"talkoot-{dead}-hub") == dead
    assert dead_owner(f"talkoot-{dead}-12") == dead
    for name in (f"talkoot-{os.getpid()}-hub", "talkoot-demo", f"other-{dead}-hub", f"talkoot-{dead}", ""):
        assert dead_owner(name) is None


def test_a_child_dies_with_the_demo_and_not_before() -> None:
    sleeper = [*dying_with_us(), "sh", "-c", "echo $$; exec sleep 1000"]  # speaks once that is done
    code = f"import subprocess; subprocess.Popen({sleeper!r}); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        child = psutil.Process(int(demo.stdout.readline()))
        assert child.is_running()
        demo.send_signal(signal.SIGKILL)
        demo.wait(60)
        if not dying_with_us():
            child.kill()  # this machine has no such program
        child.wait(60)


def test_file_systems_of_the_dead_are_removed(tmp_path: Path, dead: int) -> None:
    if why := why_no_disk():
        pytest.skip(why)
    theirs, used, ours = (tmp_path / name for name in ("theirs", "used", "ours"))
    with ExitStack() as stack:
        for folder, owner in ((theirs, dead), (used, dead), (ours, os.getpid())):
            folder.mkdir()
            run_tool("mount", "-t", "tmpfs", "-o", "size=1m", f"talkoot-{owner}-disk", str(folder))
            stack.callback(unmount, folder)
        with (used / "file").open("wb"):
            remove_leftovers()
            assert [folder.is_mount() for folder in (theirs, used, ours)] == [False, True, True]
        remove_leftovers()
        assert [folder.is_mount() for folder in (theirs, used, ours)] == [False, False, True]


def test_namespaces_of_the_dead_are_removed(dead: int) -> None:
    if why := why_not():
        pytest.skip(why)
    theirs, ours = [f"talkoot-{dead}-hub", f"talkoot-{dead}-0"], f"talkoot-{os.getpid()}-9"
    with ExitStack() as stack:
        for name in (*theirs, ours):
            run_tool("ip", "netns", "add", name)
            stack.callback(delete, name)
        inside = subprocess.Popen(["ip", "netns", "exec", theirs[0], "sleep", "1000"], stdout=subprocess.PIPE)
        with inside:
            while not run_tool("ip", "netns", "pids", theirs[0]).strip():
                assert inside.poll() is None
            remove_leftovers()
            assert all((NAMESPACES / name).exists() for name in theirs)
            inside.kill()
        remove_leftovers()
        assert not any((NAMESPACES / name).exists() for name in theirs)
        assert (NAMESPACES / ours).exists()


@pytest.mark.processes
def test_a_demo_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [*TALKOOT, "demo", "--chaos", "--peers", "2", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as demo:
        assert demo.stdout is not None
        for text in demo.stdout:
            if "state paused" in text or "peers train." in text:  # it has its p2pd and its trainer
                break
        family = psutil.Process(demo.pid).children(recursive=True)
        assert len(family) >= 3
        demo.kill()
        demo.wait(60)
        if not dying_with_us():
            for process in family:
                process.kill()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []
    remove_leftovers()
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert list(NAMESPACES.glob(f"talkoot-{demo.pid}-*")) == []
