"""Whose slices a leader hardly waits for: who kept it waiting lately. Its own opinion, told to nobody.

A contributor that gives its slices to some only is left out, and nobody can prove who is at fault. But a
leader that waits for it each time would let one peer stretch every round to the deadline. Who does so is
waited for about as long again as the others took, and counts when it is in time. Rounds in which it was not
waited for to the end are not held against it, so that it is tried again.
"""

from collections import Counter, deque
from collections.abc import Collection

WATCHED = 16
"""Exchanges that a leader remembers, of those that it led."""

TIMES = 2
"""Who let so many of them come to their deadline is hardly waited for: at most so many of `WATCHED` do."""


class Patience:
    """Of one peer, as leader. Kept by the driver from round to round."""

    def __init__(self) -> None:
        self._late: deque[frozenset[bytes]] = deque(maxlen=WATCHED)

    def exchanged(self, late: Collection[bytes]) -> None:
        """An exchange that we led is over; these we waited for in vain, to the end."""
        self._late.append(frozenset(late))

    @property
    def exhausted(self) -> frozenset[bytes]:
        """Who is hardly waited for."""
        counts = Counter(key for late in self._late for key in late)
        return frozenset(key for key, count in counts.items() if count >= TIMES)
