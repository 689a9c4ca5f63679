"""Which of p2pd's connections are too many: p2pd itself has no limits but the number of files. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from talkoot.dht import limits


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of p2pd."""

    name: bytes
    """Multihash of the other side's PeerID."""
    peer: bytes | None
    """Its key; None: it has no Ed25519 key, and no business with us."""
    prefix: str | None
    """Prefix of its address; None: unknown, or through a relay."""
    relay: bytes | None = None
    """The relay that it goes through (empty: one without a key that we can name); None: none."""


class ConnectionGuard:
    """Remembers who came when, so that who was there first stays."""

    def __init__(
        self,
        *,
        max_connections: int = limits.MAX_CONNECTIONS,
        per_prefix: int = limits.CONNECTIONS_PER_PREFIX,
    ) -> None:
        self._strangers = max_connections - min(limits.RESERVED_CONNECTIONS, max_connections // 2)
        self._per_prefix = per_prefix
        self._since: dict[bytes, int] = {}
        self._look = 0

    def too_many(
        self,
        connections: Iterable[Connection],
        *,
        chosen: Callable[[bytes], bool],
        banned: Collection[bytes],
    ) -> dict[bytes, str]:
        """Whom to disconnect, by multihash, and why: `banned`, `unauthenticated`, `peer`, `prefix`, `node`.

        Who is `chosen` is disconnected only if banned. Of the others those that came last go first.
        """
        found: dict[bytes, list[Connection]] = defaultdict(list)
        for connection in connections:
            found[connection.name].append(connection)
        self._look += 1
        self._since = {name: self._since.get(name, self._look) for name in found}
        cut: dict[bytes, str] = {}
        prefixes: Counter[str] = Counter()
        strangers = 0
        for name in sorted(found, key=lambda name: self._since[name]):
            theirs = found[name]
            peer = theirs[0].peer
            if peer in banned:
                cut[name] = "banned"
            elif peer is not None and chosen(peer):
                continue
            elif len(theirs) > limits.CONNECTIONS_PER_PEER:
                cut[name] = "peer"
            elif any(prefixes[c.prefix] >= self._per_prefix for c in theirs if c.prefix is not None):
                cut[name] = "prefix"
            elif strangers + len(theirs) > self._strangers:
                cut[name] = "node"
            else:
                strangers += len(theirs)
                prefixes.update(c.prefix for c in theirs if c.prefix is not None)
        return dict(list(cut.items())[: limits.MAX_CUT_AT_ONCE])
