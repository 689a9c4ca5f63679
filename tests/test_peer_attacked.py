"""A whole node, on a virtual clock, with an attacker beside it: what lies is banned, rounds go on."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from talkoot.averaging.messages import Abort, Committed, Ping
from talkoot.averaging.wire import encode
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.memory import MemoryNetwork
from talkoot.dht.network import Channel, ProtocolSpec
from talkoot.peer.links import protocols
from talkoot.peer.node import Node
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World
from talkoot.peer.transfer import state_protocol

Attack = Callable[["Attacker"], Awaitable[None]]


class Attacker:
    """A stranger with a key of its own, and the node that it attacks."""

    def __init__(self, world: World, network: MemoryNetwork) -> None:
        self.network = network
        self.random = random.Random(7)
        node = world.peers[1].node
        assert node is not None
        self.node: Node = node
        lanes = protocols(node.membership.swarm)
        self.control, self.state = lanes["control"], state_protocol(node.membership.swarm)

    @property
    def here(self) -> dict[str, Any]:
        assert self.node.holdings is not None
        return {"round": self.node.holdings.ledger.round, "attempt": 0}

    @property
    def banned(self) -> bool:
        return self.node.conduct.standing(self.network.key).ban is not None

    async def dial(self, spec: ProtocolSpec) -> Channel | None:
        with suppress(RemoteError, TimeoutError):
            return await self.network.dial(self.node.network.key, spec, timeout_s=5)
        await asyncio.sleep(0.1)
        return None

    async def say(self, spec: ProtocolSpec, *headers: bytes) -> None:
        """Over a new channel; it may be cut meanwhile."""
        channel = await self.dial(spec)
        if channel is not None:
            with suppress(RemoteError, TimeoutError):
                for header in headers:
                    await channel.send(header, timeout_s=5)
                await channel.receive(timeout_s=0.2)
            await channel.close()


def attacked(tmp_path: Path, attack: Attack) -> None:
    """Let two honest peers train, one of them attacked; both go on, on the same bits."""

    async def main() -> None:
        world = World(2, 1, tmp_path, witness=lambda *_: None, on_head=lambda *_: None)

        async def script() -> None:
            await asyncio.sleep(15.0)
            identity = Identity.from_seed(b"a" * 32)
            swarm = world.manifest.swarm_id
            network = world.hub.node(identity, swarm=swarm)
            async with asyncio.TaskGroup() as group:
                started = asyncio.Event()
                running = group.create_task(network.run(started=started.set))
                await started.wait()
                attacker = Attacker(world, network)
                before = attacker.here["round"]
                await attack(attacker)
                await asyncio.sleep(20.0)
                assert attacker.here["round"] >= before + 2
                running.cancel()
            nodes = [peer.node for peer in world.peers]
            assert all(node is not None and node.conduct.noted() <= {identity.key} for node in nodes)
            assert nodes[0] is not None
            assert nodes[0].holdings is not None
            chain = [entry.digest for entry in nodes[0].swarming.history.records]  # type: ignore[union-attr]
            other = [entry.digest for entry in attacker.node.swarming.history.records]  # type: ignore[union-attr]
            common = min(len(chain), len(other))
            assert common >= 3
            assert chain[:common] == other[:common]

        await world.run(script)

    with simulated_disks(), stand_in_signatures():
        run_virtual(main())


async def nonsense(attacker: Attacker) -> None:
    known = encode(Ping(**attacker.here, nonce=5)), encode(Abort(**attacker.here, reason="", suspects=()))
    for _ in range(60):
        data = bytearray(attacker.random.choice(known))
        data[attacker.random.randrange(len(data))] ^= 1 << attacker.random.randrange(8)
        await attacker.say(attacker.control, bytes(data))
    assert attacker.banned


async def questions_that_are_none(attacker: Attacker) -> None:
    for _ in range(12):
        await attacker.say(attacker.state, b"\x91" * 4000)
    assert attacker.banned


async def forged_certificates(attacker: Attacker) -> None:
    assert attacker.node.holdings is not None
    head = attacker.node.holdings.head
    for number in range(12):
        prior, digest = attacker.node.holdings.digest, bytes([number]) * 32
        value = msgspec.structs.replace(
            head.value, round=attacker.here["round"], prior=prior, digest=digest, cut=()
        )
        forged = msgspec.structs.replace(head, value=value)
        await attacker.say(attacker.control, encode(Committed(**attacker.here, certificate=forged)))
    assert attacker.banned


async def a_flood(attacker: Attacker) -> None:
    ping = encode(Ping(**attacker.here, nonce=5))
    channel = await attacker.dial(attacker.control)
    assert channel is not None
    with suppress(RemoteError, TimeoutError):
        while True:
            await channel.send(ping, timeout_s=60)
    assert attacker.node.conduct.standing(attacker.network.key).reason == "flood"


async def replays(attacker: Attacker) -> None:
    """What was true once is no lie: refused, and held against nobody."""
    assert attacker.node.holdings is not None
    old = attacker.node.holdings.head
    await asyncio.sleep(10.0)
    late = encode(Committed(round=old.value.round, attempt=0, certificate=old))
    for _ in range(20):
        await attacker.say(attacker.control, *[late] * 50)
    assert not attacker.banned
    assert attacker.node.network.company.banned == frozenset()


@pytest.mark.parametrize("attack", [nonsense, questions_that_are_none, forged_certificates, a_flood, replays])
def test_rounds_go_on(tmp_path: Path, attack: Attack) -> None:
    attacked(tmp_path, attack)
