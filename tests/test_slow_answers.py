"""An answer may take long while its bytes come; nobody is waited for who brings nothing, or next to it."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from talkoot.dht.identity import Identity
from talkoot.dht.memory import Link, MemoryHub
from talkoot.dht.network import Channel
from talkoot.peer import clock
from talkoot.peer.checks import Checks
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.survey import LONGEST_TURNS_S, Survey
from talkoot.peer.trainer.tokenizer import tokenizer_hash
from talkoot.peer.transfer import (
    ANSWER_TIMEOUT_S,
    MAX_ANSWER_BYTES,
    SLOWEST,
    Answer,
    Busy,
    StateClient,
    StateServer,
    state_protocol,
)

SWARM = bytes(32)
NEWCOMER, SERVER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
TOKENIZER = bytes(range(256)) * 20_000  # 5 MB


def run(main: Callable[[StateClient], Awaitable[None]], *, download: float, silent: bool = False) -> None:
    async def bounded() -> None:
        hub = MemoryHub()
        ours = hub.node(NEWCOMER, swarm=SWARM, link=Link(latency_s=0.05, download=download))
        theirs = hub.node(SERVER, swarm=SWARM, link=Link(latency_s=0.05))
        if silent:
            theirs.serve(state_protocol(SWARM), say_nothing)
        else:
            StateServer(
                theirs, SWARM, manifest=lambda: None, tokenizer=lambda: TOKENIZER, holdings=lambda: None
            )
        async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
            tasks = []
            for node in (ours, theirs):
                started = asyncio.Event()
                tasks.append(group.create_task(node.run(started=started.set)))
                await started.wait()
            await main(await StateClient.connect(ours, SERVER.key, SWARM))
            for task in tasks:
                task.cancel()

    run_virtual(bounded())


async def say_nothing(channel: Channel) -> None:
    await channel.receive(timeout_s=10)
    await channel.send(msgspec.msgpack.encode(Answer("busy")), timeout_s=10)
    await asyncio.Event().wait()


@pytest.mark.parametrize("rate", [64e3, 1e6])
def test_five_megabytes_come_at_the_lowest_limit(rate: float) -> None:
    async def main(client: StateClient) -> None:
        began = clock.now()
        assert await client.tokenizer(tokenizer_hash(TOKENIZER)) == TOKENIZER
        assert clock.now() - began == pytest.approx(len(TOKENIZER) / rate, rel=0.05)

    run(main, download=rate)


def test_what_trickles_is_given_up() -> None:
    async def main(client: StateClient) -> None:
        began = clock.now()
        with pytest.raises(TimeoutError, match="no whole answer"):
            await client.tokenizer(tokenizer_hash(TOKENIZER))
        took_s = clock.now() - began
        assert MAX_ANSWER_BYTES / SLOWEST < took_s <= MAX_ANSWER_BYTES / SLOWEST + 2 * ANSWER_TIMEOUT_S

    run(main, download=2e3)


def test_who_says_nothing_is_given_up_soon() -> None:
    async def main(client: StateClient) -> None:
        with pytest.raises(Busy):
            await client.tokenizer(tokenizer_hash(TOKENIZER))
        began = clock.now()
        with pytest.raises(TimeoutError, match="no whole answer"):
            await client.head()
        assert clock.now() - began == pytest.approx(ANSWER_TIMEOUT_S, abs=1)

    run(main, download=1e6, silent=True)


@pytest.mark.parametrize(("rate", "alone"), [(64e3, 3), (16e3, 1)])
def test_a_chain_that_comes_at_a_good_pace_keeps_its_turn(rate: float, alone: int) -> None:
    """Three peers with the same chain of 1.5 MB: one after the other, or after a while all at once."""
    under_way, began_alone = 0, 0

    async def main() -> None:
        clients = [_Coming(rate) for _ in range(3)]
        survey = Survey(
            MemoryHub().node(NEWCOMER, swarm=SWARM), SWARM, ours=None, anchor=None, founders=(),
            on_failure=lambda peer, error: None, checks=Checks(),
        )  # fmt: skip
        survey._clients = clients  # type: ignore[assignment]

        async def look_at(client: _Coming) -> None:
            nonlocal under_way, began_alone
            async with survey._turn():
                began_alone += not under_way
                under_way += 1
                client.began_s = clock.now()
                await asyncio.sleep(1.5e6 / rate)
                under_way -= 1

        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(look_at(client))

    run_virtual(main())
    assert began_alone == alone


def test_nobody_waits_for_its_turn_for_ever() -> None:
    async def main() -> None:
        client = _Coming(1e6)
        survey = Survey(
            MemoryHub().node(NEWCOMER, swarm=SWARM), SWARM, ours=None, anchor=None, founders=(),
            on_failure=lambda peer, error: None, checks=Checks(),
        )  # fmt: skip
        survey._clients = [client]  # type: ignore[list-item]
        client.began_s = began = clock.now()
        async with survey._turn(), survey._turn():
            assert clock.now() - began == pytest.approx(LONGEST_TURNS_S)

    run_virtual(main())


class _Coming:
    """A peer of which bytes come at this rate while its turn lasts."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.began_s: float | None = None

    @property
    def bytes_arrived(self) -> int:
        return 0 if self.began_s is None else int(self._rate * (clock.now() - self.began_s))
