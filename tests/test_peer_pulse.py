"""Who is there: pings, farewells and silence, on a virtual clock."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from talkoot.averaging.messages import Leave, Message, Ping, Pong
from talkoot.peer import clock
from talkoot.peer.pulse import PING_S, SILENT_S, Pulse
from talkoot.peer.simulation.virtual_time import run_virtual

ONE, TWO = b"1" * 32, b"2" * 32


class World:
    """A pulse whose pings are answered by whoever `answers`, after a while."""

    def __init__(self) -> None:
        self.answers: dict[bytes, float] = {ONE: 0.1, TWO: 0.3}
        self.sent: list[tuple[bytes, Message]] = []
        self.changes = 0
        self.opened_anew: list[bytes] = []
        self.pulse = Pulse(self._send, self._changed, self.opened_anew.append)
        self.pulse.follow(frozenset({ONE, TWO}))

    def _changed(self) -> None:
        self.changes += 1

    def _send(self, peer: bytes, message: Message) -> None:
        self.sent.append((peer, message))
        if isinstance(message, Ping) and peer in self.answers:
            pong = Pong(round=0, attempt=0, nonce=message.nonce)
            asyncio.get_running_loop().call_later(self.answers[peer], self._answer, peer, pong)

    def _answer(self, peer: bytes, pong: Pong) -> None:
        self.pulse.heard(peer)
        self.pulse.receive(peer, pong)


def run(main: Callable[[World], Awaitable[None]]) -> None:
    async def bounded() -> None:
        world = World()
        async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
            task = group.create_task(world.pulse.run())
            await main(world)
            task.cancel()

    run_virtual(bounded())


def test_round_trips_are_measured_and_the_slowest_counts() -> None:
    async def main(world: World) -> None:
        assert world.pulse.round_trip_s() == 0.0
        await asyncio.sleep(1)
        assert abs(world.pulse.round_trip_s() - 0.3) < 1e-6
        world.pulse.follow(frozenset({ONE}))
        assert abs(world.pulse.round_trip_s() - 0.1) < 1e-6

    run(main)


def test_a_ping_is_answered_whoever_asks() -> None:
    async def main(world: World) -> None:
        world.pulse.receive(b"3" * 32, Ping(round=0, attempt=0, nonce=9))
        assert world.sent[-1] == (b"3" * 32, Pong(round=0, attempt=0, nonce=9))

    run(main)


def test_a_silent_peer_is_absent_until_it_is_heard() -> None:
    async def main(world: World) -> None:
        await asyncio.sleep(1)
        del world.answers[TWO]
        await asyncio.sleep(PING_S + SILENT_S)
        assert not world.pulse.absent(TWO)
        await asyncio.sleep(PING_S)
        assert world.pulse.absent(TWO)
        assert not world.pulse.absent(ONE)
        assert world.changes == 1
        assert world.opened_anew == [TWO]
        world.pulse.follow(frozenset({ONE}))
        world.pulse.follow(frozenset({ONE, TWO}))
        assert world.pulse.absent(TWO)  # that its host takes a connection says nothing
        assert abs(world.pulse.round_trip_s() - 0.1) < 1e-6
        world.pulse.heard(TWO)
        assert not world.pulse.absent(TWO)
        assert world.changes == 2

    run(main)


def test_who_speaks_is_not_silent_even_if_it_answers_no_ping() -> None:
    async def main(world: World) -> None:
        del world.answers[TWO]
        for _ in range(30):
            await asyncio.sleep(SILENT_S / 5)
            world.pulse.heard(TWO)
        assert not world.pulse.absent(TWO)

    run(main)


def test_one_ping_at_a_time_and_a_wrong_answer_measures_nothing() -> None:
    async def main(world: World) -> None:
        del world.answers[TWO]
        await asyncio.sleep(4 * PING_S)
        assert sum(1 for peer, message in world.sent if peer == TWO and isinstance(message, Ping)) == 1
        world.pulse.receive(TWO, Pong(round=0, attempt=0, nonce=77))
        world.pulse.follow(frozenset({TWO}))
        assert world.pulse.round_trip_s() == 0.0

    run(main)


def test_who_said_goodbye_is_absent_until_it_connects_again() -> None:
    async def main(world: World) -> None:
        world.pulse.receive(TWO, Leave(round=0, attempt=0))
        assert world.pulse.absent(TWO)
        world.pulse.heard(TWO)
        assert world.pulse.absent(TWO)
        world.pulse.follow(frozenset({ONE}))
        world.pulse.follow(frozenset({ONE, TWO}))
        assert not world.pulse.absent(TWO)

    run(main)


def test_after_our_own_sleep_nobody_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(world: World) -> None:
        del world.answers[ONE], world.answers[TWO]
        await asyncio.sleep(1)
        monkeypatch.setattr(
            clock, "now", lambda: asyncio.get_running_loop().time() + 500.0
        )  # SIGSTOP, SIGCONT
        await asyncio.sleep(PING_S)
        assert not world.pulse.absent(ONE)
        await asyncio.sleep(PING_S + SILENT_S)
        assert world.pulse.absent(ONE)

    run(main)


def test_another_way_to_a_peer_begins_without_its_round_trip() -> None:
    async def main(world: World) -> None:
        await asyncio.sleep(1)
        world.pulse.rerouted(TWO)
        assert abs(world.pulse.round_trip_s() - 0.1) < 1e-6
        world.answers[TWO] = 0.02
        await asyncio.sleep(PING_S)
        assert world.pulse.round_trip_s() < 0.11

    run(main)
