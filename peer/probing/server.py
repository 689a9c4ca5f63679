"""Answers what other peers ask about their connections, as long as it costs this node next to nothing.

A peer is dialled at the address that its connection really comes from and nowhere else, once an ask, with
fewer bytes than the ask has. Transfers are few, short, one at a time, and end when a round is exchanged.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import msgspec

from talkoot.dht import limits
from talkoot.dht.dialback import Outcome, dial_back
from talkoot.dht.errors import RemoteError
from talkoot.dht.meter import Bucket, Flow, Meters, Rate
from talkoot.dht.multiaddr import parse_address, prefix_of
from talkoot.dht.network import Channel, Frame, Network
from talkoot.peer import clock
from talkoot.peer.probing.protocol import (
    BLOCK_BYTES,
    IDLE_S,
    MAX_ASKS,
    PROBE,
    TRANSFER_S,
    Answer,
    Ask,
    Status,
    read_ask,
)
from talkoot.peer.protocol import PROTOCOL_VERSION

log = logging.getLogger("talkoot.probing")

DialBack = Callable[[str, int, bytes], Awaitable[Outcome]]

ANSWER_S = 5.0
"""How long an answer may take to leave."""

_BLOCK = bytes(BLOCK_BYTES)


class ProbeServer:
    """Of one node."""

    def __init__(
        self,
        network: Network,
        *,
        exchanging: Callable[[], bool] = lambda: False,
        rate: Callable[[], float] = lambda: math.inf,
        dial: DialBack = dial_back,
        protocol: Callable[[], int] = lambda: PROTOCOL_VERSION,
    ) -> None:
        """Registers the protocol. `exchanging`: whether a round needs the connection. `rate`: bytes a second
        that may leave for others. `protocol`: the version that the swarm speaks."""
        self._company = network.company
        self._exchanging = exchanging
        self._rate = rate
        self._dial = dial
        self._protocol = protocol
        self._asks = Flow(
            Rate(limits.PROBES_PER_S, limits.PROBES_BURST),
            Rate(limits.STRANGERS_PROBES_PER_S, limits.STRANGERS_PROBES_BURST),
        )
        each = Rate(limits.DIAL_BACKS_PER_S, limits.DIAL_BACKS_BURST)
        self._peer_dials: Meters[bytes] = Meters(each)
        self._prefix_dials: Meters[str] = Meters(
            Rate(limits.PREFIX_DIAL_BACKS_PER_S, limits.PREFIX_DIAL_BACKS_BURST)
        )
        self._all_dials = Bucket(Rate(limits.ALL_DIAL_BACKS_PER_S, limits.ALL_DIAL_BACKS_BURST), 0.0)
        self._dials_running = 0
        self._peer_bytes: Meters[bytes] = Meters(Rate(limits.PROBE_BYTES_PER_S, limits.PROBE_BYTES_BURST))
        self._all_bytes = Bucket(Rate(limits.ALL_PROBE_BYTES_PER_S, limits.ALL_PROBE_BYTES_BURST), 0.0)
        self._transferring = asyncio.Lock()
        network.serve(PROBE, self._serve)

    async def _serve(self, channel: Channel) -> None:
        for _ in range(MAX_ASKS):
            frame = await channel.receive(timeout_s=IDLE_S)
            if len(frame.payload):
                raise RemoteError(channel.peer, "malformed", "an ask with a payload")
            ask = read_ask(frame.header, channel.peer)
            answer = await self._answer(channel, ask)
            await channel.send(msgspec.msgpack.encode(answer), timeout_s=ANSWER_S)
            if ask.do == "take" and answer.status != "ok":
                return  # what is under way is not read

    async def _answer(self, channel: Channel, ask: Ask) -> Answer:
        stranger = not self._company.is_wanted(channel.peer)
        if not self._asks.admit(channel.peer, 1, clock.now(), stranger=stranger):
            return Answer("busy")
        match ask.do:
            case "hello":
                return Answer(
                    "ok",
                    clock=time.time(),
                    address=channel.address or "",
                    version=version("talkoot")[:32],
                    protocol=self._protocol(),
                )
            case "echo":
                return Answer("ok")
            case "dial_back":
                return await self._dial_back(channel, ask.port)
            case _:
                return await self._transfer(channel, ask)

    # -- dialling back -------------------------------------------------------------------------------

    async def _dial_back(self, channel: Channel, port: int) -> Answer:
        if channel.address is None or port == 0:
            return Answer("ok")  # nobody knows where: unknown
        address = parse_address(channel.address)
        if not self._may_dial(channel.peer, prefix_of(address.to_bytes())):
            return Answer("busy")
        self._dials_running += 1
        try:
            outcome = await self._dial(address.host, port, channel.peer)
        finally:
            self._dials_running -= 1
        return Answer("ok", outcome=outcome)

    def _may_dial(self, peer: bytes, prefix: str | None) -> bool:
        now = clock.now()
        return (
            self._dials_running < limits.DIAL_BACKS_AT_ONCE
            and self._peer_dials.of(peer, now).try_take(1, now)
            and (prefix is None or self._prefix_dials.of(prefix, now).try_take(1, now))
            and self._all_dials.try_take(1, now)
        )

    # -- transfers -----------------------------------------------------------------------------------

    async def _transfer(self, channel: Channel, ask: Ask) -> Answer:
        """Bytes in one direction, unless a round is under way or somebody else's bytes are."""
        now, cost = clock.now(), ask.num_bytes
        refusal: Status | None = None
        if self._exchanging():
            refusal = "exchanging"
        elif (
            self._transferring.locked()
            or not self._peer_bytes.of(channel.peer, now).try_take(cost, now)
            or not self._all_bytes.try_take(cost, now)
        ):
            refusal = "busy"
        if refusal is not None:
            return Answer(refusal)
        async with self._transferring:
            try:
                async with asyncio.timeout(TRANSFER_S):
                    return await (self._send if ask.do == "send" else self._take)(channel, cost)
            except TimeoutError:
                if ask.do == "send":
                    raise
                return Answer("busy")  # a slow line is no offence

    async def _send(self, channel: Channel, num_bytes: int) -> Answer:
        """Send so many bytes, or fewer if a round begins."""
        sent = 0
        while sent < num_bytes:
            if self._exchanging():
                return Answer("exchanging")
            block = _BLOCK[: num_bytes - sent]
            await channel.send(b"", block, timeout_s=TRANSFER_S)
            sent += len(block)
            if (pause_s := len(block) / self._rate()) > 0:
                await asyncio.sleep(pause_s)
        return Answer("ok")

    async def _take(self, channel: Channel, num_bytes: int) -> Answer:
        if await take(channel, num_bytes) is not None:
            raise RemoteError(channel.peer, "malformed", "an ask in the middle of a transfer")
        return Answer("ok")


async def take(channel: Channel, num_bytes: int) -> Frame | None:
    """Receive so much payload; a frame with a header that comes before it is all is returned.

    Raises RemoteError (`refused` when there is more).
    """
    arrived = 0
    while arrived < num_bytes:
        frame = await channel.receive()
        if frame.header:
            return frame
        arrived += len(frame.payload)
    if arrived > num_bytes:
        raise RemoteError(channel.peer, "refused", "more than was announced")
    return None
