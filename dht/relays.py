"""Which relays a node asks for a reservation, which it holds, and which it leaves alone for a while. Pure.

Relays come from several sources, the most trusted first; what anybody can announce comes last and is never
more than a few at a time. Two are held, so that the death of one is survived at once. What a relay says of
itself counts for nothing: it is asked, and measured, and one that refuses, breaks or delays is remembered and
comes last.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

from blake3 import blake3

from talkoot.dht.hop import Reservation
from talkoot.dht.multiaddr import Address, addresses_of, parse_address
from talkoot.dht.records import PeerRecord

Source: TypeAlias = Literal["operator", "invite", "manifest", "directory"]
"""Who named a relay: whoever runs this node, the invite, the manifest, or a record that anybody can make."""

SOURCES: tuple[Source, ...] = get_args(Source)

HELD = 2
"""Reservations that are held."""
AT_ONCE = 3
"""Relays that are asked at a time."""
MAX_NAMED = 16
"""Relays of one source that count."""
MAX_TRIED = 8
"""Of those of the directory, so many are looked at at a time: the ones that peers use, then by lot."""
MAX_REMEMBERED = 512
"""Relays whose faults are remembered, those of late."""
MAX_ADDRESSES = 4
"""Addresses of one relay that are tried."""
REFRESH_S = 30.0
"""A reservation that is held is asked for again after so long: that shows whether the relay is alive."""
LATE_S = 3.0
"""An answer that takes longer than this, from a relay that is connected, is a fault."""
RETRY_S = (1.0, 600.0)
"""First and longest pause after a fault; doubled by each in a row."""
RETRY_ALONE_S = 30.0
"""Longest pause while there is no reservation at all, and for a relay that does not know us yet."""
SETTLED_S = 1.0
"""A list of connections may be so much older than a reservation."""
RETRY_FULL_S = 30.0
"""Shortest pause after a relay had no place."""
FORGET_S = 1800.0
"""A relay without a new fault for so long has none."""
BREAKS, BREAKS_S = 4, 120.0
"""A relay through which channels broke or stood still so many times within so long is left for another."""
SAME_BREAK_S = 10.0
"""What breaks with one peer within so long counts once: all its channels end when it dies."""

Fault: TypeAlias = Literal[
    "unreachable", "timeout", "late", "refused", "full", "denied", "malformed", "lost", "breaks"
]
"""Why a relay was not had, or was left."""

FAULTS: tuple[Fault, ...] = get_args(Fault)


@dataclass(slots=True)
class _Record:
    """What was seen of a relay."""

    faults: int = 0
    """In a row."""
    retry_at: float = -math.inf
    faulted_at: float = -math.inf
    round_trip_s: float = math.inf
    breaks: list[tuple[bytes, float]] = field(default_factory=list)
    """With whom channels through it broke, and when."""


@dataclass(slots=True)
class _Held:
    expires: float
    refresh_at: float
    place: Address | None
    since: float


class Relays:
    """All relays of one node. Times are of one clock that only goes forward."""

    def __init__(self, salt: bytes = b"") -> None:
        """`salt`: the node's secret, so that nobody can make relays that it tries first."""
        self.wanted = False
        """Whether reservations are of use: nobody knows that this node can be dialled."""
        self.instead = False
        """Whether nobody can dial this node: what it announces is then its own network and its relays. A dial
        to an address that cannot work may leave traces in routers for minutes, which keep holes shut."""
        self.faults: Counter[str] = Counter()
        """How often relays failed this node, by `Fault`."""
        self.without_since: float | None = None
        """Since when one is wanted and none is held."""
        self._salt = salt
        self._named: dict[Source, dict[bytes, tuple[Address, ...]]] = {source: {} for source in SOURCES}
        self._used: Counter[bytes] = Counter()
        self._records: OrderedDict[bytes, _Record] = OrderedDict()
        self._held: dict[bytes, _Held] = {}
        self._asking: set[bytes] = set()

    # -- where they come from ------------------------------------------------------------------------

    def name(self, source: Source, relays: Mapping[bytes, Sequence[Address]]) -> None:
        """These are all the relays that a source names, the first ones count; not what goes through
        another."""
        usable = {
            key: tuple(address for address in places if address.relay is None)[:MAX_ADDRESSES]
            for key, places in relays.items()
        }
        keys = sorted(usable, key=self._lot) if source == "directory" else usable
        self._named[source] = {key: usable[key] for key in keys if usable[key]}

    def used_by(self, peers: Mapping[bytes, Iterable[Address]]) -> None:
        """Through which relays peers of the swarm say that they can be reached: those are tried first."""
        self._used = Counter()
        for places in peers.values():
            self._used.update({place.relay for place in places if place.relay is not None})

    @property
    def known(self) -> frozenset[bytes]:
        """Relays whose connections are not to be closed in favour of others'."""
        return frozenset(self._held) | self._asking

    def places(self, relay: bytes) -> tuple[Address, ...]:
        """Where a relay may be dialled, as the best source has it."""
        return next((named[relay] for named in self._named.values() if relay in named), ())

    def note(self, records: Iterable[PeerRecord]) -> None:
        """What the directory holds now: relays that announce themselves, and through which ones peers are
        reached."""
        announced: dict[bytes, list[Address]] = {}
        used: dict[bytes, list[Address]] = {}
        for record in records:
            there, _ = addresses_of(record.key, record.addresses)
            (announced if record.role == "relay" else used)[record.key] = there
        self.name("directory", announced)
        self.used_by(used)

    # -- what to do ----------------------------------------------------------------------------------

    def due(self, now: float) -> list[bytes]:
        """Relays to ask for a reservation now. Each is to be answered for with one of the methods below."""
        if not self.wanted:
            self._held.clear()  # they lapse
        self._mark(now)
        if not self.wanted:
            return []
        again = [
            key for key, held in self._held.items() if held.refresh_at <= now and key not in self._asking
        ]
        missing = HELD - len(self._held)
        free = [key for key in self.ranked(now) if key not in self._held and key not in self._asking]
        ready = [key for key in free if self._record(key).retry_at <= now]
        asking = len(self._asking - self._held.keys())
        chosen = again + (ready[: max(0, AT_ONCE - asking)] if missing > 0 else [])
        self._asking.update(chosen)
        return chosen

    def ranked(self, now: float) -> list[bytes]:
        """All relays that may be asked, the best first: by who named them, faults, use by peers, round trip,
        lot."""
        order: dict[bytes, int] = {}
        for rank, source in enumerate(SOURCES):
            keys, most = list(self._named[source]), MAX_NAMED
            if source == "directory":
                keys.sort(key=lambda key: (self._is_bad(key, now), -self._used[key]))
                most = MAX_TRIED
            for key in keys[:most]:
                order.setdefault(key, rank)
        return sorted(
            order,
            key=lambda key: (
                self._is_bad(key, now),
                order[key],
                -self._used[key],
                self._peek(key).round_trip_s,
                self._lot(key),
            ),
        )

    # -- what came of it -----------------------------------------------------------------------------

    def reserved(
        self,
        relay: bytes,
        reservation: Reservation,
        now: float,
        *,
        round_trip_s: float,
        place: Address | None,
    ) -> None:
        """A relay gave a reservation; `place` is where it was reached. A late answer counts as a fault, and
        the reservation as long as there is no better one."""
        self._asking.discard(relay)
        record = self._record(relay)
        record.round_trip_s = round_trip_s
        known = self._held.get(relay)
        if not self.wanted or (known is None and len(self._held) >= HELD):
            return  # not needed any more
        refresh_s = min(REFRESH_S, reservation.seconds / 3)
        place = place or (known.place if known is not None else None)
        self._held[relay] = _Held(now + reservation.seconds, now + refresh_s, place, now)
        if round_trip_s > LATE_S:
            self._fault(relay, "late", now)
            if len(self._held) > 1:
                del self._held[relay]
        elif now - record.faulted_at > BREAKS_S:
            record.faults = 0
        self._mark(now)

    def failed(self, relay: bytes, fault: Fault, now: float) -> None:
        """It was asked, and did not give one."""
        self._asking.discard(relay)
        self._held.pop(relay, None)
        self._fault(relay, fault, now)
        self._mark(now)

    def connected(self, relays: Iterable[bytes], now: float) -> None:
        """The peers that there is a connection of our own with: a reservation ends with it."""
        there = set(relays)
        for relay, held in list(self._held.items()):
            if held.expires <= now or (relay not in there and now - held.since > SETTLED_S):
                del self._held[relay]
                self._fault(relay, "lost", now)
        self._mark(now)

    def broke(self, relay: bytes, peer: bytes, now: float) -> None:
        """A channel with `peer` through this relay was cut, or stood still. One that we do not hold is none
        of ours."""
        if relay not in self._held:
            return
        record = self._record(relay)
        late = [(who, at) for who, at in record.breaks if now - at < BREAKS_S]
        same = any(who == peer and now - at < SAME_BREAK_S for who, at in late)
        record.breaks = (late if same else [*late, (peer, now)])[-BREAKS:]
        if len(record.breaks) >= BREAKS and len(self._held) > 1:
            record.breaks = []
            del self._held[relay]
            self._fault(relay, "breaks", now)

    def drop(self, now: float) -> None:
        """p2pd is gone, and every connection with it; no relay's fault."""
        self._held.clear()
        self._asking.clear()
        self._mark(now)

    # -- what there is -------------------------------------------------------------------------------

    @property
    def held(self) -> frozenset[bytes]:
        """Relays at which this node has a reservation."""
        return frozenset(self._held)

    def circuits(self) -> tuple[Address, ...]:
        """Addresses through which this node can be dialled: the place where we reached each relay, and those
        that were named by somebody other than the relay."""
        found: dict[Address, None] = {}
        for relay, held in sorted(self._held.items()):
            named = (self._named[source].get(relay, ()) for source in SOURCES if source != "directory")
            told = next(filter(None, named), ())
            for place in [*filter(None, [held.place]), *told][:2]:
                found[Address(place.kind, place.host, place.port, relay=relay)] = None
        return tuple(found)

    def told(self) -> tuple[str, ...]:
        """Relays to tell a newcomer of, as multiaddrs: those that are held, then those that people named."""
        named = [key for source in SOURCES if source != "directory" for key in self._named[source]]
        places = {key: self.places(key)[:1] for key in (*sorted(self._held), *named)}
        return tuple(str(replace(place, peer=key)) for key, found in places.items() for place in found)

    def next_s(self, now: float) -> float:
        """Seconds until something may be due."""
        if not self.wanted:
            return math.inf
        times = [held.refresh_at for key, held in self._held.items() if key not in self._asking]
        if len(self._held) < HELD and len(self._asking - self._held.keys()) < AT_ONCE:
            others = (key for key in self.ranked(now) if key not in self._held and key not in self._asking)
            times += [self._peek(key).retry_at for key in others]
        return max(0.0, min(times, default=math.inf) - now)

    # -- memory --------------------------------------------------------------------------------------

    def _mark(self, now: float) -> None:
        if self._held or not self.wanted:
            self.without_since = None
        elif self.without_since is None:
            self.without_since = now

    def _fault(self, relay: bytes, fault: Fault, now: float) -> None:
        self.faults[fault] += 1
        record = self._record(relay)
        record.faults = record.faults + 1 if now - record.faulted_at < FORGET_S else 1
        record.faulted_at = now
        most_s = RETRY_S[1] if self._held and fault != "denied" else RETRY_ALONE_S
        pause_s = min(most_s, RETRY_S[0] * 2.0 ** min(record.faults - 1, 20))
        if fault == "full":
            pause_s = max(pause_s, RETRY_FULL_S)
        if fault in ("malformed", "breaks"):
            pause_s = RETRY_S[1]
        record.retry_at = now + pause_s

    def _is_bad(self, relay: bytes, now: float) -> bool:
        record = self._peek(relay)
        return record.faults > 0 and now - record.faulted_at < FORGET_S

    def _peek(self, relay: bytes) -> _Record:
        return self._records.get(relay) or _Record()

    def _record(self, relay: bytes) -> _Record:
        record = self._records.setdefault(relay, _Record())
        self._records.move_to_end(relay)
        while len(self._records) > MAX_REMEMBERED:
            self._records.popitem(last=False)
        return record

    def _lot(self, relay: bytes) -> bytes:
        return blake3(self._salt + relay).digest()


def by_relay(texts: Iterable[str]) -> dict[bytes, list[Address]]:
    """The relays of a list of multiaddrs, each with /p2p/<peer id> at its end. Raises ValueError."""
    found: dict[bytes, list[Address]] = {}
    for address in map(parse_address, texts):
        if address.peer is None:
            raise ValueError(f"{str(address)!r} does not end in /p2p/<peer id>")
        found.setdefault(address.peer, []).append(address)
    return found
