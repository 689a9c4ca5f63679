"""Asking a peer for its metrics: one empty question, one bounded answer, over a channel of its own.

What is told is what the volunteer shares (`RunOptions.share_metrics`), to any peer that this node does not
refuse; it is collected at most once a second, however many ask.
"""

import asyncio
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from talkoot.dht import limits
from talkoot.dht.company import Company
from talkoot.dht.errors import RemoteError
from talkoot.dht.meter import Flow, Rate
from talkoot.dht.network import Channel, Events, Network, ProtocolSpec
from talkoot.peer import clock
from talkoot.peer.observing.report import MAX_REPORT_BYTES
from talkoot.peer.options import Share

FRESH_S = 1.0
"""A report is not older when it is sent."""

QUESTION_S = 5.0
ANSWER_S = 5.0
"""How long a question and an answer may take once the channel is open."""

Status = Literal["ok", "private", "busy"]


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Header of an answer; the payload holds the report."""

    status: Status
    """private: this peer shares none. busy: asked too often."""


def metrics_protocol(swarm: bytes) -> ProtocolSpec:
    """The protocol of one swarm."""
    return ProtocolSpec(
        name=f"talkoot/{swarm.hex()[:16]}/metrics/1",
        max_header=256,
        max_payload=MAX_REPORT_BYTES,
        max_channels_per_peer=2,
        max_request=0,
    )


class Dialler(Protocol):
    """As much of a network as those need who only ask."""

    events: Events
    company: Company

    async def dial(self, peer: bytes, protocol: ProtocolSpec, *, timeout_s: float) -> Channel:
        """As `Network.dial`."""


class Private(Exception):  # noqa: N818 - reads well where it is caught
    """The peer shares no metrics."""


class MetricsServer:
    """Answers other peers."""

    def __init__(
        self,
        network: Network,
        swarm: bytes,
        *,
        share: Share,
        refresh: Callable[[], None],
        take: Callable[[], bytes],
    ) -> None:
        """Registers the protocol. `refresh` is called on the event loop, then `take`, which gives the report,
        in a thread."""
        self._network = network
        self._share = share
        self._refresh = refresh
        self._take = take
        self._flow = Flow(
            Rate(limits.METRICS_PER_S, limits.METRICS_BURST),
            Rate(limits.STRANGERS_METRICS_PER_S, limits.STRANGERS_METRICS_BURST),
        )
        self._lock = asyncio.Lock()
        self._report: tuple[float, bytes] | None = None
        network.serve(metrics_protocol(swarm), self._serve)

    async def _serve(self, channel: Channel) -> None:
        frame = await channel.receive(timeout_s=QUESTION_S)
        if frame.header:
            raise RemoteError(channel.peer, "malformed", "a question that is not empty")
        status, report = await self._answer(channel.peer)
        await channel.send(msgspec.msgpack.encode(Answer(status)), report, timeout_s=ANSWER_S)

    async def _answer(self, peer: bytes) -> tuple[Status, bytes]:
        stranger = not self._network.company.is_wanted(peer)
        if not self._flow.admit(peer, 1, clock.now(), stranger=stranger):
            return "busy", b""
        if self._share == "none":
            return "private", b""
        async with self._lock:
            if self._report is None or clock.now() - self._report[0] > FRESH_S:
                self._refresh()
                self._report = clock.now(), await asyncio.to_thread(self._take)
            return "ok", self._report[1]


async def ask(network: Dialler, peer: bytes, swarm: bytes, *, timeout_s: float) -> bytes | memoryview:
    """A peer's report, not verified. Raises Private, RemoteError, TimeoutError; ends in time."""
    async with asyncio.timeout(timeout_s):
        channel = await network.dial(peer, metrics_protocol(swarm), timeout_s=timeout_s)
        try:
            return await hear(channel)
        finally:
            await channel.close()


async def hear(channel: Channel) -> bytes | memoryview:
    """Ask on an open channel. Raises as `ask` does."""
    await channel.send(b"", timeout_s=ANSWER_S)
    frame = await channel.receive(timeout_s=ANSWER_S)
    try:
        answer = msgspec.msgpack.decode(frame.header, type=Answer)
    except (ValueError, RecursionError) as error:
        raise RemoteError(channel.peer, "malformed", str(error)) from error
    if answer.status == "private":
        raise Private
    if answer.status != "ok":
        raise RemoteError(channel.peer, "busy", "asked too often")
    return frame.payload
