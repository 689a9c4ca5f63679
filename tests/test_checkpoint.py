"""Checkpoint files: written while rounds go on, verified, kept by number and size, loadable by anybody."""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_rig import write
from safetensors import safe_open
from safetensors.numpy import load_file
from state_rig import MANIFEST, NUMEL, advance, found
from trainer_help import make_manifest

from talkoot.peer.checkpoint_file import (
    CheckpointDamagedError,
    NotACheckpointError,
    open_checkpoint,
)
from talkoot.peer.checkpoint_write import OvertakenError, Source, StoppedError, write_checkpoint
from talkoot.peer.checkpoints import Checkpoints, Policy, prune, source_of, stored
from talkoot.peer.holdings import Holdings
from talkoot.peer.metrics import Metrics
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.tensor_names import FLAT, Names, tensor_names
from talkoot.peer.trainer import model


@pytest.fixture
def holdings(tmp_path: Path) -> Holdings:
    made = found(tmp_path / "state")
    advance(made)
    return made


def test_the_library_reads_what_is_written(holdings: Holdings, tmp_path: Path) -> None:
    path = write(holdings, tmp_path / "out")
    tensors = load_file(path)
    assert tensors.keys() == {"talkoot.theta", "talkoot.momentum"}
    assert np.array_equal(tensors["talkoot.theta"], holdings.store.theta.numpy())
    assert np.array_equal(tensors["talkoot.momentum"], holdings.store.momentum.numpy())
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert metadata["rounds"] == "1"
    assert metadata["digest"] == holdings.digest.hex()
    assert metadata["swarm"] == MANIFEST.swarm.name


def test_a_checkpoint_reads_back(holdings: Holdings, tmp_path: Path) -> None:
    read = open_checkpoint(write(holdings, tmp_path / "out"))
    assert read.contents.manifest == MANIFEST
    assert read.contents.ledger == holdings.ledger
    assert read.contents.certificate == holdings.head
    assert read.contents.before == holdings.certificate_of(-1)
    assert read.tree() == holdings.tree
    assert read.data_start % 8 == 0


def test_no_other_spelling_of_a_header_is_read(holdings: Holdings, tmp_path: Path) -> None:
    path = write(holdings, tmp_path / "out")
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"rounds":"1"', b'"rounds":"2"', 1))
    with pytest.raises(CheckpointDamagedError, match="not what talkoot writes"):
        open_checkpoint(path)


def test_other_files_are_no_checkpoints(holdings: Holdings, tmp_path: Path) -> None:
    path = write(holdings, tmp_path / "out")
    data = path.read_bytes()
    theirs = tmp_path / "theirs.safetensors"
    theirs.write_bytes(b"")
    for wrong, words in (
        (b"", "no safetensors file"),
        (b"\0" * 100, "no safetensors file"),
        (b"GIF89a" * 100, "no safetensors file"),
        ((2**63).to_bytes(8, "little") + data[8:], "no safetensors file"),
        (len(data).to_bytes(8, "little") + data[8:], "no safetensors file"),
        (data.replace(b'"talkoot_checkpoint":"1"', b'"talkoot_checkpoint":"2"', 1), "format '2'; this"),
        (
            data.replace(b'"talkoot_checkpoint":"1"', b'"talkoot_checkpoind":"1"', 1),
            "no checkpoint of talkoot",
        ),
    ):
        theirs.write_bytes(wrong)
        with pytest.raises(NotACheckpointError, match=words):
            open_checkpoint(theirs)


def test_a_header_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write((17 << 20).to_bytes(8, "little"))
        file.truncate(1 << 30)  # takes no room: a hole
    with pytest.raises(NotACheckpointError, match="at most"):
        open_checkpoint(path)


