"""By which way each peer is reached: one word, from connections and from dials that failed. Pure."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from talkoot.dht.limits import MAX_PLACES

Path: TypeAlias = Literal["direct", "punched", "relayed", "unreachable", "unknown"]
"""`direct`: one side could dial the other. `punched`: it began through a relay, and there is a connection of
their own since. `relayed`: everything goes through a relay. `unreachable`: it was tried, and there is no
connection. `unknown`: nothing was tried, or the connection has ended."""

PATHS: tuple[Path, ...] = get_args(Path)


@dataclass(frozen=True, slots=True)
class Way:
    """One connection to a peer."""

    peer: bytes
    relay: bytes | None = None
    """The relay that it goes through; None: it goes through none."""


@dataclass(slots=True)
class _Seen:
    path: Path = "unknown"
    relay: bytes | None = None
    was_relayed: bool = False
    """The first connection since there was none went through a relay."""

    @property
    def is_connected(self) -> bool:
        return self.path not in ("unreachable", "unknown")


class Paths:
    """The way to each peer, as it was when the connections were last looked at."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    def look(self, ways: Iterable[Way]) -> None:
        """These are all the connections now."""
        best: dict[bytes, bytes | None] = {}
        for way in ways:
            if way.relay is not None:
                self.through(way.peer, way.relay)
            if way.relay is None or way.peer not in best:
                best[way.peer] = way.relay
        for peer in [peer for peer in self._seen if peer not in best]:
            self.gone(peer)
        for peer, relay in best.items():
            self.opened(peer, relay)

    def opened(self, peer: bytes, relay: bytes | None) -> None:
        """There is a connection to this peer, and none that is better."""
        seen = self._of(peer)
        if relay is not None:
            self.through(peer, relay)
        seen.path = "relayed" if relay is not None else "punched" if seen.was_relayed else "direct"
        seen.relay = relay

    def through(self, peer: bytes, relay: bytes) -> None:
        """There is a connection through a relay, perhaps beside a better one."""
        seen = self._of(peer)
        if not seen.is_connected:
            seen.was_relayed, seen.relay = True, relay

    def gone(self, peer: bytes) -> None:
        """The last connection to this peer has ended."""
        seen = self._seen.get(peer)
        if seen is not None and seen.is_connected:
            seen.path, seen.relay, seen.was_relayed = "unknown", None, False

    def failed(self, peer: bytes) -> None:
        """A dial found no way to this peer."""
        seen = self._of(peer)
        if not seen.is_connected:
            seen.path = "unreachable"

    def of(self, peer: bytes) -> Path:
        """The way to a peer."""
        seen = self._seen.get(peer)
        return "unknown" if seen is None else seen.path

    def connected(self) -> list[bytes]:
        """Peers that are reached without a relay."""
        return [peer for peer, seen in self._seen.items() if seen.path in ("direct", "punched")]

    def relay_of(self, peer: bytes) -> bytes | None:
        """The relay between, of one that is `relayed`."""
        seen = self._seen.get(peer)
        return seen.relay if seen is not None and seen.path == "relayed" else None

    def _of(self, peer: bytes) -> _Seen:
        """What is known of a peer, which is now the last to be forgotten."""
        seen = self._seen.setdefault(peer, _Seen())
        self._seen.move_to_end(peer)
        if len(self._seen) > MAX_PLACES:
            del self._seen[next((each for each in self._seen if not self._seen[each].is_connected), peer)]
        return seen
