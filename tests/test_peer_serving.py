"""Who is served when: in turn, a few at a time, as fast as the rounds allow."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from talkoot.peer.serving import LOOK_S, LOWEST_RATE, MAX_AT_ONCE, MAX_WAITING, Gate, serve_rate
from talkoot.peer.simulation.virtual_time import run_virtual


def keys(count: int) -> list[bytes]:
    return [bytes([number]) * 32 for number in range(count)]


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3600):
            await main()

    run_virtual(bounded())


def test_peers_take_turns_however_much_each_of_them_asks_for() -> None:
    gate, order = Gate(), list[bytes]()
    peers = keys(MAX_AT_ONCE + 3)

    async def ask(peer: bytes) -> None:
        async with gate.turn(peer) as admitted:
            assert admitted
            order.append(peer)
            await asyncio.sleep(1)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for peer in peers:
                for _ in range(9 if peer == peers[0] else 3):
                    group.create_task(ask(peer))
        assert [order.count(peer) for peer in peers] == [9] + [3] * (len(peers) - 1)
        assert set(order[: len(peers)]) == set(peers)  # each once before anybody twice
        assert gate.waiting == 0

    run(main)


def test_one_peer_has_one_turn_at_a_time() -> None:
    gate, running = Gate(), 0

    async def ask() -> None:
        nonlocal running
        async with gate.turn(b"a"):
            running += 1
            assert running == 1
            await asyncio.sleep(1)
            running -= 1

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(ask())
        assert asyncio.get_running_loop().time() == pytest.approx(5)

    run(main)


def test_what_waits_is_bounded_and_counted() -> None:
    gate = Gate()
    refused = 0

    async def ask(peer: bytes) -> None:
        nonlocal refused
        async with gate.turn(peer) as admitted:
            refused += not admitted
            await asyncio.sleep(1 if admitted else 0)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(MAX_AT_ONCE + MAX_WAITING + 5):
                group.create_task(ask(bytes([number])))
        assert refused == 5
        assert gate.refused == {"busy": 5}

    run(main)


def test_a_requester_that_goes_away_gives_its_turn_to_the_next() -> None:
    gate = Gate()

    async def ask() -> None:
        async with gate.turn(b"a"):
            await asyncio.sleep(10)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask()) for _ in range(6)]
            await asyncio.sleep(1)
            for task in tasks[:5]:
                task.cancel()
            await asyncio.sleep(1)
            assert gate.waiting == 0
        assert asyncio.get_running_loop().time() == pytest.approx(11, abs=0.5)
        async with gate.turn(b"b") as admitted:
            assert admitted

    run(main)


def test_bytes_leave_no_faster_than_they_may() -> None:
    gate = Gate(lambda: 1000.0)

    async def main() -> None:
        for _ in range(11):
            await gate.pace(500)
        assert asyncio.get_running_loop().time() == pytest.approx(5)
        assert gate.sent_bytes == 5500

    run(main)


def test_what_waits_goes_on_as_soon_as_the_rate_rises() -> None:
    rate = 10.0
    gate = Gate(lambda: rate)

    async def main() -> None:
        nonlocal rate
        await gate.pace(1000)
        async with asyncio.TaskGroup() as group:
            group.create_task(gate.pace(1000))
            group.create_task(gate.pace(1000))
            await asyncio.sleep(20)
            rate = 1000.0
        assert asyncio.get_running_loop().time() == pytest.approx(20 + 1.8, abs=LOOK_S)
        assert gate.waited_s == pytest.approx(2 * 20 + 0.8 + 1.8, abs=2 * LOOK_S)

    run(main)


def test_a_rate_without_end_lets_everything_through_at_once() -> None:
    gate = Gate()

    async def main() -> None:
        for _ in range(100):
            await gate.pace(1 << 20)
        assert asyncio.get_running_loop().time() == 0
        assert gate.waited_s == 0

    run(main)


@pytest.mark.parametrize(
    ("limit", "uplink", "exchanging", "rate"),
    [
        (0, 0, False, math.inf),
        (5e6, 0, False, 5e6),
        (5e6, 8e6, True, 2e6),
        (1e6, 8e6, True, 1e6),
        (0, 8e6, True, 2e6),
        (0, 0, True, LOWEST_RATE),
        (1000, 0, True, 1000),
    ],
)
def test_rounds_come_first(limit: float, uplink: float, exchanging: bool, rate: float) -> None:
    assert serve_rate(limit, uplink, exchanging=exchanging) == rate
