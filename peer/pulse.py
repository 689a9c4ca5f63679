"""Who is there and how far away: pings to connected peers, farewells, and silence.

A process that is frozen or a cable that is cut keeps its connection for a long time. Whoever leaves a ping
unanswered and says nothing else for `SILENT_S` is not waited for until it is heard again, and its channels
are opened anew, in case that they lead nowhere. Whoever says that it leaves is not waited for at once, until
it pings again: meanwhile it only answers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from talkoot.averaging.messages import Leave, Message, Ping, Pong
from talkoot.peer import clock

PING_S = 10.0
"""Pause between two pings to one peer."""

SILENT_S = 25.0
"""A ping that stays unanswered for so long, with nothing else heard, is silence."""

MAX_SILENT = 256
"""Silent peers that are remembered."""

WEIGHT = 0.25
"""Of a new round trip against those before."""


@dataclass(slots=True)
class _Partner:
    """What we know of one connection."""

    heard_s: float
    nonce: int = 0
    asked_s: float | None = None
    """When the unanswered ping was sent; None when there is none."""
    round_trip_s: float | None = None
    left: bool = False


class Pulse:
    """State of all connections. Call `run` as a service."""

    def __init__(
        self,
        send: Callable[[bytes, Message], None],
        on_change: Callable[[], None],
        reconnect: Callable[[bytes], None],
    ) -> None:
        """`on_change` is told when somebody became absent or present; `reconnect` opens channels anew."""
        self._send = send
        self._on_change = on_change
        self._reconnect = reconnect
        self._silent: set[bytes] = set()
        """Also while they are not connected: that a silent peer's host takes a connection says nothing."""
        self._partners: dict[bytes, _Partner] = {}
        self._left = False
        """Whether we said that we leave."""
        self.on_round_trip: Callable[[float], object] = lambda _seconds: None
        """Told how long each answered ping took, in seconds."""

    def follow(self, connected: frozenset[bytes]) -> None:
        """These are the connected peers now; what was known of the others is forgotten."""
        now = clock.now()
        self._partners = {peer: self._partners.get(peer) or _Partner(now) for peer in sorted(connected)}

    def rerouted(self, peer: bytes) -> None:
        """The peer is reached by another way: what was measured on the one before says nothing of this
        one."""
        partner = self._partners.get(peer)
        if partner is not None:
            partner.round_trip_s, partner.asked_s = None, None

    def absent(self, peer: bytes) -> bool:
        """Whether nobody should wait for this peer, though it is connected."""
        partner = self._partners.get(peer)
        return peer in self._silent or (partner is not None and partner.left)

    def round_trip_s(self) -> float:
        """The slowest round trip to a peer that is present; 0 when none was measured."""
        present = (partner for peer, partner in self._partners.items() if not self.absent(peer))
        return max((partner.round_trip_s or 0.0 for partner in present), default=0.0)

    def heard(self, peer: bytes) -> None:
        """Anything came from this peer."""
        partner = self._partners.get(peer)
        if partner is not None:
            partner.heard_s = clock.now()
        if peer in self._silent:
            self._silent.remove(peer)
            if partner is not None:
                partner.asked_s = None
            self._on_change()

    def receive(self, peer: bytes, message: Ping | Pong | Leave) -> None:
        """A message about the connection."""
        partner = self._partners.get(peer)
        if isinstance(message, Ping):
            self._send(peer, Pong(round=0, attempt=0, nonce=message.nonce))
            if partner is not None and partner.left:
                partner.left = False
                self._on_change()
        elif partner is None:
            return
        elif isinstance(message, Leave):
            partner.left = True
            self._on_change()
        elif partner.asked_s is not None and message.nonce == partner.nonce:
            seconds = clock.now() - partner.asked_s
            self.on_round_trip(seconds)
            before = partner.round_trip_s
            partner.asked_s = None
            partner.round_trip_s = seconds if before is None else before + WEIGHT * (seconds - before)

    def left(self) -> None:
        """We have said that we leave: who hears a ping of ours would wait for us again."""
        self._left = True

    def back(self) -> None:
        """We are there again: everybody hears it at once."""
        self._left = False
        for partner in self._partners.values():
            partner.asked_s = None
        self._ask(clock.now())

    async def run(self) -> None:
        """Ping until cancelled."""
        planned = clock.now()
        while True:
            now = clock.now()
            if now - planned > PING_S:  # it was we who slept: nobody had a chance to answer
                for partner in self._partners.values():
                    partner.asked_s = None
            if not self._left:
                self._ask(now)
            planned = now + PING_S
            await asyncio.sleep(PING_S)

    def _ask(self, now: float) -> None:
        silent = []
        for peer, partner in self._partners.items():
            if partner.asked_s is None:
                partner.nonce, partner.asked_s = partner.nonce + 1, now
                self._send(peer, Ping(round=0, attempt=0, nonce=partner.nonce))
            elif now - max(partner.asked_s, partner.heard_s) >= SILENT_S:
                silent.append(peer)
        if len(self._silent) > MAX_SILENT:
            self._silent.clear()
        self._silent.update(silent)
        for peer in silent:
            self._reconnect(peer)
        if silent:
            self._on_change()
