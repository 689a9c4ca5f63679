"""What must happen once the faults have ended: all commit within `HEAL_ROUNDS` rounds, and take part again.

A round counts as new when nobody held its certificate at the end of the faults. A peer has committed a new
round when it holds that round's outcome, computed or fetched, and has taken part when it was in the roster.
"""

from collections import Counter
from collections.abc import Iterable

HEAL_ROUNDS = 3
"""Of the first so many new rounds every peer must hold one, wherever its faults left it."""


class Liveness:
    """Begins when the faults end. Heads are told to it in the order in which they come."""

    def __init__(self, peers: Iterable[bytes], held: Iterable[bytes]) -> None:
        """`peers` are all that must come along; `held` are the states that peers had as heads until now."""
        self._held = frozenset(held)
        self._committed: Counter[bytes] = Counter(dict.fromkeys(peers, 0))
        self._taken_part: set[bytes] = set()

    def head(self, peer: bytes, state: bytes, present: Iterable[bytes]) -> bool:
        """A peer has a new head with this digest, of a round with this roster.

        False when that is one round too many: the peer is beyond `HEAL_ROUNDS`, and another has none.
        """
        if state in self._held:
            return True
        self._committed[peer] += 1
        if peer in present:
            self._taken_part.add(peer)
        return self._committed[peer] <= HEAL_ROUNDS or not self.without_commit

    @property
    def without_commit(self) -> list[bytes]:
        """Peers that have no new round yet."""
        return [peer for peer, count in self._committed.items() if count == 0]

    def healed(self, states: Iterable[bytes | None]) -> bool:
        """Whether all took part in a new round, and hold one state, a new one.

        `states` has the digest that each peer holds, None for one that holds none at present.
        """
        if len(self._taken_part) < len(self._committed):
            return False
        (state, *others) = set(states)
        return not others and state is not None and state not in self._held
