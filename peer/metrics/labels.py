"""Metrics with labels: few values, each made once, the known ones exported as 0 from the start."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from itertools import product

from prometheus_client import Counter, Gauge

from talkoot.peer.metrics.family import OTHER, Family

MAX_EXACT = 128
"""Words before folding that are remembered."""


class LabelledCounter:
    """A counter by the value of its one label. Counting under a known word is a look-up and an addition."""

    def __init__(
        self, counter: Counter, known: Iterable[str], fold: Callable[[str], str] = lambda word: word
    ) -> None:
        """`fold` makes a value of a finer word; what is no value then counts as `other`."""
        self._counter = counter
        self._fold = fold
        self._children = {value: counter.labels(value) for value in known}
        self.exact: Tally[str] = Tally()
        """The words as they came, for people."""

    def inc(self, word: str, amount: float = 1) -> None:
        """Count `amount` under `word`. From any thread."""
        child = self._children.get(self._fold(word))
        if child is None:
            child = self._children.setdefault(OTHER, self._counter.labels(OTHER))
        child.inc(amount)
        if word in self.exact or len(self.exact) < MAX_EXACT:
            self.exact[word] += amount  # type: ignore[assignment]  # seconds count as well


class Follow:
    """Counts what is counted elsewhere, in totals that never fall: one for each owner of such totals, which
    begin at 0 with it. From one thread."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], float] = {}

    def total(self, counter: Counter, total: float) -> None:
        """Catch up with a total."""
        seen = self._seen.get((id(counter), ""), 0)
        if total > seen:
            counter.inc(total - seen)
            self._seen[id(counter), ""] = total

    def totals(self, counter: LabelledCounter, totals: Mapping[str, float]) -> None:
        """Catch up with totals by word."""
        for word, total in list(totals.items()):
            seen = self._seen.get((id(counter), word), 0)
            if total > seen:
                counter.inc(word, total - seen)
                self._seen[id(counter), word] = total


class LabelledGauge:
    """A gauge by the values of its labels, all of them there from the start."""

    def __init__(self, gauge: Gauge, family: Family) -> None:
        combinations = product(*(label.values for label in family.labels))
        self._children = {values: gauge.labels(*values) for values in combinations}

    def show(self, numbers: Mapping[tuple[str, ...], float]) -> None:
        """Set those that are given, and all others to 0. Unknown combinations are left out."""
        for values, child in self._children.items():
            child.set(numbers.get(values, 0))

    def show_one(self, value: str) -> None:
        """1 for this value of the one label, 0 for the others; all 0 if it is none of them."""
        self.show({(value,): 1})

    def child(self, *values: str) -> Gauge:
        """One of the series."""
        return self._children[values]
