"""A relay in this process, and clients of it made of the same parts, which may do what no honest one does."""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import trio

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity, multihash_of
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.outside.wire import Message, bytes_field, number_field
from talkoot.dht.records import PeerRecord, SignedRecord, open_envelope
from talkoot.dht.relay import negotiation
from talkoot.dht.relay.admission import Admission
from talkoot.dht.relay.config import RelayConfig, RelayLimits
from talkoot.dht.relay.handshake import Handshaker
from talkoot.dht.relay.link import Link, Stream
from talkoot.dht.relay.messages import HOP, STOP
from talkoot.dht.relay.service import Relay
from talkoot.dht.relay.tally import Tally

RESERVE = number_field(1, 0)
SOON_S = 20.0
"""A generous bound on whatever is to happen at once."""


def connect_to(peer: bytes) -> bytes:
    """A wish for a circuit."""
    return number_field(1, 1) + bytes_field(2, bytes_field(1, peer))


class MadeDirectory:
    """A directory whose records a test sets; `looks` are counted."""

    def __init__(self, swarm: bytes = bytes(32)) -> None:
        self.swarm = swarm
        self.records: dict[bytes, SignedRecord] = {}
        self.looks = 0
        self.answers = True
        self.refused: list[str] = []
        self.at_look: Callable[[int], None] = lambda _look: None

    def add(self, key: bytes, **changes: Any) -> None:
        self.records[key] = SignedRecord(record_of(self.swarm, key, **changes), 0.0, 1e12)

    def peers(self) -> dict[bytes, SignedRecord]:
        return dict(self.records)

    def take(self, owner: bytes, envelope: bytes) -> bool:
        try:
            self.records[owner] = open_envelope(envelope, owner=owner, swarm=self.swarm, now=time.time())
        except RemoteError as error:
            self.refused.append(error.reason)
            return False
        return True

    async def look(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.looks += 1
        self.at_look(self.looks)
        return self.answers


def record_of(swarm: bytes, key: bytes, /, **changes: Any) -> PeerRecord:
    """A member's record."""
    record = PeerRecord(
        swarm=swarm, key=key, protocol=1, version="1.0", addresses=(), role="client", round=0,
        digest=bytes(32), steps=0, tokens=0, speed=0.0, upload=0.0, download=0.0, corpus=b"", loss=0.0,
        state="training",
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


@contextlib.asynccontextmanager
async def relaying(admission: Admission | None = None, **limits: Any) -> AsyncIterator[Relay]:
    """A relay for anybody on a port of loopback."""
    admission = admission or Admission((), anybody=True)
    config = RelayConfig(port=0, hosts=("127.0.0.1",))
    relay = Relay(
        Identity.generate(), config, replace(RelayLimits(drain_s=0.2), **limits), admission, Tally()
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admission.run)
        await nursery.start(relay.run)
        try:
            yield relay
        finally:
            await relay.stop()
            nursery.cancel_scope.cancel()


class Client:
    """A peer of a relay."""

    def __init__(self, identity: Identity, link: Link, relay: bytes) -> None:
        self.identity = identity
        self.name = multihash_of(identity.key)
        self.link = link
        self.relay = relay
        self.circuits, self._taken = trio.open_memory_channel[tuple[bytes, Stream]](16)
        self.refuses = False

    async def incoming(self) -> tuple[bytes, Stream]:
        """The next circuit that comes in: who is at its other end, and the stream."""
        with trio.fail_after(SOON_S):
            return await self._taken.receive()

    async def served(self, stream: Stream) -> None:
        """A stream of the relay: a circuit."""
        try:
            await negotiation.answer(stream, stream.peer, (STOP,))
        except RemoteError:
            return  # asked for its record, which it has not
        message = Message(await stream.read_message(4096))
        await stream.send_message(number_field(1, 1) + number_field(4, 203 if self.refuses else 100))
        if self.refuses:
            return
        await self.circuits.send((Message(message.bytes(2)).bytes(1), stream))
        await trio.sleep_forever()

    async def ask(self, message: bytes) -> tuple[Message, Stream]:
        """The relay's answer to a hop message, and the stream."""
        with trio.fail_after(SOON_S):
            stream = self.link.open()
            await negotiation.choose(stream, self.relay, HOP)
            await stream.send_message(message)
            return Message(await stream.read_message(4096)), stream

    async def status(self, message: bytes) -> int:
        """How a request went."""
        answer, stream = await self.ask(message)
        stream.abort()
        return answer.number(5)

    async def reserve(self) -> int:
        """How the wish for a reservation went."""
        return await self.status(RESERVE)

    async def dial(self, other: "Client") -> Stream:
        """A circuit to another client."""
        answer, stream = await self.ask(connect_to(other.name))
        assert answer.number(5) == 100, answer.number(5)
        return stream


@contextlib.asynccontextmanager
async def client_of(
    relay: Relay,
    identity: Identity | None = None,
    served: Callable[[Stream], Awaitable[None]] | None = None,
) -> AsyncIterator[Client]:
    """A connected client of a relay in this process."""
    address = f"{relay.addresses[0]}/p2p/{relay.identity.peer_id}"
    async with link_of(address, identity, served) as client:
        yield client


@contextlib.asynccontextmanager
async def link_of(
    address: str,
    identity: Identity | None = None,
    served: Callable[[Stream], Awaitable[None]] | None = None,
) -> AsyncIterator[Client]:
    """A connected client of a relay anywhere."""
    identity = identity or Identity.generate()
    where = parse_address(address)
    assert where.peer is not None
    name = multihash_of(where.peer)
    socket = await trio.open_tcp_stream(where.host, where.port)
    link = await Handshaker(identity).connect(socket, name, timeout_s=SOON_S)
    client = Client(identity, link, name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, served or client.served)
        try:
            yield client
        finally:
            link.close()


async def dialled(relay: Relay) -> trio.SocketStream:
    """A bare connection."""
    host, port = relay.addresses[0].split("/")[2], int(relay.addresses[0].split("/")[4])
    return await trio.open_tcp_stream(host, port)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another task does."""
    with trio.fail_after(SOON_S):
        while not condition():  # noqa: ASYNC110 - there is no event for what a test may ask
            await trio.sleep(0.005)


# -- scenarios --------------------------------------------------------------------------------------

OK, REFUSED, LIMIT, DENIED, FAILED, NO_RESERVATION, MALFORMED = 100, 200, 201, 202, 203, 204, 400
SCENARIOS: dict[str, Callable[[], Awaitable[None]]] = {}


def scenario(run: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    SCENARIOS[run.__name__] = run
    return run


async def circuit(source: Client, target: Client) -> tuple[Stream, Stream]:
    """Both ends of a circuit from one client to another."""
    near = await source.dial(target)
    who, far = await target.incoming()
    assert who == source.name
    return near, far


async def passed(near: Stream, far: Stream, count: int) -> None:
    """So many bytes arrive as they were sent."""
    data = os.urandom(count)
    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, data)
            assert await far.read(count) == data


async def cut(stream: Stream) -> None:
    """Until the stream was reset."""
    with trio.fail_after(SOON_S):
        try:
            while await stream.receive():
                pass
        except RemoteError:
            return
    raise AssertionError("ended, but not cut off")
