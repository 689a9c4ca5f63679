"""What is relied upon between py-libp2p and p2pd, both of them real: keys, streams, calls, the directory."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from dht_rig import SWARM, Node, Rig, record_of
from outside_rig import IDENTITY, needs_libp2p, outside, serving

from talkoot.dht.entries import PLACE_BYTES
from talkoot.dht.errors import RemoteError
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import multihash_of, peer_id_of
from talkoot.dht.network import Channel, ProtocolSpec
from talkoot.dht.outside.kademlia import FIND, PING
from talkoot.dht.substrate import P2PDaemonError, P2PHandlerError, PeerID

pytestmark = [pytest.mark.processes, needs_libp2p]

ECHO = ProtocolSpec(name="stream/echo/1", max_header=100, max_payload=2**22, max_channels_per_peer=3)
MANY, MAX_SERVED = 100, 64
"""Streams at once, and of them those that a host from outside serves (`talkoot.dht.outside.host`)."""
SECURITY = ("noise", "tls")


def with_swarm(count: int, test: Callable[[list[Node]], Awaitable[None]]) -> None:
    """Run a test on a swarm of real nodes that have announced themselves."""
    rig = Rig("uvloop")

    def setup(node: Node) -> None:
        async def echo(channel: Channel) -> None:
            frame = await channel.receive(timeout_s=20)
            await channel.send(frame.header, frame.payload, timeout_s=20)
            await node.keep(channel)

        node.network.serve(ECHO, echo)

    async def main() -> None:
        async with rig.swarm(count, setup) as nodes:
            for node in nodes:
                await node.network.directory.publish(record_of(node.network), ttl_s=60)
            await test(nodes)

    rig.run(main(), timeout_s=120)


def to(node: Node, **task: Any) -> dict[str, Any]:
    """A task about one node."""
    bootstrap = list(node.network.addresses)
    return {"peer": peer_id_of(node.key), "bootstrap": bootstrap, "swarm": SWARM.hex()} | task


async def call_from(node: Node, name: str, data: bytes) -> bytes:
    """A unary call of p2pd to the worker."""
    assert isinstance(node.network, P2PNetwork)
    inner = node.network._directory._node
    assert inner is not None
    target = PeerID(multihash_of(IDENTITY.key))
    answer = await inner.protocol.p2p._client.call_unary_handler(target, name, data)
    return bytes(answer)


def test_both_handshakes_calls_and_the_directory() -> None:
    """The key that p2pd has in 64 bytes is the one of 32 here: an identity has one PeerID on both sides."""

    async def test(nodes: list[Node]) -> None:
        everybody = {peer_id_of(node.key) for node in nodes}
        for security in SECURITY:
            found = await outside("look", **to(nodes[0], security=[security]))
            assert found["peers"].keys() == everybody
            assert set(found["answered"]) == everybody
            assert found["rounds"] == dict.fromkeys(everybody, 7)
            assert not found["rejected"]
            assert not found["failures"]
            assert found["clocks"].keys() == everybody
            assert all(abs(offset) < 2 for offset in found["clocks"].values())
            assert found["heavy"] == []

    with_swarm(3, test)


def test_a_record_is_stored_from_outside_and_found_by_nodes() -> None:
    async def test(nodes: list[Node]) -> None:
        stored = await outside("publish", **to(nodes[0]))
        assert stored["kept"] == len(nodes)
        for node in nodes:
            records = await node.network.directory.peers()
            assert records[IDENTITY.key].role == "relay"
            assert records[IDENTITY.key].addresses == ("/ip4/127.0.0.1/tcp/4001",)

    with_swarm(2, test)


def test_a_peer_is_found_by_its_id_alone() -> None:
    async def test(nodes: list[Node]) -> None:
        where = await outside("reach", **to(nodes[0], peer=peer_id_of(nodes[1].key)))
        assert where["connected"]
        assert where["at"] == [str(nodes[1].network.addresses[0]).partition("/p2p/")[0]]

    with_swarm(2, test)


def test_streams_from_outside() -> None:
    async def test(nodes: list[Node]) -> None:
        for security in SECURITY:
            task = to(nodes[0], protocol=ECHO.name, blocks=8000, security=[security])
            assert (await outside("stream", **task))["same"]

    with_swarm(1, test)


@pytest.mark.parametrize("security", SECURITY)
def test_streams_and_calls_to_the_outside(security: str) -> None:
    async def test(nodes: list[Node]) -> None:
        (node,) = nodes
        async with serving(security=[security]) as addresses:
            await node.network.add_addresses(IDENTITY.key, addresses)
            channel = await node.network.dial(IDENTITY.key, ECHO, timeout_s=10)
            payload = bytes(range(256)) * 8000
            async with asyncio.timeout(20):
                await channel.send(b"header", payload, timeout_s=20)
                frame = await channel.receive(timeout_s=20)
            assert (frame.header, bytes(frame.payload)) == (b"header", payload)
            await channel.close()
            async with asyncio.timeout(20):
                assert await call_from(node, "echo", b"abc") == b"cba" + node.key
                assert await call_from(node, "echo", b"") == node.key
                big = bytes(2**20 - 1000)
                assert await call_from(node, "echo", big) == big + node.key
                with pytest.raises(P2PHandlerError, match="refused: on purpose"):
                    await call_from(node, "fail", b"")

    with_swarm(1, test)


def test_a_flood_of_streams_is_reset_and_passes() -> None:
    async def test(nodes: list[Node]) -> None:
        (node,) = nodes
        async with serving() as addresses:
            await node.network.add_addresses(IDENTITY.key, addresses)
            served: list[Channel] = []
            refused = asyncio.Event()

            async def hold() -> None:
                try:
                    channel = await node.network.dial(IDENTITY.key, ECHO, timeout_s=20)
                    await channel.send(b"here", timeout_s=20)
                    await channel.receive(timeout_s=20)
                    served.append(channel)
                except RemoteError:
                    refused.set()

            async with asyncio.TaskGroup() as tasks:
                for _ in range(MANY):
                    tasks.create_task(hold())
            assert refused.is_set()
            assert 10 < len(served) <= MAX_SERVED
            for channel in served:
                await channel.close()
            async with asyncio.timeout(20):
                while True:  # its streams end one by one
                    try:
                        assert await call_from(node, "echo", b"abc") == b"cba" + node.key
                        break
                    except P2PDaemonError:
                        continue

    with_swarm(1, test)


def test_calls_that_fail_say_why() -> None:
    async def test(nodes: list[Node]) -> None:
        place = bytes(PLACE_BYTES)
        for name, request, limits, reason in (
            (PING, b"", {}, None),
            (PING, b"\xff" * 9, {}, "refused"),  # hivemind cannot parse it, and says so
            (FIND, b"\x12\x14" + place, {"max_bytes": 0}, "oversized"),
            ("DHTProtocol.rpc_nothing", b"", {}, "unsupported"),
        ):
            answer = await outside("call", **to(nodes[0], call=name, request=request.hex(), **limits))
            assert answer.get("reason") == reason, (name, answer)
        await nodes[0].stop()
        answer = await outside("call", **to(nodes[0], call=PING, request=""))
        assert answer["reason"] == "unreachable"

    with_swarm(1, test)
