"""The order in which nodes are visited on the way to a place in hivemind's key space (Kademlia). Pure.

A node of a swarm stands where the hash of its key is, so a place is computed and never believed.
"""

import hashlib
from collections.abc import Iterable

WIDTH = 8
"""So many of the nearest nodes are visited; a record is kept by the nearest five."""
MAX_VISITS = 32
"""Nodes visited in one search, whatever they answer."""
MAX_KNOWN = 512
"""Nodes that one search remembers; the furthest are forgotten."""


def place_of(key: bytes) -> bytes:
    """Where a peer's node is in the key space."""
    return hashlib.sha1(key, usedforsecurity=False).digest()


def distance(key: bytes, target: bytes) -> int:
    """How far a peer's node is from a place."""
    return int.from_bytes(place_of(key), "big") ^ int.from_bytes(target, "big")


class Search:
    """One search. `take` a node, visit it, say how it went with `done`.

    It is over when `take` gives none and none is being visited.
    """

    def __init__(self, target: bytes, seeds: Iterable[bytes], *, avoid: Iterable[bytes] = ()) -> None:
        """`seeds` are visited first, in their order; `avoid` never."""
        self._target = target
        self._seeds = list(dict.fromkeys(seeds))
        self._left_out = set(avoid)
        self._waiting: set[bytes] = set()
        self._failed: set[bytes] = set()
        self.answered: list[bytes] = []
        """Nodes that answered."""
        self.visits = 0
        self.under_way: set[bytes] = set()
        """Nodes that are being visited."""

    def take(self) -> bytes | None:
        """The next node to visit; None: there is none now."""
        if self.visits >= MAX_VISITS:
            return None
        key = self._next()
        if key is not None:
            self._waiting.discard(key)
            self.under_way.add(key)
            self.visits += 1
        return key

    def done(self, key: bytes, neighbours: Iterable[bytes] | None) -> None:
        """A visit is over; `neighbours` are the keys that the node named, None if it did not answer."""
        self.under_way.discard(key)
        if neighbours is None:
            self._failed.add(key)
            return
        self.answered.append(key)
        seen = {*self.answered, *self._failed, *self.under_way, *self._left_out}
        self._waiting |= {each for each in neighbours if each not in seen}
        if len(self._waiting) > MAX_KNOWN:
            self._waiting = set(self._nearest(self._waiting)[:MAX_KNOWN])

    def nearest(self, count: int) -> list[bytes]:
        """The nearest nodes that answered."""
        return self._nearest(self.answered)[:count]

    def _next(self) -> bytes | None:
        while self._seeds:
            key = self._seeds.pop(0)
            if key not in {*self.answered, *self._failed, *self.under_way, *self._left_out}:
                return key
        near = self._nearest({*self._waiting, *self.answered, *self.under_way})[:WIDTH]
        return next((key for key in near if key in self._waiting), None)

    def _nearest(self, keys: Iterable[bytes]) -> list[bytes]:
        return sorted(keys, key=lambda key: distance(key, self._target))
