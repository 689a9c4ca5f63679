"""How often what was fetched of outer states was checked, and what did not fit."""

from collections import Counter
from typing import Literal

What = Literal["chunk", "digest", "certificate"]
"""A chunk against its leaf; the leaves and the ledger against a certified digest; a chain of certificates."""


class Checks:
    """Counts, since the node began."""

    def __init__(self) -> None:
        self.made = 0
        """All of them."""
        self.failed: Counter[str] = Counter()
        """Those that did not fit, by what was checked."""

    def passed(self) -> None:
        """Something fits."""
        self.made += 1

    def refused(self, what: What) -> None:
        """Something does not."""
        self.made += 1
        self.failed[what] += 1
