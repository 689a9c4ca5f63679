"""Connections that p2pd hands over are either served or closed, whenever one is cancelled."""

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from talkoot.dht.accepting import listening, next_connection, serve_in
from talkoot.dht.p2pd import P2pdError


def connected(path: Path) -> socket.socket:
    """A client's end."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(path))
    client.sendall(b"x")
    return client


@pytest.mark.parametrize("spins", range(6))
def test_who_is_cancelled_takes_no_connection_along(tmp_path: Path, spins: int) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with asyncio.TaskGroup() as tasks:
            with listening(path) as listener:
                task = tasks.create_task(next_connection(listener))
                await asyncio.sleep(0)
                with connected(path):
                    for _ in range(spins):
                        await asyncio.sleep(0)
                    if not task.done():
                        task.cancel()
                        await asyncio.wait({task})
                        assert task.cancelled()
                        task = tasks.create_task(next_connection(listener))
                    with await task as connection:
                        assert connection.recv(1) == b"x"

    asyncio.run(main())


def test_one_after_another(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        with listening(path) as listener, connected(path), connected(path):
            with await next_connection(listener) as first, await next_connection(listener) as second:
                assert first.fileno() != second.fileno()
                assert not first.getblocking()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await next_connection(listener)

    asyncio.run(main())


def test_a_socket_that_does_not_listen(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.setblocking(False)
            with pytest.raises(P2pdError, match="streams cannot be accepted"):
                await next_connection(listener)

    asyncio.run(main())


async def _forever(_: socket.socket, stack: ExitStack) -> None:
    with stack:
        await asyncio.Event().wait()


async def _keep(_: socket.socket, stack: ExitStack) -> None:
    stack.pop_all()


@pytest.mark.parametrize("spins", [0, 1, 2])
def test_whoever_is_cancelled_closes_its_connection(spins: int) -> None:
    """Also a task that was cancelled before its first step, which runs none of its code."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            async with asyncio.TaskGroup() as tasks:
                task = serve_in(tasks, ours, _forever)
                for _ in range(spins):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.sleep(0)
            assert ours.fileno() == -1
            assert theirs.recv(1) == b""

    asyncio.run(main())


def test_what_was_taken_off_the_stack_stays_open() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with asyncio.TaskGroup() as tasks:
                serve_in(tasks, ours, _keep)
            await asyncio.sleep(0)
            ours.sendall(b"x")
            assert theirs.recv(1) == b"x"

    asyncio.run(main())
