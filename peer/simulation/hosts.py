"""A simulated computer: its clocks, whether it is frozen, and what its disk does.

Code runs on behalf of a host when its context says so (`here`); tasks, timers and callbacks inherit that
from the task that made them. The event loop and the disks ask `here` whose clock and whose disk it is.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import Random

here: "ContextVar[Host | None]" = ContextVar("host", default=None)
"""The host that the running code belongs to; None for the simulation itself."""


def nothing() -> None:
    """What happens at a power cut until somebody says what."""


@dataclass(eq=False, slots=True)
class Host:
    """One computer. Its monotonic clock shows `offset + rate * t` when `t` seconds have passed."""

    random: Random
    """For what its disk does."""
    offset: float = 0.0
    rate: float = 1.0
    wall_offset_s: float = 0.0
    """Of its wall clock."""
    frozen: bool = False
    """While it is, nothing runs here; what became due runs when that ends, as after a SIGSTOP."""
    parked: "deque[asyncio.Handle]" = field(default_factory=deque)
    full: bool = False
    """Whether writing fails for lack of space."""
    refused: bool = False
    """Whether a write failed for that since the node was started."""
    fuse: int | None = None
    """Steps of writing until the power is cut; None: it stays."""
    on_power_cut: Callable[[], None] = nothing
    synced: dict[int, int] = field(default_factory=dict)
    """Bytes of each file (by inode) that are on the disk for good."""

    def local(self, t: float) -> float:
        """What its monotonic clock shows after `t` seconds."""
        return self.offset + self.rate * t

    def true(self, local: float) -> float:
        """When its monotonic clock shows that."""
        return (local - self.offset) / self.rate
