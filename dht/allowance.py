"""How many bytes may pass in one direction: a bucket that all traffic of the node is taken from. Pure.

What this node hands over itself is paid for before it goes on its way. What the network carries beside that
(the directory, relays, encryption, headers, what is sent twice) shows only afterwards, when the interface
is measured; it is taken from the same bucket, so that payers wait for it.
"""

LOWEST_RATE = 64e3
"""Bytes a second: a message of one mebibyte has to pass within the 30 s for which others wait for it, with
what keeps a node in touch beside it."""

BURST_S = 0.5
"""What may be saved up, in seconds of the rate."""

URGENT_DEBT_S = 2.0
"""What is urgent passes at once until the debt is so many seconds of the rate."""

SLICE_S = 0.05
SLICE_BYTES = (8 * 1024, 256 * 1024)
"""Frames pass in slices that take so long, of so many bytes at least and at most."""

PREPAID_S = 5.0
"""What was paid for and never seen on the network is forgotten beyond so many seconds of the rate: it was
given up on the way."""


class Allowance:
    """One direction. Without a limit it does nothing."""

    def __init__(self) -> None:
        self.rate = 0.0
        """Bytes a second; 0: no limit."""
        self.slice_bytes = SLICE_BYTES[1]
        """What is to be paid for at a time."""
        self._level = self._at = 0.0
        self._prepaid = 0.0  # paid for, and not seen on the network yet

    @property
    def limited(self) -> bool:
        """Whether anybody has to pay."""
        return self.rate > 0

    def limit(self, rate: float, now: float) -> None:
        """From now on so many bytes a second; 0: no limit. What was owed is still owed."""
        self._settle(now)
        self._level = min(self._level, rate * BURST_S) if self.rate else rate * BURST_S
        self._prepaid = self._prepaid if self.rate and rate else 0.0
        self.rate = rate
        least, most = SLICE_BYTES
        self.slice_bytes = int(min(most, max(least, rate * SLICE_S))) if rate else most

    def pay(self, num_bytes: int, now: float, *, urgent: bool = False) -> float:
        """Take the bytes; the seconds to wait before they may pass. Whoever pays first passes first."""
        if not self.rate:
            return 0.0
        self._settle(now)
        self._level -= num_bytes
        self._prepaid = min(self._prepaid + num_bytes, self.rate * PREPAID_S)
        level = self._level + (URGENT_DEBT_S * self.rate if urgent else 0.0)
        return max(0.0, -level / self.rate)

    def measured(self, num_bytes: int, now: float) -> None:
        """So many bytes were seen on the network since the last time."""
        if not self.rate:
            return
        self._settle(now)
        self._prepaid -= num_bytes
        if self._prepaid < 0:
            self._level += self._prepaid
            self._prepaid = 0.0

    def _settle(self, now: float) -> None:
        if self.rate:
            elapsed_s = max(0.0, now - self._at)
            self._level = min(self._level + elapsed_s * self.rate, self.rate * BURST_S)
        self._at = now
