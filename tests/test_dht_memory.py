"""What the network in memory adds: links, faults, and the same course of events every time."""

import asyncio
import contextlib

import pytest
from dht_rig import SPEC, SWARM, Node, Rig, pair, record_of
from virtual_loop import DeadlockError, run_virtual

from talkoot.dht.channel_limits import Visitor
from talkoot.dht.errors import ChannelClosed, RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.memory import Link, MemoryHub
from talkoot.dht.network import Channel

SECOND = 10**6  # bytes that a link of the tests carries in a second


async def two(hub: MemoryHub, tasks: asyncio.TaskGroup, first: Link, second: Link) -> list[Node]:
    nodes = []
    for number, link in enumerate((first, second)):
        identity = Identity.from_seed(bytes([number]) * 32)
        node = Node(hub.node(identity, swarm=SWARM, link=link), identity)
        node.network.serve(SPEC, node.keep)
        started = asyncio.Event()
        node.task = tasks.create_task(node.network.run(started=started.set))
        await started.wait()
        nodes.append(node)
    return nodes


@pytest.mark.parametrize(
    ("sender", "receiver", "expected_s"),
    [
        (Link(latency_s=0.25), Link(latency_s=0.5), 0.75),
        (Link(latency_s=0.1, upload=SECOND), Link(latency_s=0.1), 1.2),
        (Link(latency_s=0.1), Link(latency_s=0.1, download=SECOND / 2), 2.2),
        (Link(latency_s=0.0, upload=SECOND), Link(latency_s=0.0, download=SECOND), 1.0),  # it streams
    ],
)
def test_a_frame_takes_latency_and_bandwidth(sender: Link, receiver: Link, expected_s: float) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            nodes = await two(MemoryHub(), tasks, receiver, sender)
            ours, theirs = await pair(nodes)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await ours.send(b"", bytes(SECOND), timeout_s=10)
            await theirs.receive(timeout_s=10)
            assert loop.time() - began == pytest.approx(expected_s, rel=1e-3)
            for node in nodes:
                await node.stop()

    run_virtual(main())


def test_a_frame_comes_little_by_little() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            nodes = await two(MemoryHub(), tasks, Link(download=SECOND / 2), Link())
            ours, theirs = await pair(nodes)
            await ours.send(b"", bytes(SECOND), timeout_s=10)
            seen = []
            for _ in range(3):
                await asyncio.sleep(0.5)
                seen.append(theirs.bytes_arrived / SECOND)
            assert seen == pytest.approx([0.25, 0.5, 0.75], rel=0.01)
            await theirs.receive(timeout_s=10)
            assert theirs.bytes_arrived == theirs.bytes_received > SECOND
            for node in nodes:
                await node.stop()

    run_virtual(main())


def test_channels_share_the_link_of_a_node() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            nodes = await two(MemoryHub(), tasks, Link(), Link(upload=SECOND))
            pairs = [await pair(nodes) for _ in range(2)]
            began = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as sends:
                for ours, theirs in pairs:
                    sends.create_task(ours.send(b"", bytes(SECOND), timeout_s=10))
                    sends.create_task(theirs.receive(timeout_s=10))
            assert asyncio.get_running_loop().time() - began == pytest.approx(2, rel=0.01)
            for node in nodes:
                await node.stop()

    run_virtual(main())


def test_a_slow_sender_does_not_hold_up_what_others_send_to_the_same_receiver() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            hub = MemoryHub()
            receiver, slow = await two(hub, tasks, Link(), Link(upload=SECOND))
            identity = Identity.from_seed(b"f" * 32)
            fast = Node(hub.node(identity, swarm=SWARM, link=Link()), identity)
            fast.network.serve(SPEC, fast.keep)
            started = asyncio.Event()
            fast.task = tasks.create_task(fast.network.run(started=started.set))
            await started.wait()
            slow_ours, _ = await pair([receiver, slow])
            fast_ours, theirs = await pair([receiver, fast])
            began = asyncio.get_running_loop().time()
            sending = [tasks.create_task(slow_ours.send(b"", bytes(SECOND), timeout_s=10)) for _ in range(2)]
            await asyncio.sleep(0)
            await fast_ours.send(b"", b"small", timeout_s=10)
            await theirs.receive(timeout_s=10)
            assert asyncio.get_running_loop().time() - began < 0.1
            for task in sending:
                task.cancel()
            for node in (receiver, slow, fast):
                await node.stop()

    run_virtual(main())


def test_partition_and_crash() -> None:
    rig = Rig("memory")

    async def main() -> None:
        async with rig.swarm(3) as nodes:
            assert rig.hub is not None
            for node in nodes:
                await node.network.directory.publish(record_of(node.network), ttl_s=60)
            ours, theirs = await pair(nodes)
            rig.hub.partition([nodes[0].key, nodes[2].key])
            for channel in (ours, theirs):
                with pytest.raises(ChannelClosed, match="lost"):
                    await channel.receive(timeout_s=1)
            with pytest.raises(RemoteError, match="unreachable"):
                await nodes[1].network.dial(nodes[0].key, SPEC, timeout_s=1)
            assert set(await nodes[1].network.directory.peers()) == {nodes[1].key}
            assert set(await nodes[2].network.directory.peers()) == {nodes[0].key, nodes[2].key}
            rig.hub.heal()
            await pair(nodes)
            rig.hub.crash(nodes[0].key)
            with pytest.raises(RemoteError, match="unreachable"):
                await nodes[1].network.dial(nodes[0].key, SPEC, timeout_s=1)
            assert len(await nodes[1].network.directory.peers()) == 3  # records outlive their owner

    rig.run(main())


def breaking_course(seed: int) -> list[int]:
    """How many frames went through each of ten channels that break."""
    counts: list[int] = []

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            nodes = await two(MemoryHub(seed=seed), tasks, Link(), Link(breaks=0.1))
            for _ in range(10):
                ours, theirs = await pair(nodes)
                with contextlib.suppress(ChannelClosed):
                    await send_and_receive(ours, theirs)
                counts.append(theirs.bytes_received // 13)
                await ours.close()
                await theirs.close()
                nodes[0].network._limits.leave(Visitor(nodes[1].key), SPEC)  # type: ignore[attr-defined]
            for node in nodes:
                await node.stop()

    run_virtual(main())
    return counts


async def send_and_receive(ours: Channel, theirs: Channel) -> None:
    while True:
        await ours.send(b"", timeout_s=1)
        await theirs.receive(timeout_s=1)


def test_breaks_repeat_with_the_seed() -> None:
    first = breaking_course(1)
    assert first == breaking_course(1) != breaking_course(2)
    assert 2 < sum(first) / len(first) < 30


def test_the_virtual_clock_tells_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError):
        run_virtual(main())
