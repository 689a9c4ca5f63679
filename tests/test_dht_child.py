"""Child processes end with the scope that started them, at whatever moment it ends."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop
from trainer_help import make_manifest, make_spec

from talkoot.dht import p2pd
from talkoot.dht.child import child
from talkoot.dht.config import NetworkConfig
from talkoot.dht.identity import Identity
from talkoot.peer.trainer.process import TrainerProcess

pytestmark = pytest.mark.processes

SLEEP = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
PARENT = (
    sys.executable,
    "-c",
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(p.pid, flush=True); p.wait()",
)
LOOPS = pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
Loop = Callable[[], asyncio.AbstractEventLoop]


def processes() -> set[int]:
    """Those that we started and have not reaped, other than pytest's own."""
    return {process.pid for process in psutil.Process().children()}


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    """Whatever is started meanwhile is gone at the end, zombies included."""
    before = processes()
    yield
    assert processes() <= before


async def cancelled_after(turns: int, work: Coroutine[Any, Any, None]) -> bool:
    """Cancel `work` after so many turns of the loop; whether it still was at it."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        for _ in range(turns):
            await asyncio.sleep(0)
        return task.cancel()


async def starts_child() -> None:
    async with child(*SLEEP, stdout=asyncio.subprocess.PIPE, start_new_session=True):
        await asyncio.get_running_loop().create_future()


async def starts_p2pd() -> None:
    async with p2pd.running(Identity.generate(), NetworkConfig(listen=("127.0.0.1",)), 0):
        await asyncio.get_running_loop().create_future()


@LOOPS
@pytest.mark.parametrize("turns", range(12))
def test_a_child_whose_start_is_cancelled_is_reaped(turns: int, new_loop: Loop) -> None:
    async def main() -> None:
        assert await cancelled_after(turns, starts_child())

    with none_left(), asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("turns", range(12))
def test_a_p2pd_whose_start_is_cancelled_is_reaped(turns: int) -> None:
    async def main() -> None:
        assert await cancelled_after(turns, starts_p2pd())

    with none_left(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("turns", range(12))
def test_a_trainer_whose_start_is_cancelled_is_reaped(turns: int, tmp_path: Path) -> None:
    trainer = TrainerProcess(make_spec(make_manifest("numpy"), tmp_path), lambda event: None)

    async def main() -> None:
        assert await cancelled_after(turns, trainer.run())

    with none_left(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@LOOPS
def test_a_child_that_outlives_its_scope_is_killed_with_its_own(new_loop: Loop) -> None:
    async def main() -> tuple[int | None, int]:
        async with child(*PARENT, stdout=asyncio.subprocess.PIPE, start_new_session=True) as process:
            assert process.stdout is not None
            below = int(await process.stdout.readline())
            assert psutil.pid_exists(below)
        return process.returncode, below

    with none_left(), asyncio.Runner(loop_factory=new_loop) as runner:
        code, below = runner.run(main())
    assert code == -signal.SIGKILL
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(below).wait(10)  # an orphan: init reaps it
    with pytest.raises(ProcessLookupError):
        os.kill(below, 0)


@LOOPS
def test_a_child_that_ended_by_itself_is_left_alone(new_loop: Loop) -> None:
    async def main() -> int | None:
        async with child(sys.executable, "-c", "raise SystemExit(3)") as process:
            await process.wait()
        return process.returncode

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == 3


def test_what_cannot_be_started_is_an_os_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with child(tmp_path / "nothing"):
            pass

    with pytest.raises(FileNotFoundError):
        asyncio.run(main())
