"""How fast bytes have come lately, for deciding how much to ask for."""

from collections import deque

WINDOW_S = 5.0
"""The rate is that of so many last seconds,"""

LEAST_S = 1.0
"""and of so many at least: what a limit had saved up comes at once, and says nothing about what follows."""


class Arriving:
    """Counts bytes. Times are those of a monotonic clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._total = 0
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def add(self, num_bytes: int, now: float) -> None:
        """So many more came."""
        self._total += num_bytes
        self._samples.append((now, self._total))
        while len(self._samples) > 1 and now - self._samples[1][0] >= WINDOW_S:
            self._samples.popleft()

    def rate(self, now: float) -> float:
        """Bytes a second."""
        began, before = self._samples[0]
        return (self._total - before) / max(now - began, LEAST_S)
