"""Peers that nobody can dial, and relays that come and go; in memory and on p2pd alike."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from dht_rig import SPEC, SWARM, Node, Rig
from outside_rig import needs_libp2p

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity, key_of_peer_id
from talkoot.dht.memory import Link, MemoryHub, MemoryNetwork
from talkoot.dht.network import Channel

KINDS = ["memory", pytest.param("p2pd", marks=[pytest.mark.processes, needs_libp2p])]
NAMES = (Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32))


class Relayed:
    """Two nodes that know each other through relays only, and the relays."""

    def __init__(self, rig: Rig, count: int) -> None:
        self.rig = rig
        self.processes: dict[bytes, subprocess.Popen[str]] = {}
        self.addresses: list[str] = []
        for number in range(count):
            if rig.kind == "memory":
                rig.hub = rig.hub or MemoryHub()
                self.addresses.append(rig.hub.relay(Identity.from_seed(bytes([number + 1]) * 32).key).address)
            else:
                self._start_process()

    def _start_process(self) -> None:
        program = Path(__file__).with_name("relay_child.py")
        process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        self.processes[key_of_peer_id(address.rpartition("/")[2])] = process
        self.addresses.append(address)

    @contextlib.asynccontextmanager
    async def nodes(self) -> AsyncIterator[tuple[Node, Node]]:
        """Stopped on exit, and the relays with them."""
        try:
            async with asyncio.TaskGroup() as tasks:
                one, other = [await self._start(tasks, identity) for identity in NAMES]
                yield one, other
                for node in (one, other):
                    await node.stop()
        finally:
            for process in self.processes.values():
                process.kill()
                process.communicate()

    async def _start(self, tasks: asyncio.TaskGroup, identity: Identity) -> Node:
        if self.rig.hub is None:
            return await self.rig.start(tasks, identity, relay=True, relays=tuple(self.addresses))
        network = self.rig.hub.node(identity, swarm=SWARM, link=Link(dialled=False), relays=self.addresses)
        node = Node(network, identity)
        network.serve(SPEC, node.keep)
        started = asyncio.Event()
        node.task = tasks.create_task(network.run(started=started.set))
        await started.wait()
        return node

    def kill(self, relay: bytes) -> None:
        """It is gone without a word."""
        if self.rig.hub is not None:
            self.rig.hub.crash(relay)
        else:
            self.processes[relay].kill()


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


async def holds(node: Node, count: int) -> None:
    await until(lambda: len(node.network.relays.held) == count)


async def until(true: Callable[[], bool]) -> None:
    """The rig's bound ends it otherwise."""
    while not true():  # noqa: ASYNC110 - nobody tells when p2pd's connections change
        await asyncio.sleep(0.05)


async def dial_through(node: Node, other: Node) -> tuple[Channel, Channel]:
    """Both ends of a channel to a node that is known through its relays only."""
    circuits = [text for text in other.network.addresses if "/p2p-circuit/" in text]
    await node.network.add_addresses(other.key, circuits)
    while True:
        with contextlib.suppress(RemoteError, TimeoutError):  # libp2p refuses to dial again for a moment
            ours = await node.network.dial(other.key, SPEC, timeout_s=10)
            return ours, await other.accepted.get()
        await asyncio.sleep(0.1)


def test_a_peer_that_nobody_can_dial_is_reached_through_a_relay(rig: Rig) -> None:
    async def main() -> None:
        async with Relayed(rig, 2).nodes() as (one, other):
            await holds(one, 2)
            assert one.network.paths.of(other.key) == "unknown"
            ours, theirs = await dial_through(other, one)
            assert ours.relay in one.network.relays.held
            assert theirs.relay == ours.relay
            for size in (0, 300_000, 2**20):  # more than p2pd's own relays let through
                await ours.send(b"h", b"x" * size, timeout_s=20)
                assert len((await theirs.receive(timeout_s=20)).payload) == size
            await until(lambda: one.network.paths.of(other.key) == "relayed")
            await until(lambda: other.network.paths.of(one.key) == "relayed")

    rig.run(main())


def test_the_relay_in_use_dies_and_the_other_one_is_there(rig: Rig) -> None:
    async def main() -> None:
        relayed = Relayed(rig, 2)
        async with relayed.nodes() as (one, other):
            await holds(one, 2)
            ours, theirs = await dial_through(other, one)
            before = ours.relay
            assert before is not None
            relayed.kill(before)
            for channel in (ours, theirs):
                with pytest.raises(RemoteError, match="lost"):
                    await channel.receive(timeout_s=20)
            await holds(one, 1)
            assert len([text for text in one.network.addresses if "/p2p-circuit/" in text]) == 1
            ours, _ = await dial_through(other, one)
            assert ours.relay != before
            if rig.hub is not None:  # on loopback p2pd finds a way without any, once it knows the other
                assert ours.relay in one.network.relays.held
            assert one.network.relays.faults["lost"] == 1

    rig.run(main())


def test_who_refuses_relays_neither_dials_through_them_nor_lets_others_in(rig: Rig) -> None:
    async def main() -> None:
        async with Relayed(rig, 1).nodes() as (one, other):
            await holds(one, 1)
            circuits = [text for text in one.network.addresses if "/p2p-circuit/" in text]
            await other.network.add_addresses(one.key, circuits)
            other.network.company.refuses_relayed = True
            with pytest.raises((RemoteError, TimeoutError)):
                await other.network.dial(one.key, SPEC, timeout_s=3)
            other.network.company.refuses_relayed = False
            one.network.company.refuses_relayed = True
            with contextlib.suppress(RemoteError, TimeoutError):
                ours = await other.network.dial(one.key, SPEC, timeout_s=10)
                with pytest.raises(RemoteError):
                    await ours.receive(timeout_s=10)
            assert one.accepted.empty()

    rig.run(main())


def test_a_relay_that_takes_nobody_is_not_announced() -> None:
    rig = Rig("memory")

    async def main() -> None:
        relayed = Relayed(rig, 1)
        assert rig.hub is not None
        relay = next(iter(rig.hub.relays.values()))
        relay.fault = "full"
        async with relayed.nodes() as (one, other):
            await asyncio.sleep(20)
            assert one.network.relays.held == frozenset()
            with pytest.raises(RemoteError, match="unreachable"):
                await other.network.dial(one.key, SPEC, timeout_s=3)
            assert other.network.paths.of(one.key) == "unreachable"
            relay.fault = None
            await asyncio.sleep(60)
            assert one.network.relays.held == {relay.key}
            assert isinstance(one.network, MemoryNetwork)

    rig.run(main(), timeout_s=200)
