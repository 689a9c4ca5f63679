"""What the user asks of a running node: pause, resume, finish. It holds after a restart, too.

`finish` is a pause that begins when the running round is over, whoever it counts.
"""

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from talkoot.dht.errors import ConfigError
from talkoot.peer.guest.holds import local_time
from talkoot.peer.small_files import read_small, write_small

if TYPE_CHECKING:
    from talkoot.peer.node import Node

log = logging.getLogger("talkoot.node")

LONGEST_S = 366 * 86400.0
"""Longest pause with an end: another one is a mistake, or has none."""

LOOK_S = 30.0
"""Between two looks at the clock, which may be set."""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of `orders.json`."""

    paused: bool = False
    until: float | None = None
    """Unix time at which the pause ends; None: when the user says so."""
    after: Annotated[int, Meta(ge=0)] | None = None
    """Rounds after which a pause begins."""


class PauseOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a request to pause; neither: until the user says so."""

    seconds: float | None = None
    until: float | None = None
    """Unix time."""


def decode(data: bytes) -> Order:
    """The order in a file. Raises ValueError."""
    try:
        return msgspec.json.decode(data, type=Order)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class Orders:
    """Of one node's user. `load`, then `run` as a service. On the event loop."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._order = Order()
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()

    @property
    def after(self) -> int | None:
        """The rounds after which the node pauses, if the user has asked for that."""
        return self._order.after

    async def load(self) -> None:
        """Go on with what the last process was told."""
        path = self._node.paths.orders
        try:
            data = await asyncio.to_thread(read_small, path)
            order = decode(data) if data is not None else Order()
        except (ConfigError, ValueError) as error:
            log.warning("%s cannot be read, and is left aside: %s", path, error)
            return
        self._obey(order)

    async def pause(self, order: PauseOrder) -> None:
        """Rest from now on. Raises ValueError for a time that makes no sense."""
        until, now = order.until, time.time()
        if order.seconds is not None:
            if until is not None:
                raise ValueError("give the seconds or the end of a pause, not both")
            until = now + order.seconds
        if until is not None and not now < until <= now + LONGEST_S:
            raise ValueError("a pause ends later than now, and within a year")
        await self._order_is(Order(paused=True, until=until))

    async def resume(self) -> None:
        """Neither rest nor begin to, as far as the user is concerned."""
        await self._order_is(Order())

    async def finish(self) -> None:
        """Rest once the running round is over. Raises ValueError while there is none."""
        if self._node.holdings is None:
            raise ValueError("this peer is not in the swarm yet: pause it, or try again in a moment")
        if not self._order.paused:
            await self._order_is(Order(after=self._node.holdings.ledger.round + 1))

    def round_over(self) -> None:
        """The node holds a new state."""
        self._changed.set()

    async def run(self) -> None:
        """Begin and end pauses when it is time, until cancelled."""
        while True:
            self._changed.clear()
            order, holdings = self._order, self._node.holdings
            if order.until is not None and time.time() >= order.until:
                await self._order_is(Order())
            elif order.after is not None and holdings is not None and holdings.ledger.round >= order.after:
                await self._order_is(Order(paused=True))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._changed.wait()

    def _pause_s(self) -> float | None:
        if self._order.until is None:
            return None
        return min(LOOK_S, max(0.0, self._order.until - time.time()))

    async def _order_is(self, order: Order) -> None:
        """It holds at once, also where the disk does not take it."""
        self._obey(order)
        async with self._writing:
            try:
                await asyncio.to_thread(
                    write_small, self._node.paths.orders, msgspec.json.encode(self._order)
                )
            except ConfigError as error:
                log.warning("a restart will not know of this order: %s", error)

    def _obey(self, order: Order) -> None:
        self._order = order
        self._changed.set()
        holds = self._node.holds
        if order.paused:
            detail = f"until {local_time(order.until)}" if order.until is not None else ""
            holds.put("user", detail, until=order.until)
        else:
            holds.lift("user")
        if order.after is not None:
            log.info("pauses once round %d is over", order.after - 1)
