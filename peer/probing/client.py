"""Asks a peer about our own connection. Every call ends in time and believes no more than it can check."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec

from talkoot.dht.dialback import DIAL_S, Outcome
from talkoot.dht.errors import RemoteError
from talkoot.dht.network import Channel, Network
from talkoot.peer import clock
from talkoot.peer.probing.protocol import (
    BLOCK_BYTES,
    DRAIN_S,
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

    async def download(self, num_bytes: int = TRANSFER_BYTES) -> float | None:
        """Bytes a second from the peer to us; None if too few arrived to say. The last question."""
        await self._ask(Ask("send", num_bytes=num_bytes))
        return _rate(await take(self._channel, limit_s=TRANSFER_S + DRAIN_S))

    async def upload(self, num_bytes: int = TRANSFER_BYTES) -> float | None:
        """Bytes a second from us to the peer, as it sees them arrive; None if too few did to say. The last
        question."""
        await self._ask(Ask("take"))
        with suppress(RemoteError, TimeoutError):  # the peer has seen enough: it says how much
            await self._fill(num_bytes)
        return _rate(await self._answer(ASK_S + DRAIN_S))

    async def _fill(self, num_bytes: int) -> None:
        began, sent = clock.now(), 0
        while sent < num_bytes and clock.now() - began < TRANSFER_S:
            block = _BLOCK[: num_bytes - sent]
            await self._channel.send(b"", block, timeout_s=DRAIN_S)
            sent += len(block)
        await self._channel.send(b"end", timeout_s=DRAIN_S)

    async def _ask(self, ask: Ask, timeout_s: float = ASK_S) -> Answer:
        await self._channel.send(msgspec.msgpack.encode(ask), timeout_s=timeout_s)
        answer = await self._answer(timeout_s)
        if answer.status != "ok":
            raise RemoteError(self._channel.peer, answer.status, "it has no time for this now")
        return answer

    async def _answer(self, timeout_s: float) -> Answer:
        frame = await self._channel.receive(timeout_s=timeout_s)
        return read_answer(frame.header, self._channel.peer)


def _rate(answer: Answer) -> float | None:
    return answer.num_bytes / answer.seconds if answer.num_bytes and answer.seconds > 0 else None


@asynccontextmanager
async def probing(network: Network, peer: bytes, *, timeout_s: float = ASK_S) -> AsyncIterator[Probe]:
    """Ask a peer. Raises RemoteError (`unreachable`, `unsupported`), TimeoutError; ValueError for us."""
    channel = await network.dial(peer, PROBE, timeout_s=timeout_s)
    try:
        yield Probe(channel)
    finally:
        await channel.close()
