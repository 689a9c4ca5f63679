"""How many channels may be open: per peer and protocol, peer, address prefix, protocol, and for the node."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from talkoot.dht import limits
from talkoot.dht.meter import Meters, Rate
from talkoot.dht.network import ProtocolSpec

Verdict = Literal["ok", "busy", "flood"]


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who opens a channel: key, prefix of its address and that itself (None: not known), whether we chose it,
    and the relay that it comes through (None: none)."""

    peer: bytes
    prefix: str | None = None
    chosen: bool = False
    address: str | None = None
    relay: bytes | None = None


class ChannelLimits:
    """Counts accepted channels. Pure."""

    def __init__(
        self, max_channels: int = limits.MAX_CHANNELS, per_prefix: int = limits.CONNECTIONS_PER_PREFIX
    ) -> None:
        """`per_prefix`: connections of strangers of one prefix; they get a few channels each."""
        self._max_channels = max_channels
        self._reserved = min(limits.RESERVED_CHANNELS, max_channels // 2)
        self._per_prefix = per_prefix * limits.CHANNELS_PER_CONNECTION
        self._open: Counter[tuple[bytes, str]] = Counter()
        self._peers: Counter[bytes] = Counter()
        self._prefixes: Counter[str] = Counter()
        self._protocols: Counter[str] = Counter()
        self._strangers = 0
        self._openings: Meters[bytes] = Meters(Rate(limits.OPENINGS_PER_S, limits.OPENINGS_BURST))
        self._prefix_openings: Meters[str] = Meters(
            Rate(limits.PREFIX_OPENINGS_PER_S, limits.PREFIX_OPENINGS_BURST)
        )

    def enter(self, visitor: Visitor, spec: ProtocolSpec, now: float) -> Verdict:
        """Count one more channel (`ok`), unless a limit is reached.

        `flood`: this peer opens them faster than an honest one ever would.
        """
        if not self._openings.of(visitor.peer, now).try_take(1, now):
            return "flood"
        if not self._has_room(visitor, spec, now):
            return "busy"
        self._count(visitor, spec, 1)
        return "ok"

    def leave(self, visitor: Visitor, spec: ProtocolSpec) -> None:
        """One channel that `enter` admitted is gone; `visitor` as it was then."""
        self._count(visitor, spec, -1)

    def _has_room(self, visitor: Visitor, spec: ProtocolSpec, now: float) -> bool:
        if (
            self._peers.total() >= self._max_channels
            or self._peers[visitor.peer] >= limits.CHANNELS_PER_PEER
            or self._open[visitor.peer, spec.name] >= spec.max_channels_per_peer
        ):
            return False
        if visitor.chosen:
            return True
        if self._strangers >= self._max_channels - self._reserved:
            return False
        if self._protocols[spec.name] >= limits.CHANNELS_PER_PROTOCOL:
            return False
        prefix = visitor.prefix
        return prefix is None or (
            self._prefixes[prefix] < self._per_prefix
            and self._prefix_openings.of(prefix, now).try_take(1, now)
        )

    def _count(self, visitor: Visitor, spec: ProtocolSpec, change: int) -> None:
        _add(self._open, (visitor.peer, spec.name), change)
        _add(self._peers, visitor.peer, change)
        if not visitor.chosen:
            self._strangers += change
            _add(self._protocols, spec.name, change)
            if visitor.prefix is not None:
                _add(self._prefixes, visitor.prefix, change)


def _add(counts: Counter[Any], key: object, change: int) -> None:
    counts[key] += change
    if not counts[key]:
        del counts[key]
