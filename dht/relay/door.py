"""Which connections come in at all: so many in all, so many and so fast from one prefix. Pure."""

from collections import Counter
from typing import Literal

from talkoot.dht.relay.buckets import Buckets
from talkoot.dht.relay.config import RelayLimits

Shut = Literal["connections", "prefix", "rate", "handshakes", "banned", "draining"]
SHUT: tuple[Shut, ...] = ("connections", "prefix", "rate", "handshakes", "banned", "draining")
"""Why a connection was closed at the door."""

_BURST = 10


class Door:
    """Counts connections by where they come from. `place` is a /24 or /48; empty for this machine itself,
    which only the limits of the whole node hold for."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._rates = Buckets[str](_BURST * limits.accepts_per_prefix, limits.accepts_per_prefix)
        self._of: Counter[str] = Counter()
        self._banned: dict[bytes, float] = {}
        self.handshakes = 0
        self.draining = False

    @property
    def num_connections(self) -> int:
        """Connections that are in, handshakes included."""
        return self._of.total()

    def enter(self, place: str, now: float) -> Shut | None:
        """Let one in and count it, or say why not. `leave` it afterwards."""
        if self.draining:
            return "draining"
        if place and not self._rates.of(place, now).take(1, now):
            return "rate"
        if place and self._of[place] >= self._limits.connections_per_prefix:
            return "prefix"
        if self.num_connections >= self._limits.connections:
            return "connections"
        if self.handshakes >= self._limits.handshakes:
            return "handshakes"
        self._of[place] += 1
        self.handshakes += 1
        return None

    def leave(self, place: str) -> None:
        """One that had come in is gone."""
        self._of[place] -= 1
        if self._of[place] <= 0:
            del self._of[place]

    def ban(self, peer: bytes, now: float) -> None:
        """Refuse a peer for a while."""
        self._banned = {key: until for key, until in self._banned.items() if until > now}
        if len(self._banned) < 4096:
            self._banned[peer] = now + self._limits.cutoff_s

    def is_banned(self, peer: bytes, now: float) -> bool:
        """Whether a peer is refused now."""
        return self._banned.get(peer, 0.0) > now
