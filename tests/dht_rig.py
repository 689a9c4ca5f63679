"""Swarms of either network for tests: nodes that run, and the accepted ends of their channels."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from virtual_loop import run_virtual

from talkoot.dht.identity import Identity
from talkoot.dht.memory import MemoryHub, MemoryNetwork
from talkoot.dht.network import Channel, Network, ProtocolSpec
from talkoot.dht.records import PeerRecord

SWARM = bytes(range(32))
SPEC = ProtocolSpec(name="test/main/1", max_header=1000, max_payload=2**20, max_channels_per_peer=3)


def record_of(network: Network, swarm: bytes = SWARM, **changes: Any) -> PeerRecord:
    """A record of that node with plausible values."""
    values: dict[str, Any] = {
        "swarm": swarm, "key": network.key, "protocol": 1, "version": "0.1.0", "role": "full",
        "addresses": network.addresses, "round": 7, "digest": bytes(32), "steps": 30, "tokens": 30_000,
        "speed": 2.5, "upload": 0.0, "download": 0.0, "corpus": b"", "loss": 2.25, "state": "training",
    }  # fmt: skip
    return PeerRecord(**(values | changes))


class Node:
    """A running network with the channels that it accepted."""

    def __init__(self, network: Network, identity: Identity) -> None:
        self.network = network
        self.identity = identity
        self.key = network.key
        self.accepted: asyncio.Queue[Channel] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    async def keep(self, channel: Channel) -> None:
        """A handler that leaves the channel to the test."""
        await self.accepted.put(channel)
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """End the node and wait for it."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait({self.task})


class Rig:
    """One kind of network: `memory`, `p2pd` on asyncio, or `uvloop`: p2pd on uvloop."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.hub: MemoryHub | None = None

    def run(self, main: Coroutine[Any, Any, None], timeout_s: float = 60.0) -> None:
        """Run a test to its end, in virtual time for the network in memory."""

        async def bounded() -> None:
            async with asyncio.timeout(timeout_s):
                await main

        if self.kind == "memory":
            run_virtual(bounded())
        elif self.kind == "uvloop":
            import uvloop

            uvloop.run(bounded())
        else:
            asyncio.run(bounded())

    def make(self, identity: Identity, bootstrap: tuple[str, ...] = (), **settings: Any) -> Network:
        """A network that does not run yet. `settings` are the real one's."""
        if self.kind == "memory":
            self.hub = self.hub or MemoryHub()
            return self.hub.node(identity, swarm=SWARM)
        from talkoot.dht.config import NetworkConfig
        from talkoot.dht.host import P2PNetwork

        state_dir = settings.pop("state_dir", None)
        config = NetworkConfig.test(bootstrap=bootstrap, **settings)
        return P2PNetwork(identity, config, swarm=SWARM, state_dir=state_dir)

    @contextlib.asynccontextmanager
    async def swarm(
        self, count: int, setup: Callable[[Node], None] = lambda node: node.network.serve(SPEC, node.keep)
    ) -> AsyncIterator[list[Node]]:
        """Nodes that know the first one; stopped on exit."""
        async with asyncio.TaskGroup() as tasks:
            nodes: list[Node] = []
            for number in range(count):
                bootstrap = nodes[0].network.addresses if nodes else ()
                identity = Identity.from_seed(bytes([number + 1]) * 32)
                nodes.append(await self.start(tasks, identity, bootstrap, setup))
            yield nodes
            for node in nodes:
                await node.stop()

    async def start(
        self,
        tasks: asyncio.TaskGroup,
        identity: Identity,
        bootstrap: tuple[str, ...] = (),
        setup: Callable[[Node], None] = lambda node: node.network.serve(SPEC, node.keep),
        **settings: Any,
    ) -> Node:
        """One more node, started."""
        node = Node(self.make(identity, bootstrap, **settings), identity)
        setup(node)
        started = asyncio.Event()
        node.task = tasks.create_task(node.network.run(started=started.set))
        await started.wait()
        return node


async def pair(nodes: list[Node], spec: ProtocolSpec = SPEC) -> tuple[Channel, Channel]:
    """A channel from the second node to the first, with the accepted end."""
    ours = await nodes[1].network.dial(nodes[0].key, spec, timeout_s=10)
    return ours, await nodes[0].accepted.get()


def cut(rig: Rig, nodes: list[Node], channel: Channel) -> None:
    """Kill the connection below a channel without a last frame."""
    if rig.hub is not None:
        assert isinstance(nodes[0].network, MemoryNetwork)
        rig.hub.cut(nodes[0].key, nodes[1].key)
    else:
        channel._transport.abort()  # type: ignore[attr-defined]
