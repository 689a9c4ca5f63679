"""Upload and download of one node held to their limits, and counted. On the event loop."""

import asyncio
import math
from dataclasses import dataclass

from talkoot.dht.allowance import Allowance

RATE_S = 5.0
"""Time over which the rates of now are measured, at least."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes that the network carried since the node began, headers included."""

    sent: int = 0
    received: int = 0


class Pacing:
    """What channels ask before they send or read on, and who measures the network tells."""

    def __init__(self) -> None:
        self.upload = Allowance()
        self.download = Allowance()
        self.carried = Carried()
        self.rates = (0.0, 0.0)
        """Bytes a second that were sent and received lately."""
        self._before = (-math.inf, self.carried)
        self.waited_s = 0.0
        """Time for which the limits held back what was ready to be sent."""

    @property
    def limited(self) -> bool:
        """Whether there is a limit in either direction."""
        return self.upload.limited or self.download.limited

    def limit(self, upload: float, download: float) -> None:
        """Bytes a second from now on; 0: no limit."""
        now = _now()
        self.upload.limit(upload, now)
        self.download.limit(download, now)

    def measured(self, sent: int, received: int) -> None:
        """The network carried so much since the last time."""
        now = _now()
        self.carried = Carried(self.carried.sent + sent, self.carried.received + received)
        self.upload.measured(sent, now)
        self.download.measured(received, now)
        elapsed_s, before = now - self._before[0], self._before[1]
        if elapsed_s >= RATE_S:
            gone, come = self.carried.sent - before.sent, self.carried.received - before.received
            self.rates = gone / elapsed_s, come / elapsed_s
            self._before = now, self.carried

    async def leave(self, num_bytes: int, *, urgent: bool = False) -> None:
        """Wait until so many bytes may be sent."""
        wait_s = self.upload.pay(num_bytes, _now(), urgent=urgent)
        if wait_s > 0:
            self.waited_s += wait_s
            await asyncio.sleep(wait_s)

    def arrived(self, num_bytes: int, *, urgent: bool = False) -> float:
        """So many bytes were read; the seconds until more may be."""
        return self.download.pay(num_bytes, _now(), urgent=urgent)


def _now() -> float:
    return asyncio.get_running_loop().time()
