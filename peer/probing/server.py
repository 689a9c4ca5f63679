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
from talkoot.dht.network import Channel, Network
from talkoot.peer import clock
from talkoot.peer.manifest import PROTOCOL_VERSION
from talkoot.peer.probing.protocol import (
    BLOCK_BYTES,
    DRAIN_S,
    IDLE_S,
    MAX_ASKS,
    PROBE,
    TRANSFER_BYTES,
    TRANSFER_S,
    Answer,
    Ask,
    read_ask,
)

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
    ) -> None:
        """Registers the protocol. `exchanging`: whether a round needs the connection. `rate`: bytes a second
        that may leave for others."""
        self._company = network.company
        self._exchanging = exchanging
        self._rate = rate
        self._dial = dial
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
        self._transfer = asyncio.Lock()
        network.serve(PROBE, self._serve)

    async def _serve(self, channel: Channel) -> None:
        for _ in range(MAX_ASKS):
            frame = await channel.receive(timeout_s=IDLE_S)
            if len(frame.payload):
                raise RemoteError(channel.peer, "malformed", "an ask with a payload")
            ask = read_ask(frame.header, channel.peer)
            answer = await self._answer(channel, ask)
            await channel.send(msgspec.msgpack.encode(answer), timeout_s=ANSWER_S)
            if ask.do in ("send", "take"):
                return  # what is still under way belongs to nothing

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
                    protocol=PROTOCOL_VERSION,
                )
            case "echo":
                return Answer("ok")
            case "dial_back":
                return await self._dial_back(channel, ask.port)
            case _:
                return await self._time(channel, ask)

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

    async def _time(self, channel: Channel, ask: Ask) -> Answer:
        """Time bytes in one direction, unless somebody else's are under way or a round is."""
        if self._exchanging():
            return Answer("exchanging")
        now, cost = clock.now(), ask.num_bytes if ask.do == "send" else TRANSFER_BYTES
        if (
            self._transfer.locked()
            or not self._peer_bytes.of(channel.peer, now).try_take(cost, now)
            or not self._all_bytes.try_take(cost, now)
        ):
            return Answer("busy")
        async with self._transfer:
            await channel.send(msgspec.msgpack.encode(Answer("ok")), timeout_s=ANSWER_S)
            return await (self._send(channel, ask.num_bytes) if ask.do == "send" else self._take(channel))

    async def _send(self, channel: Channel, num_bytes: int) -> Answer:
        """Send so many bytes, or what leaves in time."""
        began, sent = clock.now(), 0
        while sent < num_bytes and clock.now() - began < TRANSFER_S and not self._exchanging():
            block = _BLOCK[: num_bytes - sent]
            await channel.send(b"", block, timeout_s=DRAIN_S)
            sent += len(block)
            if (pause_s := len(block) / self._rate()) > 0:
                await asyncio.sleep(pause_s)
        return Answer("ok", num_bytes=sent)

    async def _take(self, channel: Channel) -> Answer:
        """Count what arrives, until the asker says that it was all or the time is over."""
        return await take(channel, limit_s=TRANSFER_S + DRAIN_S, stop=self._exchanging)


async def take(channel: Channel, *, limit_s: float, stop: Callable[[], bool] = lambda: False) -> Answer:
    """What arrived after the first frame, and in what time; ends with a frame that has a header.

    Raises RemoteError (`refused` when there is more than may be), TimeoutError if nothing comes at all.
    """
    first = last = 0.0
    arrived = 0
    try:
        async with asyncio.timeout(limit_s):
            while not stop():
                frame = await channel.receive()
                if frame.header:
                    break
                last = clock.now()
                if first:
                    arrived += len(frame.payload)
                first = first or last
                if arrived > TRANSFER_BYTES:
                    raise RemoteError(channel.peer, "refused", "more than a transfer has")
    except TimeoutError:
        if not first:
            raise
    return Answer("ok", num_bytes=min(arrived, TRANSFER_BYTES), seconds=max(0.0, last - first))
