"""Who has a reservation, which circuits there are, and what each of them may still pass. Decides; pure.

Every refusal has its reason. Peers are named by their PeerIDs as bytes; `now` is a steady clock's, in
seconds.
"""

from dataclasses import dataclass, field
from typing import Literal

from talkoot.dht.relay.buckets import Bucket, Buckets
from talkoot.dht.relay.config import RelayLimits

Refusal = Literal[
    "outsider",  # no valid record of a swarm that is served
    "directory",  # the directory cannot be asked, so nobody new is known
    "full",  # as many as the node takes
    "memory",  # the node has no memory left
    "draining",  # the relay is stopping
    "flood",  # asks in a loop
    "malformed",  # a message that is none
    "no_reservation",  # the target of the circuit has none
    "circuits",  # the target, or the asker, has as many as it may have
    "quota",  # the target has used up its bytes
    "unreachable",  # the target did not take the circuit
]
REFUSALS: tuple[Refusal, ...] = (
    "outsider", "directory", "full", "memory", "draining", "flood", "malformed", "no_reservation", "circuits",
    "quota", "unreachable",
)  # fmt: skip

Asking = Literal["heard", "refused", "loop"]
End = Literal["ended", "lost", "bytes", "quota", "time", "idle", "stalled", "stopped"]
ENDS: tuple[End, ...] = ("ended", "lost", "bytes", "quota", "time", "idle", "stalled", "stopped")
"""How a circuit came to its end: by its peers, by a lost connection, or cut: by its own bytes, those of the
reservation, its time, silence, a receiver that takes nothing, the relay's end."""

MAX_STRANGER_SHARE = 4
"""Peers without a record have at most one circuit in so many."""
_ASK_BURST = 2
_HOUR_S = 3600.0


class CutOff(Exception):  # noqa: N818 - what happens to a circuit
    """A circuit has used up what it may pass."""

    def __init__(self, end: End) -> None:
        super().__init__(end)
        self.end: End = end


@dataclass(slots=True)
class Reservation:
    """A target's."""

    expires: float
    """By `now`'s clock."""
    circuits: int = 0


@dataclass(slots=True)
class Circuit:
    """What one circuit may pass. Made by `Book.connect`; `Book.close` it."""

    source: bytes
    target: bytes
    stranger: bool
    left_bytes: int
    paces: tuple[Bucket, ...]
    quota: Bucket
    passed_bytes: int = 0
    is_open: bool = field(default=True)

    def charge(self, count: int, now: float) -> float:
        """Pass so many bytes; seconds to wait before the next. Raises CutOff."""
        if count > self.left_bytes:
            raise CutOff("bytes")
        if not self.quota.take(count, now):
            self.quota.draw(self.quota.level(now), now)  # the rest, too: it begins again with a hundredth
            raise CutOff("quota")
        self.left_bytes -= count
        self.passed_bytes += count
        return max(pace.draw(count, now) for pace in self.paces)


class Book:
    """The relay's accounts. A reservation's bytes are counted over all its circuits and outlive it: to
    give it up and ask again wins nothing."""

    def __init__(self, limits: RelayLimits, now: float) -> None:
        self.limits = limits
        self.draining = False
        self.short_of_memory = False
        self._reservations: dict[bytes, Reservation] = {}
        self._circuits: dict[bytes, int] = {}  # by source
        self._num_circuits = 0
        self._num_strangers = 0
        self._pace = Bucket(limits.rate, limits.rate, now)
        self._paces = Buckets[bytes](limits.reservation_rate, limits.reservation_rate)
        self._quotas = Buckets[bytes](limits.reservation_bytes, limits.reservation_bytes / _HOUR_S)
        self._asks = Buckets[bytes](_ASK_BURST * limits.requests_per_peer, limits.requests_per_peer / 60)

    @property
    def num_reservations(self) -> int:
        """Reservations now, expired ones included until they are looked at."""
        return len(self._reservations)

    @property
    def num_circuits(self) -> int:
        """Circuits now."""
        return self._num_circuits

    def asked(self, peer: bytes, now: float) -> Asking:
        """Count a request of a peer: whether it is to be heard, is one too many, or comes out of a loop."""
        asks = self._asks.of(peer, now)
        if asks.take(1, now):
            return "heard"
        asks.draw(1, now)
        return "loop" if asks.level(now) < -self.limits.requests_per_peer else "refused"

    def has_reservation(self, peer: bytes, now: float) -> bool:
        """Whether a peer has one that holds."""
        held = self._reservations.get(peer)
        return held is not None and held.expires > now

    def expected(self, peer: bytes, now: float) -> Refusal | None:
        """Why a peer would be refused a reservation even if it belongs to a swarm; None if it would not."""
        if self.draining:
            return "draining"
        if self.has_reservation(peer, now):
            return None
        if self.short_of_memory:
            return "memory"
        if len(self._reservations) >= self.limits.reservations:
            self._expire(now)
        return "full" if len(self._reservations) >= self.limits.reservations else None

    def reserve(self, peer: bytes, now: float) -> Refusal | None:
        """Make or renew a reservation; why not, None if it is made."""
        refusal = self.expected(peer, now)
        if refusal is None:
            held = self._reservations.setdefault(peer, Reservation(0.0))
            held.expires = now + self.limits.reservation_s
        return refusal

    def drop(self, peer: bytes) -> None:
        """A peer is gone, and with it its reservation."""
        self._reservations.pop(peer, None)

    def connect(self, source: bytes, target: bytes, *, member: bool, now: float) -> Circuit | Refusal:
        """A circuit from `source` to `target`, or why not; `member`: the source has, or lately had, a
        record."""
        limits, held = self.limits, self._reservations.get(target)
        if self.draining:
            return "draining"
        if held is None or held.expires <= now or source == target:
            return "no_reservation"
        if self._num_circuits >= limits.circuits:
            return "full"
        if self.short_of_memory:
            return "memory"
        of_source = self._circuits.get(source, 0)
        most = limits.reservation_circuits if member else limits.stranger_circuits
        strangers_full = self._num_strangers >= max(1, limits.circuits // MAX_STRANGER_SHARE)
        if held.circuits >= limits.reservation_circuits or of_source >= most:
            return "circuits"
        if not member and strangers_full:
            return "circuits"
        quota = self._quotas.of(target, now)
        if quota.level(now) < quota.capacity / 100:
            return "quota"
        held.circuits += 1
        self._circuits[source] = of_source + 1
        self._num_circuits += 1
        self._num_strangers += not member
        paces = (
            Bucket(limits.circuit_rate, limits.circuit_rate, now),
            self._paces.of(target, now),
            self._pace,
        )
        return Circuit(source, target, not member, limits.circuit_bytes, paces, quota)

    def close(self, circuit: Circuit) -> None:
        """A circuit is over. Once more does nothing."""
        if not circuit.is_open:
            return
        circuit.is_open = False
        self._num_circuits -= 1
        self._num_strangers -= circuit.stranger
        left = self._circuits[circuit.source] - 1
        if left:
            self._circuits[circuit.source] = left
        else:
            del self._circuits[circuit.source]
        held = self._reservations.get(circuit.target)
        if held is not None and held.circuits:
            held.circuits -= 1

    def _expire(self, now: float) -> None:
        for peer in [peer for peer, held in self._reservations.items() if held.expires <= now]:
            if not self._reservations[peer].circuits:
                del self._reservations[peer]