def test_sizes_fit_exactly(holdings: Holdings, tmp_path: Path) -> None:
    path = write(holdings, tmp_path / "out")
    size = path.stat().st_size
    for other in (size - 1, size + 1, size // 2):
        os.truncate(path, other)
        with pytest.raises(CheckpointDamagedError, match="instead of"):
            open_checkpoint(path)
        os.truncate(path, size)


# -- names -------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_parameters_have_the_names_of_the_model(tmp_path: Path) -> None:
    """Found by a process of its own, kept, and such that the library loads them into the model."""
    manifest = make_manifest("transformers")
    names = asyncio.run(tensor_names(manifest, tmp_path))
    built = model.build(manifest)
    assert names == tuple((slot.name, slot.shape) for slot in model.layout_of(built))
    assert (tmp_path / "tensors.json").exists()

    flat = torch.arange(manifest.model.numel, dtype=torch.float32)
    source = named_source(tmp_path, manifest.model.numel, flat)
    contents = replace(source.contents, manifest=manifest, names=names)
    path = tmp_path / "x.safetensors"
    write_checkpoint(replace(source, contents=contents), path)
    tensors = load_file(path)
    momentum = tensors.pop("talkoot.momentum")
    assert np.array_equal(momentum, np.zeros(manifest.model.numel))
    missing, unexpected = built.load_state_dict(
        {name: torch.from_numpy(value) for name, value in tensors.items()}, strict=False
    )
    assert not unexpected
    assert all("lm_head" in name for name in missing)  # tied
    assert np.array_equal(model.flat_of(built), flat.numpy())


def named_source(folder: Path, numel: int, flat: torch.Tensor) -> Source:
    """A source with other vectors than its certificate's: only the writer looks at it."""
    from talkoot.averaging.digest import state_tree

    holdings = found(folder / "state")
    made = source_of(holdings, MANIFEST)
    zeros = torch.zeros(numel)
    tree = state_tree(flat, zeros, made.contents.ledger.encode())
    return Source(made.contents, tree, flat, zeros)


def test_names_that_are_not_the_manifests_are_not_used(tmp_path: Path) -> None:
    assert asyncio.run(tensor_names(MANIFEST, tmp_path)) == FLAT
    (tmp_path / "tensors.json").write_text('[["x", [3, -1]]]')
    assert asyncio.run(tensor_names(MANIFEST, tmp_path)) == FLAT
    numpy_model = make_manifest("numpy")
    assert len(asyncio.run(tensor_names(numpy_model, tmp_path))) > 1
    (tmp_path / "tensors.json").write_text("garbage")
    assert len(asyncio.run(tensor_names(numpy_model, tmp_path))) > 1


# -- while rounds go on ------------------------------------------------------------------------------


def test_one_round_later_the_copy_is_still_whole(holdings: Holdings, tmp_path: Path) -> None:
    source, digest = source_of(holdings, MANIFEST), holdings.digest
    advance(holdings)
    write_checkpoint(source, tmp_path / "x")
    assert open_checkpoint(tmp_path / "x").tree().digest == digest != holdings.digest


def test_a_copy_that_was_overtaken_ends(holdings: Holdings, tmp_path: Path) -> None:
    source = source_of(holdings, MANIFEST)
    for _ in range(3):
        advance(holdings)
    with pytest.raises(OvertakenError):
        write_checkpoint(source, tmp_path / "x")
    assert not list(tmp_path.glob("*x*"))


def test_a_node_that_ends_does_not_wait(holdings: Holdings, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        write_checkpoint(source_of(holdings, MANIFEST), tmp_path / "x", stopped=lambda: True)
    assert not list(tmp_path.glob("*x*"))


@pytest.mark.parametrize("step", ["checkpoint written", "checkpoint verified"])
def test_what_fails_leaves_what_was_there(holdings: Holdings, tmp_path: Path, step: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"before")

    def hook(at: str) -> None:
        if at == step:
            raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        write_checkpoint(source_of(holdings, MANIFEST), path, hook=hook)
    assert path.read_bytes() == b"before"
    assert not list(tmp_path.glob(".x*"))


def test_a_disk_that_gives_back_other_bytes_is_noticed(holdings: Holdings, tmp_path: Path) -> None:
    path = tmp_path / "x"

    def hook(at: str) -> None:
        if at == "checkpoint written":
            with (tmp_path / ".x.tmp").open("r+b") as file:
                file.seek(-1000, os.SEEK_END)
                file.write(b"\x55")

    with pytest.raises(CheckpointDamagedError, match="give back"):
        write_checkpoint(source_of(holdings, MANIFEST), path, hook=hook)
    assert list(tmp_path.glob("*x*")) == []


# -- which stay --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "max_bytes", "left"),
    [(3, 10**9, [3, 4, 5]), (9, 250, [4, 5]), (9, 10, [5]), (1, 10**9, [5]), (9, 0, [5])],
)
def test_old_ones_are_removed(tmp_path: Path, keep: int, max_bytes: int, left: list[int]) -> None:
    for rounds in (1, 2, 3, 4, 5):
        (tmp_path / f"round-{rounds:08d}.safetensors").write_bytes(bytes(100))
    (tmp_path / "mine.safetensors").write_bytes(bytes(100))
    removed = prune(tmp_path, Policy(every_rounds=1, keep=keep, max_bytes=max_bytes))
    assert [rounds for rounds, _ in stored(tmp_path)] == left
    assert len(removed) == 5 - len(left)
    assert (tmp_path / "mine.safetensors").exists()


# -- the service -------------------------------------------------------------------------------------


class Service:
    """The service beside holdings that advance by command."""

    def __init__(self, folder: Path, *, every: int = 2, keep: int = 2) -> None:
        self.holdings = found(folder / "state")
        self.folder = folder / "checkpoints"
        self.metrics = Metrics()
        self.policy = Policy(every_rounds=every, keep=keep, max_bytes=10**9)
        self.service: Checkpoints

    async def names(self) -> Names:
        return FLAT

    async def rounds(self, number: int, *, weak: bool = False) -> None:
        for _ in range(number):
            advance(self.holdings, weak=weak)
            self.service.news(self.holdings)
            await asyncio.sleep(1)

    def run(self, script: Callable[["Service"], object]) -> None:
        async def main() -> None:
            self.service = Checkpoints(self.folder, MANIFEST, self.policy, self.metrics, names=self.names)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(self.service.run())
                await script(self)  # type: ignore[misc]
                task.cancel()

        run_virtual(main())

    @property
    def there(self) -> list[int]:
        return [rounds for rounds, _ in stored(self.folder)]

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"talkoot_checkpoint_{name}")


