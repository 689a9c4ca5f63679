"""Which peers that are connected through a relay are worth another try at a connection of our own. Pure.

p2pd punches holes by itself (DCUtR), but once for each relayed connection, at its beginning, and only if both
sides know by then under which address they appear. They know it when four others, on addresses of their own,
have told them, and look for that after 0.25, 0.75, 1.75, 3.75, 7.75, 12.75, 17.75... seconds. A relayed
connection made before is never punched. So it is closed and made anew, a few times, while nobody uses it.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

OBSERVERS = 4
"""Prefixes that we are connected with ourselves, without which p2pd does not know our address."""
PAUSES_S = (6.0, 8.0, 60.0, 600.0)
"""Time since the relayed connection was seen, and between tries. p2pd first dials what the other announces,
for 5 s: a try takes a little more. Behind some routers none succeeds, so they are few."""
TURN_S = 5.0
"""So much later the peer with the higher key tries, which may be the only one that knows a way."""
MAX_REMEMBERED = 1024
"""Peers of which tries are remembered, those seen last."""


@dataclass(slots=True)
class _Tried:
    since: float
    """When the connection was seen first, or tried last."""
    tries: int = 0


class Punching:
    """The tries of one life of p2pd."""

    def __init__(self, key: bytes) -> None:
        """`key`: ours. Of two peers the one with the lower key tries first, so that they do not cross."""
        self._key = key
        self._tried: OrderedDict[bytes, _Tried] = OrderedDict()

    def due(
        self, relayed: Collection[bytes], *, busy: Collection[bytes], observers: int, now: float
    ) -> list[bytes]:
        """Peers to connect with anew, now.

        `relayed`: all that are connected through relays only. `busy`: those with which something was
        exchanged since the last look. `observers`: prefixes that we have connections of our own with.
        """
        chosen = []
        for peer in relayed:
            tried = self._tried.setdefault(peer, _Tried(now))
            self._tried.move_to_end(peer)
            if observers < OBSERVERS:
                tried.since = now
            elif peer not in busy and self._is_time(peer, tried, now):
                tried.since, tried.tries = now, tried.tries + 1
                chosen.append(peer)
        while len(self._tried) > MAX_REMEMBERED:
            self._tried.popitem(last=False)
        return chosen

    def _is_time(self, peer: bytes, tried: _Tried, now: float) -> bool:
        if tried.tries >= len(PAUSES_S):
            return False
        turn_s = 0.0 if self._key < peer or tried.tries else TURN_S
        return now - tried.since >= PAUSES_S[tried.tries] + turn_s
