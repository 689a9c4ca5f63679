"""Simulated computers: clocks of their own, freezes, power cuts, full disks, stand-in signatures."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from pathlib import Path
from random import Random

import pytest

from talkoot.dht.identity import verify
from talkoot.peer.files import atomic_write
from talkoot.peer.simulation.disks import PowerCutError, simulated_disks
from talkoot.peer.simulation.hosts import Host, here
from talkoot.peer.simulation.signatures import SimIdentity, stand_in_signatures
from talkoot.peer.simulation.virtual_time import run_virtual, virtual_loop


def host(**settings: float) -> Host:
    return Host(Random(0), **settings)  # type: ignore[arg-type]


async def on(one: Host, work: Callable[[], Awaitable[None]]) -> None:
    context = copy_context()
    context.run(here.set, one)

    async def task() -> None:
        await work()

    async with asyncio.TaskGroup() as group:
        group.create_task(task(), context=context)


def test_a_fast_clock_is_early_on_the_others() -> None:
    fast = host(offset=100.0, rate=2.0)

    async def sleep() -> None:
        loop = asyncio.get_running_loop()
        assert loop.time() == pytest.approx(100.0)
        await asyncio.sleep(3.0)
        assert loop.time() == pytest.approx(103.0)

    async def main() -> float:
        await on(fast, sleep)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(1.5)


def test_what_was_due_during_a_freeze_happens_at_its_end() -> None:
    one, rang = host(), []

    async def main() -> None:
        loop = virtual_loop()

        async def ring() -> None:
            await asyncio.sleep(1.0)
            rang.append(loop.now)

        async def script() -> None:
            await asyncio.sleep(0.5)
            loop.freeze(one)
            await asyncio.sleep(4.5)
            loop.thaw(one)

        async with asyncio.TaskGroup() as group:
            group.create_task(script())
            await on(one, ring)

    run_virtual(main())
    assert rang == [5.0]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_power_cut_leaves_the_old_file_or_the_new_one(tmp_path: Path, step: int) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old" * 100)
    one = host()
    one.fuse = step  # before the content is synced, before the rename, before the directory is synced
    token = here.set(one)
    try:
        with simulated_disks(), pytest.raises(PowerCutError):
            atomic_write(path, b"new" * 100)
    finally:
        here.reset(token)
    assert path.read_bytes() == (b"new" if step == 3 else b"old") * 100
    left = tmp_path / ".file.tmp"
    assert left.exists() == (step < 3)
    assert step != 1 or left.stat().st_size < 300  # torn


def test_a_full_disk_refuses_and_the_real_calls_come_back(tmp_path: Path) -> None:
    one, fsync = host(), os.fsync
    one.full = True
    token = here.set(one)
    try:
        with simulated_disks(), pytest.raises(OSError, match="No space"):
            atomic_write(tmp_path / "file", b"new")
    finally:
        here.reset(token)
    assert os.fsync is fsync
    assert not (tmp_path / "file").exists()


def test_stand_ins_tell_another_message_and_another_signer() -> None:
    said: list[bytes] = []
    one, other = (
        SimIdentity(bytes([number]) * 32, lambda _key, message: said.append(message), real=False)
        for number in (1, 2)
    )
    signature = one.sign(b"message")
    with stand_in_signatures():
        assert verify(one.key, b"message", signature)
        assert not verify(one.key, b"another", signature)
        assert not verify(other.key, b"message", signature)
    assert not verify(one.key, b"message", signature)
    assert said == [b"message"]
