"""The daemon's clock: the event loop's, so that a loop with a virtual clock simulates whole nodes."""

import asyncio


def now() -> float:
    """Seconds on the running loop's monotonic clock."""
    return asyncio.get_running_loop().time()
