"""Whom to visit next of the peers that announce themselves, and what visits showed. Pure.

Anybody can announce peers that do not exist, and addresses that are not its own. So peers that answered
before come first, one address is not tried twice within a minute whoever announces it, and where the invite's
addresses are public no private one is tried.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from talkoot.dht.multiaddr import Address

Path = Literal["direct", "relayed", "unreachable", "unknown"]
"""How a peer is reached from here: dialled; only through a relay, by its own word; not; not tried yet."""

AGAIN_S = 60.0
"""Pause between two visits of a peer that answered."""
FAILED_S = 240.0
"""The same of one that did not."""
SAME_PLACE_S = 60.0
"""Pause between two tries of one address, whoever announces it."""
MAX_PLACES = 8192
"""Addresses whose last try is remembered."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What the last visit of a peer showed."""

    path: Path
    at_s: float
    rtt_s: float | None = None
    """One question and its answer on an open connection."""
    clock_offset_s: float | None = None
    """How far the peer's clock is ahead of ours."""


class Visits:
    """Visits of one swarm's peers. `now` is of any steady clock."""

    def __init__(self, *, public: bool) -> None:
        """`public`: private addresses are not dialled."""
        self._public = public
        self._last: dict[bytes, Visit] = {}
        self._tried: dict[str, float] = {}

    @property
    def last(self) -> Mapping[bytes, Visit]:
        """By peer."""
        return self._last

    def due(self, peers: Iterable[bytes], now: float, *, most: int) -> list[bytes]:
        """Whom to visit now: those that answered before, then the never visited, then the others."""
        waiting = [(self._rank(peer), peer) for peer in peers if self._is_due(peer, now)]
        return [peer for _, peer in sorted(waiting)[:most]]

    def places(self, addresses: Sequence[Address], now: float) -> list[str]:
        """Those of a peer's addresses that may be dialled now, which are then taken for tried."""
        found = []
        for address in addresses:
            place = f"{address.host}/{address.port}"
            if address.relay is not None or not self._may_dial(address):
                continue
            if now - self._tried.get(place, -SAME_PLACE_S) >= SAME_PLACE_S:
                found.append(str(address))
                self._note(place, now)
        return found

    def note(self, peer: bytes, visit: Visit) -> None:
        """A visit is over."""
        self._last[peer] = visit

    def forget(self, present: Iterable[bytes]) -> None:
        """Drop what is known of peers that announce themselves no more."""
        kept = set(present)
        self._last = {peer: visit for peer, visit in self._last.items() if peer in kept}

    def _rank(self, peer: bytes) -> tuple[int, float]:
        last = self._last.get(peer)
        if last is None:
            return 1, 0.0
        return (0 if last.path == "direct" else 2), last.at_s

    def _is_due(self, peer: bytes, now: float) -> bool:
        last = self._last.get(peer)
        if last is None:
            return True
        return now - last.at_s >= (AGAIN_S if last.path == "direct" else FAILED_S)

    def _may_dial(self, address: Address) -> bool:
        if not self._public or address.kind not in ("ip4", "ip6"):
            return True
        return ipaddress.ip_address(address.host).is_global

    def _note(self, place: str, now: float) -> None:
        self._tried.pop(place, None)
        self._tried[place] = now
        if len(self._tried) > MAX_PLACES:
            del self._tried[next(iter(self._tried))]


def is_public(addresses: Iterable[Address]) -> bool:
    """Whether any of the addresses is one of the Internet."""
    return any(
        address.kind not in ("ip4", "ip6") or ipaddress.ip_address(address.host).is_global
        for address in addresses
    )
