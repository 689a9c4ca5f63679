"""How far a download of the outer state is, for people."""

from collections import deque
from collections.abc import Callable

from talkoot.peer import clock
from talkoot.peer.checks import Checks

WINDOW_S = 10.0
"""The rate is that of so many last seconds."""

SAMPLE_S = 0.5
"""Pause between two samples."""


class SyncProgress:
    """Counts while a download runs. In the event loop's thread."""

    def __init__(self, now: Callable[[], float] = clock.now, checks: Checks | None = None) -> None:
        self.checks = checks or Checks()
        """Told of each chunk."""
        self.total_bytes = 0
        """Of the whole state."""
        self.done_bytes = 0
        """Verified and in place, with what was found on the disk."""
        self.found_bytes = 0
        """Of them, found on the disk."""
        self.received_bytes = 0
        """Of chunks, whatever became of them."""
        self.wasted_bytes = 0
        """Of them, wrong or not needed any more."""
        self.sources: tuple[str, ...] = ()
        """Peer ids of those who give chunks at present."""
        self._now = now
        self._samples: deque[tuple[float, int]] = deque()

    def begin(self, total_bytes: int) -> None:
        """A download begins, or begins anew with another state."""
        self.total_bytes, self.done_bytes = total_bytes, 0
        self.found_bytes = self.received_bytes = self.wasted_bytes = 0
        self._samples.clear()
        self._samples.append((self._now(), 0))

    def found(self, num_bytes: int) -> None:
        """Bytes that need not be fetched."""
        self.found_bytes += num_bytes
        self.done_bytes += num_bytes

    def received(self, num_bytes: int, *, wasted: bool = False) -> None:
        """A chunk came, and is in place unless it was wasted."""
        self.received_bytes += num_bytes
        if wasted:
            self.wasted_bytes += num_bytes
        else:
            self.done_bytes += num_bytes
        now = self._now()
        if now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, self.received_bytes))
        while now - self._samples[0][0] > WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """Bytes a second that came lately; 0 as long as that is not known."""
        if not self._samples:
            return 0.0
        began, before = self._samples[0]
        seconds = self._now() - began
        return (self.received_bytes - before) / seconds if seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds that it will take still at this rate; None while nothing comes."""
        rate = self.rate
        return (self.total_bytes - self.done_bytes) / rate if rate > 0 else None


def words(progress: SyncProgress) -> str:
    """A line for the log."""
    done, total = progress.done_bytes / 1e6, progress.total_bytes / 1e6
    left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
    sources = len(progress.sources)
    return (
        f"{done:,.0f} of {total:,.0f} MB, {progress.rate / 1e6:.1f} MB/s{left}, "
        f"{sources} source{'s' * (sources != 1)}"
    )
