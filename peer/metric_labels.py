"""Counters with one label: few values, each made once, the known ones exported as 0 from the start."""

import re
from collections.abc import Iterable, Mapping

from prometheus_client import Counter

OTHER = "other"
"""What every value becomes that is ill-formed or one too many."""

MAX_VALUES = 40
"""Label values of one metric unless it says otherwise. A peer, an address or an error text is never one."""

_WELL_FORMED = re.compile(r"[a-z0-9][a-z0-9_./-]{0,47}")


class LabelledCounter:
    """A counter by the value of its one label."""

    def __init__(self, family: Counter, known: Iterable[str], *, max_values: int = MAX_VALUES) -> None:
        self._family = family
        self._max_values = max_values
        self._children: dict[str, Counter] = {}
        self._seen: dict[str, float] = {}
        for value in known:
            self._children[value] = family.labels(value)

    def inc(self, value: str, amount: float = 1) -> None:
        """Count `amount` under `value`. From any thread."""
        self._child(value).inc(amount)

    def follow(self, totals: Mapping[str, float]) -> None:
        """Catch up with totals that are counted elsewhere and never fall. From one thread."""
        for value, total in totals.items():
            seen = self._seen.get(value, 0)
            if total > seen:
                self._child(value).inc(total - seen)
                self._seen[value] = total

    def _child(self, value: str) -> Counter:
        child = self._children.get(value)
        if child is not None:
            return child
        full = len(self._children) >= self._max_values - (OTHER not in self._children)
        if full or not _WELL_FORMED.fullmatch(value):
            value = OTHER
        child = self._family.labels(value)
        self._children[value] = child
        return child


class FollowedCounter:
    """A counter of something that is counted elsewhere: told the total, not the difference."""

    def __init__(self, family: Counter) -> None:
        self._family = family
        self._seen = 0.0

    def follow(self, total: float) -> None:
        """Catch up with a total that never falls. From one thread."""
        if total > self._seen:
            self._family.inc(total - self._seen)
            self._seen = total
