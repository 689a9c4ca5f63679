"""What every network must do; the one in memory and the one on p2pd pass the same tests."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from dht_rig import SPEC, Node, Rig, cut, pair, record_of

from talkoot.dht.errors import ChannelClosed, RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.network import Channel

KINDS = [
    "memory",
    pytest.param("p2pd", marks=pytest.mark.processes),
    pytest.param("uvloop", marks=pytest.mark.processes),
]


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


@pytest.fixture(params=KINDS[:2])
def rig_once(request: pytest.FixtureRequest) -> Rig:
    """For tests in which the event loop makes no difference."""
    return Rig(request.param)


def test_frames_of_all_sizes_arrive_in_order_and_are_counted(rig: Rig) -> None:
    sizes = [0, 1, 100, 4096, 4097, 16_384, 264 * 1024, 2**20, 3]

    async def main() -> None:
        async with rig.swarm(2) as nodes:
            ours, theirs = await pair(nodes)
            assert (ours.peer, theirs.peer) == (nodes[0].key, nodes[1].key)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(echo(theirs, len(sizes)))
                for number, size in enumerate(sizes):
                    payload = bytes([number]) * size
                    await ours.send(b"h%d" % number, memoryview(payload), timeout_s=10)
                    frame = await ours.receive(timeout_s=10)
                    assert (frame.header, bytes(frame.payload)) == (b"h%d" % number, payload)
            total = sum(sizes) + len(sizes) * (13 + 2)
            assert ours.bytes_sent == ours.bytes_received == total
            assert nodes[0].network.traffic.sent[SPEC.name] == total
            assert nodes[0].network.traffic.bytes_received == nodes[1].network.traffic.bytes_sent == total

    rig.run(main())


async def echo(channel: Channel, count: int) -> None:
    for _ in range(count):
        frame = await channel.receive(timeout_s=10)
        await channel.send(frame.header, frame.payload, timeout_s=10)


def test_an_orderly_end_is_told_from_a_cut(rig: Rig) -> None:
    async def main() -> None:
        async with rig.swarm(2) as nodes:
            ours, theirs = await pair(nodes)
            await ours.send(b"last", b"x" * 200_000, timeout_s=10)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ours.close())
                assert (await theirs.receive(timeout_s=10)).header == b"last"
                assert await reason_of(theirs) == "ended"
            assert await reason_of(theirs) == "ended"
            with pytest.raises(ChannelClosed, match="ended"):
                await theirs.send(b"", timeout_s=10)
            ours, theirs = await pair(nodes)
            cut(rig, nodes, ours)
            assert await reason_of(theirs) == "lost"
            assert await reason_of(ours) == "lost"

    rig.run(main())


async def reason_of(channel: Channel) -> str:
    with pytest.raises(RemoteError) as caught:
        await channel.receive(timeout_s=10)
    assert caught.value.peer == channel.peer
    return caught.value.reason


def test_close_is_idempotent_and_ends_our_own_use(rig_once: Rig) -> None:
    async def main() -> None:
        async with rig_once.swarm(2) as nodes:
            ours, theirs = await pair(nodes)
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(reason_of(ours))
                for _ in range(3):
                    await ours.close()
            assert waiting.result() == "closed"
            with pytest.raises(ChannelClosed, match="closed"):
                await ours.send(b"", timeout_s=1)
            assert await reason_of(theirs) == "ended"
            await theirs.close()
            await theirs.close()

    rig_once.run(main())


def test_larger_declarations_are_refused_by_the_receiver(rig_once: Rig) -> None:
    too_long = [(b"", b"x" * (SPEC.max_payload + 1)), (b"h" * (SPEC.max_header + 1), b"")]

    async def main() -> None:
        async with rig_once.swarm(2) as nodes:
            for header, payload in too_long:
                generous = replace(SPEC, max_header=10**6, max_payload=2**22)
                ours, theirs = await pair(nodes, generous)
                with contextlib.suppress(ChannelClosed):  # it may be cut while sending
                    await ours.send(header, payload, timeout_s=10)
                assert await reason_of(ours) == "lost"
                assert await reason_of(theirs) == "oversized"
                with pytest.raises(ValueError, match="above the limits"):
                    await theirs.send(header, payload, timeout_s=10)
                await ours.close()
                await theirs.close()

    rig_once.run(main())


def test_channels_of_one_peer_are_limited(rig_once: Rig) -> None:
    async def main() -> None:
        async with rig_once.swarm(2) as nodes:
            kept = [await pair(nodes) for _ in range(SPEC.max_channels_per_peer)]
            refused = await nodes[1].network.dial(nodes[0].key, SPEC, timeout_s=10)
            assert await reason_of(refused) == "busy"
            assert nodes[0].network.events.rejected["busy"] == 1
            await refused.close()
            for ours, _ in kept:
                await ours.send(b"still here", timeout_s=10)

    rig_once.run(main())


def test_a_finished_handler_makes_room(rig_once: Rig) -> None:
    async def main() -> None:
        async def once(channel: Channel) -> None:
            await channel.send((await channel.receive(timeout_s=10)).header, timeout_s=10)

        async with rig_once.swarm(2, lambda node: node.network.serve(SPEC, once)) as nodes:
            for number in range(3 * SPEC.max_channels_per_peer):
                channel = await nodes[1].network.dial(nodes[0].key, SPEC, timeout_s=10)
                await channel.send(b"%d" % number, timeout_s=10)
                assert (await channel.receive(timeout_s=10)).header == b"%d" % number
                assert await reason_of(channel) == "ended"
                await channel.close()

    rig_once.run(main())


def test_sending_to_a_peer_that_does_not_read_times_out(rig: Rig) -> None:
    async def main() -> None:
        async with rig.swarm(2) as nodes:
            ours, _ = await pair(nodes)
            with pytest.raises(TimeoutError):
                await send_for_ever(ours)
            assert ours.bytes_sent < 64 * 2**20  # what lies in buffers is bounded
            await ours.close()

    rig.run(main())


async def send_for_ever(channel: Channel) -> None:
    while True:
        await channel.send(b"", bytes(SPEC.max_payload), timeout_s=0.3)


def test_a_slow_reader_slows_the_sender_and_loses_nothing(rig_once: Rig) -> None:
    count = 48

    async def main() -> None:
        async with rig_once.swarm(2) as nodes:
            ours, theirs = await pair(nodes)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send_numbers(ours, count))
                for number in range(count):
                    if number % 16 == 0:
                        await asyncio.sleep(0.05)  # the slowness is the point
                    frame = await theirs.receive(timeout_s=10)
                    assert (frame.header, len(frame.payload)) == (b"%d" % number, SPEC.max_payload)
            assert await reason_of(theirs) == "ended"

    rig_once.run(main())


async def send_numbers(channel: Channel, count: int) -> None:
    for number in range(count):
        await channel.send(b"%d" % number, bytes(SPEC.max_payload), timeout_s=10)
    await channel.close()


def test_a_receive_that_timed_out_loses_nothing(rig_once: Rig) -> None:
    async def main() -> None:
        async with rig_once.swarm(2) as nodes:
            ours, theirs = await pair(nodes)
            with pytest.raises(TimeoutError):
                await theirs.receive(timeout_s=0.05)
            await ours.send(b"late", timeout_s=10)
            assert (await theirs.receive(timeout_s=10)).header == b"late"

    rig_once.run(main())


def test_dialling_what_is_not_there(rig_once: Rig) -> None:
    async def main() -> None:
        async with rig_once.swarm(2) as nodes:
            network = nodes[1].network
            with pytest.raises(ValueError, match="itself"):
                await network.dial(network.key, SPEC, timeout_s=10)
            with pytest.raises(RemoteError) as caught:
                await network.dial(nodes[0].key, replace(SPEC, name="test/other/1"), timeout_s=10)
            assert caught.value.reason == "unsupported"
            with pytest.raises(RemoteError) as caught:
                await network.dial(Identity.from_seed(b"?" * 32).key, SPEC, timeout_s=10)
            assert caught.value.reason == "unreachable"
            assert network.events.dials == 2
            assert dict(network.events.dial_failures) == {"unsupported": 1, "unreachable": 1}

    rig_once.run(main())


def test_a_failing_peer_is_counted_and_ends_one_channel_only(rig_once: Rig) -> None:
    async def main() -> None:
        async def strict(channel: Channel) -> None:
            frame = await channel.receive(timeout_s=0.2)
            raise RemoteError(channel.peer, "refused", frame.header.decode())

        async with rig_once.swarm(2, lambda node: node.network.serve(SPEC, strict)) as nodes:
            for message in (b"nonsense", None):
                channel = await nodes[1].network.dial(nodes[0].key, SPEC, timeout_s=10)
                if message is not None:
                    await channel.send(message, timeout_s=10)
                assert await reason_of(channel) == "ended"
                await channel.close()
            assert dict(nodes[0].network.events.rejected) == {"refused": 1, "timeout": 1}

    rig_once.run(main())


def test_any_other_failure_of_a_handler_ends_the_network(rig_once: Rig) -> None:
    async def main() -> None:
        async def broken(channel: Channel) -> None:
            raise ZeroDivisionError

        async with rig_once.swarm(1) as others:
            network = rig_once.make(Identity.from_seed(b"b" * 32))
            network.serve(SPEC, broken)
            node = Node(network, Identity.from_seed(b"b" * 32))
            started = asyncio.Event()
            with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(node.network.run(started=started.set))
                    await started.wait()
                    await others[0].network.add_addresses(node.key, network.addresses)
                    await others[0].network.dial(node.key, SPEC, timeout_s=10)
                    await asyncio.Event().wait()

    rig_once.run(main())


def test_the_directory_shows_everybody(rig_once: Rig) -> None:
    async def main() -> None:
        async with rig_once.swarm(3) as nodes:
            records = {node.key: record_of(node.network) for node in nodes}
            for node in nodes:
                await node.network.directory.publish(records[node.key], ttl_s=60)
            for node in nodes:
                while len(found := await node.network.directory.peers()) < 3:
                    pass
                assert found == records
            newer = record_of(nodes[2].network, round=8)
            await nodes[2].network.directory.publish(newer, ttl_s=30)  # sooner to end, and yet newer
            while (await nodes[0].network.directory.peers())[nodes[2].key] != newer:
                pass
            with pytest.raises(ValueError, match="another swarm"):
                await nodes[0].network.directory.publish(record_of(nodes[0].network, bytes(32)), ttl_s=60)
            with pytest.raises(ValueError, match="by the key"):
                await nodes[0].network.directory.publish(records[nodes[1].key], ttl_s=60)

    rig_once.run(main())


def test_records_expire(rig_once: Rig) -> None:
    async def main() -> None:
        async with rig_once.swarm(2) as nodes:
            await nodes[0].network.directory.publish(record_of(nodes[0].network), ttl_s=0.5)
            while nodes[0].key not in await nodes[1].network.directory.peers():
                pass
            while nodes[0].key in await nodes[1].network.directory.peers():
                pass
            assert await nodes[0].network.directory.peers() == {}

    rig_once.run(main())


def test_peers_find_each_other_through_the_directory(rig_once: Rig) -> None:
    async def main() -> None:
        async with rig_once.swarm(3) as nodes:
            for node in nodes:
                await node.network.directory.publish(record_of(node.network), ttl_s=60)
            while nodes[1].key not in await nodes[2].network.directory.peers():
                pass
            await nodes[2].network.dial(nodes[1].key, SPEC, timeout_s=10)
            assert (await nodes[1].accepted.get()).peer == nodes[2].key

    rig_once.run(main())


def test_a_banned_peer_is_shut_out_and_its_records_are_not_shown(rig_once: Rig) -> None:
    async def main() -> None:
        async with rig_once.swarm(2) as nodes:
            here, there = (node.network for node in nodes)
            for node in nodes:
                await node.network.directory.publish(record_of(node.network), ttl_s=60)
            while len(await here.directory.peers()) < 2:
                pass
            ours, theirs = await pair(nodes)
            here.ban(frozenset({there.key}))
            assert await reason_of(ours) == "lost"
            assert await reason_of(theirs) == "lost"
            with pytest.raises(RemoteError) as caught:
                await here.dial(there.key, SPEC, timeout_s=10)
            assert caught.value.reason == "banned"
            with pytest.raises(RemoteError):
                await (await there.dial(here.key, SPEC, timeout_s=10)).receive(timeout_s=10)
            assert set(await here.directory.peers()) == {here.key}
            assert len(await there.directory.peers()) == 2
            here.ban(frozenset())
            ours, theirs = await pair(nodes)
            await ours.send(b"again", timeout_s=10)
            assert (await theirs.receive(timeout_s=10)).header == b"again"
            assert len(await here.directory.peers()) == 2

    rig_once.run(main())
