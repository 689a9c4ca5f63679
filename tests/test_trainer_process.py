"""Real trainer subprocesses: life, death, repair and farewell."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
from trainer_help import make_manifest, make_spec

from talkoot.peer.trainer.layout import initial_weights
from talkoot.peer.trainer.process import COMMAND, Limits, TrainerGone, TrainerProcess, TrainerRefused
from talkoot.peer.trainer.protocol import Adopted, AuditTask, Crashed, Failed, Progress, Ready, TrainerEvent

pytestmark = pytest.mark.processes

E = TypeVar("E")


class Events:
    """What a trainer reported; tests wait for the next event of a kind."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[TrainerEvent] = asyncio.Queue()
        self.put = self._queue.put_nowait

    async def next(self, kind: type[E]) -> E:
        async with asyncio.timeout(60):
            while not isinstance(event := await self._queue.get(), kind):
                pass
            return event


def _with_trainer(
    folder: Path,
    test: Callable[[TrainerProcess, Events, Path], Awaitable[None]],
    *,
    kind: str = "numpy",
    limits: Limits | None = None,
    config: dict[str, Any] | None = None,
    **spec_fields: Any,
) -> None:
    """Run `test` beside a supervised trainer; it also gets a file with the initial weights."""
    manifest = make_manifest(kind)
    if config is not None:
        manifest = replace(manifest, model=replace(manifest.model, config=manifest.model.config | config))
    outer = folder / "outer.bin"
    initial_weights(manifest).tofile(outer)
    spec = make_spec(manifest, folder, **spec_fields)

    async def main() -> None:
        events = Events()
        trainer = TrainerProcess(spec, events.put, limits=limits or Limits(backoff_s=0.05))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(trainer.run())
            await test(trainer, events, outer)
            running.cancel()
        assert trainer.pid is None

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["numpy", "transformers"])
def test_a_trainer_trains_snapshots_rebases_and_goes_on_after_a_stop(tmp_path: Path, kind: str) -> None:
    async def test(trainer: TrainerProcess, events: Events, outer: Path) -> None:
        ready = await events.next(Ready)
        assert ready.micro_batch == 4
        assert ready.held_out_tokens > 0
        adopted = await trainer.adopt(outer, round=0, digest="aa", global_step=0, mode="start", evaluate=16)
        assert adopted.eval_loss == pytest.approx(np.log(256), rel=0.05)
        progress = await events.next(Progress)
        assert progress.steps > 0
        assert progress.loss is not None
        assert 0 < progress.inner_seconds <= progress.total_seconds
        taken = await trainer.snapshot()
        assert taken.steps >= progress.steps
        assert len(np.fromfile(taken.path, dtype="<f4")) == make_manifest(kind).model.numel
        rebased = await trainer.adopt(
            taken.path, round=1, digest="bb", global_step=9, mode="rebase", evaluate=16
        )
        assert rebased.eval_loss is not None
        assert adopted.eval_loss is not None
        assert rebased.eval_loss < adopted.eval_loss
        with pytest.raises(TrainerRefused, match="bytes instead of"):
            await trainer.adopt(tmp_path / "doc-0.txt", round=2, digest="", global_step=0, mode="rebase")
        await events.next(Progress)
        await trainer.stop(save=True, timeout_s=30)
        assert trainer.pid is None
        with pytest.raises(TrainerGone):
            await trainer.snapshot()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(trainer.run())
            await events.next(Ready)
            again = await trainer.adopt(outer, round=1, digest="bb", global_step=9, mode="start")
            assert again.resumed
            assert again.steps > 0
            running.cancel()

    _with_trainer(tmp_path, test, kind=kind)


def test_a_killed_trainer_is_noticed_and_started_again(tmp_path: Path) -> None:
    async def test(trainer: TrainerProcess, events: Events, outer: Path) -> None:
        await events.next(Ready)
        await trainer.adopt(outer, round=0, digest="aa", global_step=0, mode="start")
        first = trainer.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # so that the request is in flight
        async with asyncio.TaskGroup() as group:
            request = group.create_task(_expect_gone(trainer))
            await asyncio.sleep(0)
            os.kill(first, signal.SIGKILL)
            await request
        crashed = await events.next(Crashed)
        assert crashed.will_retry
        assert "signal 9" in crashed.reason
        await events.next(Ready)
        assert trainer.pid != first
        assert not psutil.pid_exists(first)  # reaped, no zombie

    _with_trainer(tmp_path, test)


