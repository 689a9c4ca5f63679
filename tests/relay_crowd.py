"""Many clients of one relay in one process, without hivemind: `python relay_crowd.py RELAY TASK COUNT`.

TASK `connections`: COUNT connections, each with a reservation, one after the other (8 at once); prints a
line for every tenth of them. The others make COUNT circuits, print a line, and keep them until the
standard input ends. `idle`: nothing is sent. `paced`: 100 kB/s each way on every circuit, for ten seconds.
`burst`: a MiB each way on all at once, as fast as it goes. `stalled`: receivers take nothing, and senders
send until nothing moves.
"""

import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio
from relay_rig import circuit, link_of, passed

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import key_of_peer_id, multihash_of
from talkoot.dht.relay.link import Stream

AT_ONCE = 8
CIRCUITS_PER_TARGET = 10


async def connections(address: str, count: int) -> None:
    left = count

    async def again() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if left % (count // 10) == 0:
                print(count - left, flush=True)
            async with link_of(address) as client:
                assert await client.reserve() == 100

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(again)


async def circuits(address: str, count: int, send: Callable[[Stream, Stream], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        ends: list[tuple[Stream, Stream]] = []
        for _ in range(count // CIRCUITS_PER_TARGET):
            target = await nursery.start(_client, address)
            assert await target.reserve() == 100
            callers = [await nursery.start(_client, address) for _ in range(CIRCUITS_PER_TARGET)]
            ends += [await circuit(caller, target) for caller in callers]
        async with trio.open_nursery() as both:
            for near, far in ends:
                both.start_soon(send, near, far)
                both.start_soon(send, far, near)
        print(len(ends), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def idle(near: Stream, far: Stream) -> None:
    """Nothing."""


async def paced(near: Stream, far: Stream) -> None:
    """100 kB a second."""
    began = trio.current_time()
    for turn in range(20):
        await trio.sleep_until(began + turn / 2)
        await passed(near, far, 50_000)


async def burst(near: Stream, far: Stream) -> None:
    """A MiB."""
    await passed(near, far, 2**20)


async def stalled(near: Stream, far: Stream) -> None:
    """Until all windows are full."""
    with suppress(RemoteError):
        while True:
            with trio.move_on_after(2.0) as scope:
                await near.send(bytes(64 * 1024))
            if scope.cancelled_caught:
                return


async def _client(address: str, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    async with link_of(address) as client:
        task_status.started(client)
        await trio.sleep_forever()


SENDERS = {"idle": idle, "paced": paced, "burst": burst, "stalled": stalled}


async def main(address: str, task: str, count: int) -> None:
    assert multihash_of(key_of_peer_id(address.rpartition("/")[2]))
    if task == "connections":
        await connections(address, count)
    else:
        await circuits(
            address, count, {"idle": idle, "paced": paced, "burst": burst, "stalled": stalled}[task]
        )


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
