"""Who is to blame when contributions did not arrive everywhere in time."""

from collections import Counter
from collections.abc import Iterable


def blamed(missing: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Few peers that explain all missing deliveries (sender, receiver): a greedy vertex cover.

    A frozen peer lacks what the others sent, and they lack what it sent: whoever is part of most missing
    deliveries comes first, equals together, and what they explain is held against nobody else.
    """
    left = set(missing)
    guilty: set[bytes] = set()
    while left:
        counts = Counter(peer for pair in left for peer in set(pair))
        most = max(counts.values())
        worst = {peer for peer, count in counts.items() if count == most}
        guilty |= worst
        left = {pair for pair in left if worst.isdisjoint(pair)}
    return guilty