async def _expect_gone(trainer: TrainerProcess) -> None:
    with pytest.raises(TrainerGone):
        await trainer.snapshot()


def test_a_trainer_audits_a_slice_beside_its_steps(tmp_path: Path) -> None:
    async def test(trainer: TrainerProcess, events: Events, outer: Path) -> None:
        await events.next(Ready)
        piece = tmp_path / "piece"
        np.full(100, 3.0, dtype="<f4").tofile(piece)
        task = AuditTask(
            outer=outer,
            piece=piece,
            start=800,  # of the embedding: letters
            numel=100,
            scale=1.0,
            seed=1,
            windows=8,
            fewest=4,
            budget_s=1e9,
        )
        assert (await trainer.audit(task)).unfinished == "held"
        await trainer.adopt(outer, round=0, digest="aa", global_step=0, mode="start")
        done = await trainer.audit(task)
        assert (done.unfinished, len(done.before), len(done.after)) == ("", 8, 8)
        assert done.before != done.after
        with pytest.raises(TrainerRefused, match="400 bytes"):
            await trainer.audit(replace(task, numel=99))
        await events.next(Progress)  # and on it goes

    _with_trainer(tmp_path, test)


def test_a_wedged_trainer_is_reported_and_replaced(tmp_path: Path) -> None:
    async def test(trainer: TrainerProcess, events: Events, outer: Path) -> None:
        await events.next(Ready)
        await trainer.adopt(outer, round=0, digest="aa", global_step=0, mode="start")
        await events.next(Progress)
        assert trainer.pid is not None
        os.kill(trainer.pid, signal.SIGSTOP)
        assert "no sign of life" in (await events.next(Crashed)).reason
        await events.next(Ready)

    _with_trainer(tmp_path, test, limits=Limits(backoff_s=0.05, silence_s=2.0, kill_s=0.1))


def test_stopping_a_wedged_trainer_is_bounded(tmp_path: Path) -> None:
    async def test(trainer: TrainerProcess, events: Events, outer: Path) -> None:
        await events.next(Ready)
        pid = trainer.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(20):
            await trainer.stop(save=True, timeout_s=0.1)
        assert not psutil.pid_exists(pid)

    _with_trainer(tmp_path, test, limits=Limits(kill_s=0.1))


def test_one_that_has_not_begun_is_not_waited_for(tmp_path: Path) -> None:
    """It may load for minutes, and has nothing to save."""
    loading = (
        sys.executable,
        "-c",
        "print('loads', file=__import__('sys').stderr); __import__('time').sleep(600)",
    )

    async def main() -> None:
        began = asyncio.Event()
        trainer = TrainerProcess(
            spec, lambda _event: None, on_line=lambda _line: began.set(), command=loading
        )
        async with asyncio.TaskGroup() as group, asyncio.timeout(60):
            group.create_task(trainer.run())
            await began.wait()
            await trainer.stop(save=True, timeout_s=600)
        assert trainer.pid is None

    spec = make_spec(make_manifest(), tmp_path)
    asyncio.run(main())


def test_a_micro_batch_that_takes_long_does_not_delay_a_stop(tmp_path: Path) -> None:
    """What the finished steps have left is saved meanwhile, and nothing else."""
    manifest = make_manifest()
    outer = tmp_path / "outer.bin"
    initial_weights(manifest).tofile(outer)
    spec = make_spec(manifest, tmp_path)
    slow = (sys.executable, str(Path(__file__).parent / "slow_trainer.py"))

    async def life(command: tuple[str, ...]) -> Adopted:
        events, stuck = Events(), asyncio.Event()
        trainer = TrainerProcess(
            spec, events.put, limits=Limits(nudge_s=0.5), on_line=lambda _line: stuck.set(), command=command
        )
        async with asyncio.TaskGroup() as group, asyncio.timeout(120):
            running = group.create_task(trainer.run())
            await events.next(Ready)
            adopted = await trainer.adopt(outer, round=0, digest="aa", global_step=0, mode="start")
            if command == slow:
                await stuck.wait()
                await trainer.stop(save=True, timeout_s=600)
                assert trainer.pid is None
            running.cancel()
        return adopted

    async def main() -> None:
        await life(slow)
        again = await life(COMMAND)
        assert again.resumed
        assert again.steps > 0
        assert again.position == 4 * again.steps

    asyncio.run(main())


