"""Calls that a disk refuses, one by one: what is made again, and what is not believed afterwards."""

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from disk_rig import faulty_disks

from talkoot.averaging.digest import state_tree
from talkoot.dht.errors import ConfigError
from talkoot.peer import answering
from talkoot.peer.disk import KINDS, ROOM_BYTES, WORDS, Disk, DiskLost, fault_of, takes_writes
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.store import OuterStore

NUMEL = 300


def refusing(*codes: int) -> tuple[Any, list[int]]:
    """A call that fails in these ways, one after the other, and then succeeds."""
    left = list(codes)

    def call(answer: str) -> str:
        if left:
            raise OSError(left.pop(0), "why")
        return answer

    return call, left


def test_a_refused_call_is_made_until_it_succeeds(tmp_path: Path) -> None:
    heard: list[str | None] = []

    async def main() -> None:
        disk = Disk(tmp_path, heard.append)
        call, left = refusing(errno.EROFS, errno.EROFS, errno.EMFILE, errno.EIO, errno.EIO, errno.EDQUOT)
        assert await disk.run(call, "done") == "done"
        assert left == []
        assert disk.fault is None
        await disk.well()

    run_virtual(main())
    assert heard == ["read_only", "files", "io", "quota", None]


def test_a_fault_lasts_as_long_as_anybody_waits(tmp_path: Path) -> None:
    heard: list[str | None] = []

    async def main() -> None:
        disk = Disk(tmp_path, heard.append)
        disk.refused("trainer", "full", "why")
        call, _ = refusing(errno.EROFS)
        await disk.run(call, "done")
        assert disk.fault == "full"
        disk.accepted("trainer")
        assert disk.fault is None

    run_virtual(main())
    assert heard == ["full", None]


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), ConfigError("wrong"), ValueError("ours")])
def test_other_errors_go_up_at_once(tmp_path: Path, error: Exception) -> None:
    def call() -> None:
        raise error

    async def main() -> None:
        disk = Disk(tmp_path)
        with pytest.raises(type(error)):
            await disk.run(call)
        assert disk.fault is None

    run_virtual(main())


def test_who_waits_for_a_disk_can_be_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk(tmp_path)
        call, _ = refusing(*[errno.EROFS] * 1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60.0):
                await disk.run(call, "never")
        assert disk.fault is None

    run_virtual(main())


def test_a_fault_is_found_behind_other_errors() -> None:
    error = ConfigError("cannot write")
    error.__cause__ = OSError(errno.EROFS, "read-only")
    assert fault_of(ExceptionGroup("", [ValueError(), error])) == "read_only"
    assert fault_of(OSError(errno.ENOENT, "missing")) is None
    assert {*KINDS.values(), "limit"} == set(WORDS)  # that one is the volunteer's, no error has it


def test_a_disk_is_looked_at_before_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert takes_writes(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with faulty_disks() as disks:
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EIO):
            disks.fail(tmp_path, "", code)
            assert not takes_writes(tmp_path)
    monkeypatch.setattr("talkoot.peer.disk.ROOM_BYTES", 1 << 62)
    assert not takes_writes(tmp_path)
    assert ROOM_BYTES < 1 << 62


# -- a sync that failed ------------------------------------------------------------------------------


def staged(folder: Path) -> tuple[OuterStore, dict[str, Any]]:
    """A store with a second state that waits to be committed, and how to commit it."""
    store = OuterStore.create(folder, NUMEL, torch.ones(NUMEL), ledger=b"l", certificate=b"c")
    generation = store.stage()
    generation.theta.fill_(2.0)
    generation.momentum.fill_(3.0)
    digest = state_tree(generation.theta, generation.momentum, b"m").digest
    return store, {
        "staged": generation, "round": 1, "digest": digest, "ledger": b"m", "certificate": b"d"
    }  # fmt: skip


@pytest.mark.parametrize("pattern", [r"/theta\.f32$", r"/momentum\.f32$", r"HEAD"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_commit_that_failed_can_be_made_again(tmp_path: Path, pattern: str, code: int) -> None:
    with faulty_disks() as disks:
        store, how = staged(tmp_path / "outer")
        disks.fail(tmp_path, pattern, code)
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(code)):
                store.commit(**how)
        assert store.head.round == 0
        disks.heal()
        store.commit(**how)
        store.commit(**how)  # what failed may have come after it
    again = OuterStore.open(tmp_path / "outer", NUMEL)
    assert (again.head.round, again.compute_digest()) == (1, how["digest"])


def test_what_a_failed_sync_has_dropped_is_noticed(tmp_path: Path) -> None:
    with faulty_disks() as disks:
        store, how = staged(tmp_path / "outer")
        disks.fail(tmp_path, r"/momentum\.f32$", errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            store.commit(**how)
        disks.heal()
        how["staged"].theta[7] = 1.0  # the page as it was on the disk before
        with pytest.raises(DiskLost):
            store.commit(**how)
    assert OuterStore.open(tmp_path / "outer", NUMEL).head.round == 0


# -- sockets -----------------------------------------------------------------------------------------


class Short(socket.socket):
    """A listening socket in a process that has no descriptors left at first."""

    tries = 0

    def accept(self) -> Any:
        self.tries += 1
        if self.tries <= 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_the_api_waits_for_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "ACCEPT_PAUSE_S", 0.001)

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="here")

    async def main() -> tuple[bytes, int]:
        with Short(socket.AF_INET) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            async with asyncio.TaskGroup() as group:
                server = web.Server(answer)
                accepting = group.create_task(answering.accept(listener, server))
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                said = await reader.read()
                writer.close()
                accepting.cancel()
                await server.shutdown()
            return said, listener.tries

    said, tries = asyncio.run(main())
    assert said.endswith(b"here")
    assert 4 <= tries <= 6