def test_every_so_many_rounds(tmp_path: Path) -> None:
    service = Service(tmp_path)

    async def script(it: Service) -> None:
        await it.rounds(1)
        assert it.there == []
        await it.rounds(4)
        assert it.there == [2, 4]
        await it.rounds(2)
        assert it.there == [4, 6]

    service.run(script)
    assert service.value("saves_total") == 3
    assert service.value("save_failures_total") == 0
    for _, path in stored(service.folder):
        assert open_checkpoint(path).tree().digest == open_checkpoint(path).contents.certificate.value.digest

    again = Service(tmp_path / "again")
    again.folder = service.folder
    (again.folder / ".round-00000008.safetensors.tmp").write_bytes(b"left")

    async def nothing(it: Service) -> None:
        await asyncio.sleep(1)
        await it.rounds(2)  # a state directory that is behind its checkpoints

    again.run(nothing)
    assert again.there == [4, 6]
    assert not list(again.folder.glob(".*"))
    assert (again.value("size_bytes") or 0) > 8 * NUMEL


def test_weak_rounds_make_none(tmp_path: Path) -> None:
    async def script(it: Service) -> None:
        await it.rounds(5, weak=True)
        assert it.there == []
        await it.rounds(1)
        assert it.there == [6]

    Service(tmp_path, every=4).run(script)


def test_none_are_written_when_none_are_wanted(tmp_path: Path) -> None:
    async def script(it: Service) -> None:
        await it.rounds(3)

    service = Service(tmp_path, every=0)
    service.run(script)
    assert not service.folder.exists()


def test_a_full_disk_costs_the_checkpoint_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = True
    real = write_checkpoint

    def writing(*arguments: object, **more: object) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("talkoot.peer.checkpoints.write_checkpoint", writing)

    async def script(it: Service) -> None:
        nonlocal full
        await it.rounds(6)
        assert it.there == []
        full = False
        await it.rounds(2)
        assert it.there == [8]

    service = Service(tmp_path)
    service.run(script)
    assert service.value("save_failures_total") == 3
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_room_is_left_for_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=8 * NUMEL + 10**6))

    async def script(it: Service) -> None:
        await it.rounds(2)

    service = Service(tmp_path)
    service.run(script)
    assert service.there == []
    assert service.value("save_failures_total") == 1


def test_rounds_that_are_faster_than_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(*_arguments: object, **_more: object) -> int:
        raise OvertakenError("overtaken")

    monkeypatch.setattr("talkoot.peer.checkpoints.write_checkpoint", overtaken)

    async def script(it: Service) -> None:
        await it.rounds(4)
        assert it.value("save_failures_total") == 0
        await it.rounds(3)
        assert it.value("save_failures_total") == 1

    Service(tmp_path).run(script)
