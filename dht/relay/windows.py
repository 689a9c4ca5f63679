"""Receive windows: wide while there are few circuits, as narrow as yamux has them when there are many. Pure.

So a relay with few circuits is fast over long ways, and one with many needs no more memory than a fixed
amount.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from talkoot.dht.relay.yamux import FIRST_WINDOW

WIDE = 2 * FIRST_WINDOW
"""What the other side may send ahead on a wide stream: 10 MB/s over 50 ms."""
FEW = 16
"""Circuits of which each may be wide."""


class Resizable(Protocol):
    """A stream."""

    def resize(self, window: int) -> None:
        """Let the other side send so many bytes ahead."""


class Windows:
    """All circuits' windows."""

    def __init__(self, total_bytes: int) -> None:
        """`total_bytes`: of memory for windows beyond the first ones."""
        self.left_bytes = total_bytes
        self._wide: list[Sequence[Resizable]] = []
        self._count = 0

    @contextlib.contextmanager
    def of(self, streams: Sequence[Resizable]) -> Iterator[None]:
        """The windows of one circuit's two streams, as long as it lives."""
        self._count += 1
        if self._count > FEW:
            self._narrow()
        elif self.left_bytes >= _more(streams):
            self.left_bytes -= _more(streams)
            self._wide.append(streams)
            _resize(streams, WIDE)
        try:
            yield
        finally:
            self._count -= 1
            if any(each is streams for each in self._wide):
                self._wide = [each for each in self._wide if each is not streams]
                self.left_bytes += _more(streams)

    def _narrow(self) -> None:
        for streams in self._wide:
            _resize(streams, FIRST_WINDOW)
            self.left_bytes += _more(streams)
        self._wide.clear()


def _more(streams: Sequence[Resizable]) -> int:
    return len(streams) * (WIDE - FIRST_WINDOW)


def _resize(streams: Sequence[Resizable], window: int) -> None:
    for stream in streams:
        stream.resize(window)
