"""Asks a peer about our own connection. Every call ends in time and believes no more than it can check."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec

from talkoot.dht.dialback import DIAL_S, Outcome
from talkoot.dht.errors import ChannelClosed, RemoteError
from talkoot.dht.network import Channel, Frame, Network
from talkoot.peer import clock
from talkoot.peer.probing.protocol import (
    BLOCK_BYTES,
    ENOUGH_S,
    FIRST_BYTES,
    PROBE,
    TRANSFER_BYTES,
    TRANSFER_S,
    Answer,
    Ask,
    read_answer,
)
from talkoot.peer.probing.server import take

ASK_S = 5.0
"""Longest wait for an answer."""

_BLOCK = bytes(BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a peer says of itself and of us."""

    address: str
    """Where it sees us, /ip4/.../tcp/...; empty when it does not know."""
    clock_offset_s: float
    """How far its clock is ahead of ours, to within half the round trip."""
    round_trip_s: float
    version: str
    protocol: int


class Probe:
    """An open channel to one peer. One question at a time.

    Every method raises RemoteError (`busy`, `exchanging` among its reasons), TimeoutError.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def hello(self) -> Greeting:
        """Who is there, and where we are seen."""
        before, began = time.time(), clock.now()
        answer = await self._ask(Ask("hello"))
        round_trip_s = clock.now() - began
        return Greeting(
            address=answer.address,
            clock_offset_s=answer.clock - (before + round_trip_s / 2),
            round_trip_s=round_trip_s,
            version=answer.version,
            protocol=answer.protocol,
        )

    async def echo(self, *, timeout_s: float = ASK_S) -> float:
        """Seconds of one round trip."""
        began = clock.now()
        await self._ask(Ask("echo"), timeout_s)
        return clock.now() - began

    async def dial_back(self, port: int) -> Outcome:
        """Whether the peer can dial us at this port of the address where it sees us."""
        return (await self._ask(Ask("dial_back", port=port), ASK_S + DIAL_S)).outcome

    async def download(self) -> float:
        """Bytes a second from the peer to us."""
        return await self._timed(self._send)

    async def upload(self) -> float:
        """Bytes a second from us to the peer."""
        return await self._timed(self._take)

    async def _timed(self, transfer: Callable[[int], Awaitable[None]]) -> float:
        """Transfers that grow until one takes long enough to be timed."""
        latency_s = await self.echo()
        num_bytes = FIRST_BYTES
        while True:
            began = clock.now()
            async with asyncio.timeout(TRANSFER_S + ASK_S):
                await transfer(num_bytes)
            took_s = clock.now() - began
            if took_s >= ENOUGH_S or num_bytes >= TRANSFER_BYTES:
                return num_bytes / max(took_s - latency_s, took_s / 2, 1e-6)
            num_bytes *= 2

    async def _send(self, num_bytes: int) -> None:
        """Have the peer send so much."""
        await self._channel.send(msgspec.msgpack.encode(Ask("send", num_bytes=num_bytes)), timeout_s=ASK_S)
        frame = await take(self._channel, num_bytes)
        self._require_ok(frame or await self._channel.receive())

    async def _take(self, num_bytes: int) -> None:
        """Send the peer so much."""
        await self._channel.send(msgspec.msgpack.encode(Ask("take", num_bytes=num_bytes)), timeout_s=ASK_S)
        with suppress(ChannelClosed):  # the answer says why
            for start in range(0, num_bytes, BLOCK_BYTES):
                block = _BLOCK[: num_bytes - start]
                await self._channel.send(b"", block, timeout_s=TRANSFER_S)
        self._require_ok(await self._channel.receive())

    async def _ask(self, ask: Ask, timeout_s: float = ASK_S) -> Answer:
        await self._channel.send(msgspec.msgpack.encode(ask), timeout_s=timeout_s)
        return self._require_ok(await self._channel.receive(timeout_s=timeout_s))

    def _require_ok(self, frame: Frame) -> Answer:
        answer = read_answer(frame.header, self._channel.peer)
        if answer.status != "ok":
            raise RemoteError(self._channel.peer, answer.status, "it has no time for this now")
        return answer


@asynccontextmanager
async def probing(network: Network, peer: bytes, *, timeout_s: float = ASK_S) -> AsyncIterator[Probe]:
    """Ask a peer. Raises RemoteError (`unreachable`, `unsupported`), TimeoutError; ValueError for us."""
    channel = await network.dial(peer, PROBE, timeout_s=timeout_s)
    try:
        yield Probe(channel)
    finally:
        await channel.close()
