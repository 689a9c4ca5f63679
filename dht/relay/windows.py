"""A bounded amount of memory for receive windows, shared out to circuits as they come. Pure."""

import contextlib
from collections.abc import Iterator

from talkoot.dht.relay.yamux import FIRST_WINDOW

WIDER = 3 * FIRST_WINDOW
"""More window for each direction of a circuit: a MiB in all."""


class Windows:
    """What is left of it."""

    def __init__(self, total_bytes: int) -> None:
        self.left_bytes = total_bytes

    @contextlib.contextmanager
    def wider(self) -> Iterator[int]:
        """More window for both directions of one circuit, or 0 if there is none left."""
        more = WIDER if self.left_bytes >= 2 * WIDER else 0
        self.left_bytes -= 2 * more
        try:
            yield more
        finally:
            self.left_bytes += 2 * more
