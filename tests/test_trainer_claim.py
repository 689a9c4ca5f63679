"""One node a GPU."""

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trainer_help import make_manifest, make_spec

from talkoot.dht.errors import ConfigError
from talkoot.peer.trainer.claim import claimed, runtime_folder, uuid_of
from talkoot.peer.trainer.process import TrainerProcess
from talkoot.peer.trainer.protocol import Failed, Ready, TrainerEvent

WITH_A_GPU = """
import sys
from talkoot.peer.trainer import claim, worker
claim.uuid_of = lambda kind, device: "gpu-one"
sys.exit(worker.main(sys.argv[1:]))
"""
"""A trainer that takes its processor for a GPU of this name."""

HOLDER = """
import sys
from pathlib import Path
from talkoot.peer.trainer.claim import claimed
with claimed("gpu-one", Path("/state of another"), folder=Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_is_no_gpu_is_not_claimed() -> None:
    assert uuid_of("numpy", "auto") is None
    assert uuid_of("transformers", "cpu") is None
    with claimed(None, Path("/a")), claimed(None, Path("/b")):
        pass


def test_a_gpu_is_claimed_once_and_free_again_afterwards(tmp_path: Path) -> None:
    with claimed("gpu-one", Path("/a"), folder=tmp_path):
        with claimed("gpu-two", Path("/b"), folder=tmp_path):
            pass
        with pytest.raises(ConfigError, match=r"gpu-one is in use by the trainer in /a \(process") as caught:  # noqa: SIM117
            with claimed("gpu-one", Path("/b"), folder=tmp_path):
                pass
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.EBUSY
    with claimed("gpu-one", Path("/b"), folder=tmp_path):
        pass


@pytest.mark.processes
def test_a_killed_holder_leaves_it_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=rf"/state of another \(process {holder.pid}\)"),
            claimed("gpu-one", Path("/b"), folder=tmp_path),
        ):
            pass
        holder.kill()
    with claimed("gpu-one", Path("/b"), folder=tmp_path):
        pass


def test_the_folder_is_the_sessions_or_a_private_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_folder() == tmp_path / "talkoot"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = tmp_path / f"talkoot-{os.getuid()}"
    assert runtime_folder() == own
    assert own.stat().st_mode & 0o077 == 0
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is not yours"):
        runtime_folder()


@pytest.mark.processes
def test_the_second_trainer_on_a_gpu_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    heard: asyncio.Queue[TrainerEvent] = asyncio.Queue()

    def make(name: str, **fields: bool) -> TrainerProcess:
        (tmp_path / name).mkdir()
        spec = make_spec(make_manifest(), tmp_path / name, **fields)
        return TrainerProcess(spec, heard.put_nowait, command=(sys.executable, "-c", WITH_A_GPU))

    async def main() -> None:
        first = make("first")
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(first.run())
            assert isinstance(await heard.get(), Ready)
            await make("second").run()
            failed = await heard.get()
            assert isinstance(failed, Failed)
            assert failed.errno == errno.EBUSY
            assert (
                f"gpu-one is in use by the trainer in {tmp_path / 'first'} (process {first.pid})"
                in failed.reason
            )
            shared = make("third", share_gpu=True)
            group.create_task(shared.run())
            assert isinstance(await heard.get(), Ready)
            await shared.stop(save=False, timeout_s=10)
            await first.stop(save=False, timeout_s=10)

    asyncio.run(main())