def test_a_trainer_without_data_fails_for_good(tmp_path: Path) -> None:
    async def test(trainer: TrainerProcess, events: Events, outer: Path) -> None:
        failed = await events.next(Failed)
        assert "matches no file" in failed.reason
        assert "\n" not in failed.reason

    _with_trainer(tmp_path, test, data_paths=("nothing-*.txt",))


def test_another_layout_fails_for_good(tmp_path: Path) -> None:
    async def test(trainer: TrainerProcess, events: Events, outer: Path) -> None:
        assert "layout" in (await events.next(Failed)).reason

    _with_trainer(tmp_path, test, config={"hidden": 9})


def test_a_folder_that_cannot_be_used_fails_for_good(tmp_path: Path) -> None:
    (tmp_path / "trainer").write_text("a file where a folder should be")

    async def test(trainer: TrainerProcess, events: Events, outer: Path) -> None:
        failed = await events.next(Failed)
        assert "cannot prepare the training data" in failed.reason
        assert "File exists" in failed.reason

    _with_trainer(tmp_path, test)


def test_endless_lines_on_stderr_are_cut(tmp_path: Path) -> None:
    lines: list[str] = []
    spec = make_spec(make_manifest(), tmp_path)
    program = f"import sys; sys.stderr.write('x' * 10**6 + chr(10) + 'last' + chr(10)); sys.exit({7})"

    async def main() -> None:
        events = Events()
        trainer = TrainerProcess(
            spec, events.put, on_line=lines.append, command=(sys.executable, "-c", program)
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(trainer.run())
            assert (await events.next(Crashed)).reason == "exit code 7: last"
            running.cancel()

    asyncio.run(main())
    assert [len(line) for line in lines] == [500, 4]


def test_the_pace_of_the_numpy_trainer_can_be_set(tmp_path: Path) -> None:
    async def test(trainer: TrainerProcess, events: Events, outer: Path) -> None:
        await events.next(Ready)
        await trainer.adopt(outer, round=0, digest="aa", global_step=0, mode="start")
        progress = await events.next(Progress)
        assert progress.steps_per_second <= 10.1
        assert progress.inner_seconds / progress.total_seconds > 0.9

    _with_trainer(tmp_path, test, config={"step_ms": 100})


DAEMON = """
import asyncio, os, sys
from pathlib import Path
from talkoot.peer.trainer.process import TrainerProcess
from talkoot.peer.trainer.protocol import TrainerSpec, Ready

async def main():
    ready = asyncio.Event()
    spec = TrainerSpec(manifest_path=Path(sys.argv[1]), state_dir=Path(sys.argv[2]), peer=b"p" * 32)
    trainer = TrainerProcess(spec, lambda event: ready.set() if isinstance(event, Ready) else None)
    async with asyncio.TaskGroup() as group:
        group.create_task(trainer.run())
        await ready.wait()
        await trainer.adopt(Path(sys.argv[3]), round=0, digest="", global_step=0, mode="start")
        print(trainer.pid, flush=True)

asyncio.run(main())
"""


def test_the_trainer_ends_when_its_daemon_is_killed(tmp_path: Path) -> None:
    manifest = make_manifest()
    initial_weights(manifest).tofile(tmp_path / "outer.bin")
    spec = make_spec(manifest, tmp_path)
    arguments = [str(spec.manifest_path), str(spec.state_dir), str(tmp_path / "outer.bin")]
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, *arguments], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    with daemon.stdout:
        trainer = psutil.Process(int(daemon.stdout.readline()))
        daemon.kill()
        daemon.wait(timeout=30)
    trainer.wait(timeout=30)


def test_a_trainer_that_cannot_be_started_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    async def main() -> None:
        trainer = TrainerProcess(spec, lambda _event: None, command=[str(tmp_path / "none")])
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(FileNotFoundError):
            await trainer.run()
        assert set(os.listdir("/proc/self/fd")) == before

    spec = make_spec(make_manifest("numpy"), tmp_path)
    asyncio.run(main())
