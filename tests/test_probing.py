"""Peers look at each other's connection, and nobody can make them look anywhere else, or for long."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from dht_rig import Node, Rig

from talkoot.dht import limits
from talkoot.dht.dialback import Outcome, dial_back
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.memory import Link, MemoryNetwork
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.noise import MAX_ANSWER_BYTES, Initiator
from talkoot.peer.probing.client import Probe, probing
from talkoot.peer.probing.protocol import (
    BLOCK_BYTES,
    FIRST_BYTES,
    MAX_ASKS,
    PROBE,
    TRANSFER_BYTES,
    Answer,
    Ask,
)
from talkoot.peer.probing.server import ProbeServer

MEMORY = Rig("memory")
REAL = Rig("p2pd")


class Served:
    """A node that answers, one that asks, and what the first was made to dial."""

    def __init__(self) -> None:
        self.dialled: list[tuple[str, int, bytes]] = []
        self.exchanging = False
        self.nodes: list[Node] = []

    def serve(self, node: Node) -> None:
        ProbeServer(node.network, exchanging=lambda: self.exchanging, dial=self.dial)

    async def dial(self, host: str, port: int, key: bytes) -> Outcome:
        self.dialled.append((host, port, key))
        return await dial_back(host, port, key)

    @asynccontextmanager
    async def ask(self) -> AsyncIterator[Probe]:
        async with probing(self.nodes[1].network, self.nodes[0].key, timeout_s=10) as probe:
            yield probe


@asynccontextmanager
async def two(rig: Rig) -> AsyncIterator[Served]:
    served = Served()
    async with rig.swarm(2, served.serve) as served.nodes:
        yield served


def port_of(node: Node) -> int:
    return parse_address(node.network.addresses[0]).port


@pytest.mark.processes
def test_a_listener_is_told_from_others_and_from_none() -> None:
    async def main() -> None:
        async with two(REAL) as served:
            asker = served.nodes[1]
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                async with served.ask() as probe:
                    greeting = await probe.hello()
                    seen = parse_address(greeting.address)
                    assert await probe.dial_back(port_of(asker)) == "reached"
                    assert await probe.dial_back(port_of(served.nodes[0])) == "other"  # another peer's
                    assert await probe.dial_back(closed.getsockname()[1]) == "refused"
            assert seen.host == "127.0.0.1"
            assert seen.port == port_of(asker)  # p2pd dials from where it listens
            assert abs(greeting.clock_offset_s) < 0.5
            assert 0 < greeting.round_trip_s < 5
            assert {(host, key) for host, _, key in served.dialled} == {("127.0.0.1", asker.key)}
            assert not served.nodes[0].network.events.rejected

    REAL.run(main())


@pytest.mark.processes
def test_transfers_are_timed_both_ways_and_bounded() -> None:
    async def main() -> None:
        async with two(REAL) as served:
            for do in ("download", "upload"):
                async with served.ask() as probe:
                    rate = await getattr(probe, do)()
                    assert rate > 1e6
            sent = served.nodes[0].network.traffic.sent[PROBE.name]
            received = served.nodes[0].network.traffic.received[PROBE.name]
            for total in (sent, received):
                assert FIRST_BYTES <= total <= 2 * TRANSFER_BYTES + 20_000
            assert not served.nodes[0].network.events.rejected

    REAL.run(main())


def test_who_comes_through_no_known_address_is_dialled_nowhere() -> None:
    async def main() -> None:
        async with two(MEMORY) as served, served.ask() as probe:
            assert (await probe.hello()).address == ""
            assert await probe.dial_back(4001) == "unknown"
            assert served.dialled == []

    MEMORY.run(main())


def test_a_slow_line_is_timed_with_few_bytes() -> None:
    async def main() -> None:
        async with two(MEMORY) as served:
            slow = served.nodes[1].network
            assert isinstance(slow, MemoryNetwork)
            slow.link = Link(upload=8_000.0, download=80_000.0)
            async with served.ask() as probe:
                up, down = await probe.upload(), await probe.download()
            assert 4_000 < up < 16_000
            assert 40_000 < down < 160_000
            assert slow.traffic.sent[PROBE.name] < 2 * FIRST_BYTES

    MEMORY.run(main())


def test_a_round_comes_first() -> None:
    async def main() -> None:
        async with two(MEMORY) as served:
            served.exchanging = True
            for do in ("download", "upload"):
                async with served.ask() as probe:
                    assert await probe.echo() >= 0
                    with pytest.raises(RemoteError, match="exchanging"):
                        await getattr(probe, do)()
            assert served.nodes[0].network.traffic.sent[PROBE.name] < 1000

    MEMORY.run(main())


def test_a_transfer_ends_when_a_round_begins() -> None:
    async def main() -> None:
        async with two(MEMORY) as served:
            network = served.nodes[1].network
            channel = await network.dial(served.nodes[0].key, PROBE, timeout_s=5)
            await channel.send(msgspec.msgpack.encode(Ask("send", num_bytes=TRANSFER_BYTES)), timeout_s=5)
            blocks = 0
            while not (frame := await channel.receive(timeout_s=5)).header:
                blocks += 1
                served.exchanging = True
            assert msgspec.msgpack.decode(frame.header, type=Answer).status == "exchanging"
            assert 0 < blocks * BLOCK_BYTES < TRANSFER_BYTES

    MEMORY.run(main())


def test_who_asks_too_often_is_told_so() -> None:
    async def main() -> None:
        async with two(MEMORY) as served, served.ask() as probe:
            for _ in range(int(limits.PROBES_BURST)):
                await probe.echo()
            with pytest.raises(RemoteError, match="busy"):
                await too_many(probe)

    MEMORY.run(main())


def test_a_channel_has_an_end() -> None:
    async def main() -> None:
        async with two(MEMORY) as served, served.ask() as probe:
            with pytest.raises(RemoteError, match="ended"):
                await too_many(probe, MAX_ASKS + 1, pause_s=0.3)

    MEMORY.run(main())


@pytest.mark.processes
def test_dialling_back_has_limits_of_its_own() -> None:
    async def main() -> None:
        async with two(REAL) as served:
            asker = served.nodes[1]
            async with served.ask() as probe:
                for _ in range(int(limits.DIAL_BACKS_BURST)):
                    assert await probe.dial_back(port_of(asker)) == "reached"
                with pytest.raises(RemoteError, match="busy"):
                    await probe.dial_back(port_of(asker))
            assert len(served.dialled) == limits.DIAL_BACKS_BURST

    REAL.run(main())


def test_bytes_are_rationed() -> None:
    async def main() -> None:
        async with two(MEMORY) as served, served.ask() as probe:
            for _ in range(limits.PROBE_BYTES_BURST // TRANSFER_BYTES):
                await probe._send(TRANSFER_BYTES)
            with pytest.raises(RemoteError, match="busy"):
                await probe._send(TRANSFER_BYTES)
            with pytest.raises(RemoteError, match="busy"):
                await probe._take(TRANSFER_BYTES)
            with pytest.raises(RemoteError, match="ended"):  # what is refused is not read
                await probe.echo()

    MEMORY.run(main())


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"x" * 500, msgspec.msgpack.encode({"do": "dial_back", "port": 70_000})]
)
def test_what_is_no_ask_ends_the_channel(data: bytes) -> None:
    async def main() -> None:
        async with two(MEMORY) as served:
            channel = await served.nodes[1].network.dial(served.nodes[0].key, PROBE, timeout_s=5)
            await channel.send(data, timeout_s=5)
            with pytest.raises(RemoteError, match="ended"):
                await channel.receive(timeout_s=5)
            assert served.nodes[0].network.events.rejected == {"malformed": 1}

    MEMORY.run(main())


def test_an_address_cannot_be_asked_for() -> None:
    """There is no field for it: the address is that of the connection."""
    assert Ask.__struct_fields__ == ("do", "port", "num_bytes")


async def too_many(probe: Probe, number: int = 10, *, pause_s: float = 0.0) -> None:
    for _ in range(number):
        await probe.echo()
        await asyncio.sleep(pause_s)


async def listening(answer: bytes) -> Outcome:
    """What is made of a listener that says this and no more."""

    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with suppress(OSError):
            await reader.read()
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
        over.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        outcome = await dial_back("127.0.0.1", port, Identity.generate().key, timeout_s=1.0)
        await over.wait()
        return outcome


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x13/multistream/1.0.0\n\x03na\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + bytes(65535),
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\xc8" + bytes(200),
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x01\x00",
    ],
)
def test_a_listener_that_is_not_the_peer(answer: bytes) -> None:
    assert asyncio.run(listening(answer)) == "other"


def test_nobody_is_dialled_for_longer_than_that() -> None:
    """A socket whose queue is full does not answer: as a firewall that drops."""
    with socket.socket() as full, socket.socket() as taking:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        taking.connect(full.getsockname())
        port = full.getsockname()[1]
        assert asyncio.run(dial_back("127.0.0.1", port, bytes(32), timeout_s=0.5)) == "silent"


def test_a_handshake_is_bounded_before_it_is_read() -> None:
    for size in (0, 31, 32, 80, MAX_ANSWER_BYTES + 1):
        with pytest.raises(ValueError, match="another length"):
            Initiator.fresh().who(bytes(size))
