"""Limits of all that a node sends and receives: the bucket, and both kinds of network that obey it."""

import asyncio
import contextlib

import pytest
from dht_rig import Node, Rig, pair

from talkoot.dht.allowance import BURST_S, LOWEST_RATE, PREPAID_S, URGENT_DEBT_S, Allowance
from talkoot.dht.errors import RemoteError
from talkoot.dht.network import Channel, ProtocolSpec

BULK = ProtocolSpec(name="test/bulk/1", max_header=1024, max_payload=2**20)
CONTROL = ProtocolSpec(name="test/control/1", max_header=1024, max_payload=0, urgent=True)
RATE = 2e6
FRAMES = 4


def limited(rate: float = 1000.0) -> Allowance:
    allowance = Allowance()
    allowance.limit(rate, 0.0)
    return allowance


# -- the bucket ----------------------------------------------------------------------------------------


def test_without_a_limit_nobody_waits() -> None:
    allowance = Allowance()
    assert allowance.pay(10**9, 0.0) == 0.0
    allowance.measured(10**9, 0.0)
    assert not allowance.limited


def test_who_pays_first_passes_first_and_all_keep_to_the_rate() -> None:
    allowance = limited()
    waits = [allowance.pay(500, 0.0) for _ in range(4)]
    assert waits == [0.5 * number + 0.5 - BURST_S for number in range(4)]
    assert allowance.pay(0, 10.0) == 0.0
    assert allowance.pay(1000, 10.0) == 1.0 - BURST_S, "no more than the burst is saved up"


def test_what_only_the_network_shows_is_paid_for_by_whoever_comes_next() -> None:
    allowance = limited()
    assert allowance.pay(500, 0.0) == 0.0
    allowance.measured(800, 0.0)  # 300 of them nobody paid for
    assert allowance.pay(0, 0.0) == pytest.approx(0.3)


def test_what_was_paid_for_is_not_charged_again_when_it_is_seen_later() -> None:
    allowance = limited()
    allowance.pay(500, 0.0)
    for second in range(1, 5):
        allowance.measured(100, float(second))
    assert allowance.pay(500, 5.0) == 0.0


def test_prepaid_bytes_that_never_show_up_are_forgotten() -> None:
    allowance = limited()
    for second in range(100):
        allowance.pay(1000, float(second))
    allowance.measured(int(1000 * PREPAID_S) + 2000, 200.0)
    assert allowance.pay(0, 200.0) == pytest.approx(2.0 - BURST_S)


def test_what_is_urgent_passes_until_the_debt_is_large() -> None:
    allowance = limited()
    assert allowance.pay(2000, 0.0) > 0
    assert allowance.pay(100, 0.0, urgent=True) == 0.0
    allowance.pay(int(1000 * URGENT_DEBT_S), 0.0)
    assert allowance.pay(100, 0.0, urgent=True) > 0


def test_another_limit_forgives_no_debt_and_none_ends_it() -> None:
    allowance = limited()
    allowance.pay(5500, 0.0)
    allowance.limit(2000, 0.0)
    assert allowance.pay(0, 0.0) == 2.5
    allowance.limit(0, 0.0)
    assert allowance.pay(5000, 0.0) == 0.0


# -- networks ------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", pytest.param("p2pd", marks=pytest.mark.processes)])
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


def both(node: Node) -> None:
    node.network.serve(BULK, node.keep)
    node.network.serve(CONTROL, node.keep)


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_bulk_keeps_to_the_limit_and_control_overtakes_it(rig: Rig, direction: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with rig.swarm(2, both) as nodes:
            limit = (RATE, 0.0) if direction == "upload" else (0.0, RATE)
            nodes[1 if direction == "upload" else 0].network.pacing.limit(*limit)
            bulk, taken = await pair(nodes, BULK)
            control, heard = await pair(nodes, CONTROL)
            began = loop.time()
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(send_all(bulk))
                receiving = tasks.create_task(receive_all(taken))
                await control.send(b"vote", timeout_s=10)
                assert (await heard.receive(timeout_s=10)).header == b"vote"
                assert not receiving.done()
                await sending
            least_s = FRAMES * BULK.max_payload / RATE - BURST_S
            assert loop.time() - began >= 0.9 * least_s

    rig.run(main())


async def send_all(channel: Channel) -> None:
    for number in range(FRAMES):
        await channel.send(b"%d" % number, bytes([number]) * BULK.max_payload, timeout_s=20)


async def receive_all(channel: Channel) -> None:
    for number in range(FRAMES):
        frame = await channel.receive(timeout_s=30)
        assert frame.header == b"%d" % number
        assert bytes(frame.payload) == bytes([number]) * BULK.max_payload


@pytest.mark.processes
def test_what_has_come_of_a_slow_frame_is_told() -> None:
    rig = Rig("p2pd")

    async def main() -> None:
        async with rig.swarm(2, both) as nodes:
            nodes[1].network.pacing.limit(4 * LOWEST_RATE, 0.0)
            bulk, taken = await pair(nodes, BULK)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(bulk.send(b"", bytes(BULK.max_payload), timeout_s=20))
                seen = {0}
                receiving = tasks.create_task(taken.receive(timeout_s=20))
                while not receiving.done():
                    seen.add(taken.bytes_arrived)
                    await asyncio.sleep(0.01)
            whole = taken.bytes_received
            assert taken.bytes_arrived == whole > BULK.max_payload
            assert len(seen - {0, whole}) > 3

    rig.run(main())


def test_a_channel_that_is_closed_while_a_frame_waits_says_so(rig: Rig) -> None:
    async def main() -> None:
        async with rig.swarm(2, both) as nodes:
            nodes[1].network.pacing.limit(LOWEST_RATE, 0.0)
            bulk, taken = await pair(nodes, BULK)
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(fails(bulk))
                while nodes[1].network.pacing.waited_s == 0:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0)
                await taken.close()
            assert sending.result() in ("ended", "lost")

    rig.run(main())


async def fails(channel: Channel) -> str:
    try:
        await send_all(channel)
    except RemoteError as error:
        return error.reason
    return "sent"


def test_a_network_that_rests_is_gone_and_comes_back(rig: Rig) -> None:
    async def main() -> None:
        async with rig.swarm(2, both) as nodes:
            ours, _theirs = await pair(nodes, BULK)
            nodes[1].network.rest(True)
            with pytest.raises(RemoteError):
                await ours.receive(timeout_s=10)
            with pytest.raises(RemoteError, match="unreachable"):
                await nodes[1].network.dial(nodes[0].key, BULK, timeout_s=10)
            nodes[1].network.rest(False)
            await dialled(nodes)
            assert nodes[1].network.events.restarts["p2pd"] == 0

    rig.run(main())


async def dialled(nodes: list[Node]) -> None:
    """Within the rig's time."""
    while True:
        with contextlib.suppress(RemoteError, TimeoutError):
            await nodes[1].network.dial(nodes[0].key, BULK, timeout_s=10)
            return
        await asyncio.sleep(0.1)


def test_what_was_carried_is_counted_with_all_that_goes_with_it(rig: Rig) -> None:
    async def main() -> None:
        async with rig.swarm(2, both) as nodes:
            nodes[1].network.pacing.limit(1e9, 0.0)  # so that it is looked at often
            bulk, taken = await pair(nodes, BULK)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send_all(bulk))
                await receive_all(taken)
            sent = nodes[1].network.pacing
            while sent.carried.sent < FRAMES * BULK.max_payload:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.1)
            assert sent.carried.sent < 1.2 * FRAMES * BULK.max_payload

    rig.run(main())
