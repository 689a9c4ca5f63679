"""A node's lives in one process: when a disk that fails has ended one, the next begins once it takes writes.

A running node waits for its disk by itself (`talkoot.peer.disk`). This is for what it cannot wait for in
place: a start, or a state that the disk has lost. What was committed is on the disk, so a new life is a
restart without the seconds that loading the program takes. Until then the node shows `paused: disk`.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from talkoot.peer import clock
from talkoot.peer.disk import DiskLost, causes, fault_of, takes_writes
from talkoot.peer.node import Node

log = logging.getLogger("talkoot.node")

LOOK_S = 2.0
"""Pause between two looks at the disk, and before the next life."""

SHORT_S = 60.0
"""A life that ends sooner doubles the pause, up to this: a small file that is written does not show all."""


class Lives:
    """The present life is `node`."""

    def __init__(self, make: Callable[[], Node]) -> None:
        """`make` gives a node that has not run, in the same state directory each time."""
        self._make = make
        self._pause_s = LOOK_S
        self.node = make()

    async def run(self) -> None:
        """Until the node is told to stop, or fails for another reason. Raises what `Node.run` does."""
        while not await self._live():
            await self._until_well()
            if self.node.stopping.is_set():
                return
            before, self.node = self.node, self._make()
            self.node.go_on_from(before)

    async def _live(self) -> bool:
        """One life; False if its disk has ended it."""
        node, began = self.node, clock.now()
        try:
            await node.run()
        except Exception as error:
            kind = disk_fault(error)
            if kind is None:
                raise
            log.info("this life has ended: %s", next(iter(causes(error))))
            short = clock.now() - began < SHORT_S
            self._pause_s = min(2 * self._pause_s, SHORT_S) if short else LOOK_S
            node.pause(kind, error)
            return False
        finally:
            if node.holdings is not None:
                node.holdings.close()
        return True

    async def _until_well(self) -> None:
        node = self.node
        pause_s = self._pause_s
        while not node.stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await node.stopping.wait()
            if await asyncio.to_thread(takes_writes, node.paths.path):
                return
            pause_s = LOOK_S


def disk_fault(error: BaseException) -> str | None:
    """The kind of disk fault that ended a life, if it was one."""
    return fault_of(error) or ("io" if any(isinstance(cause, DiskLost) for cause in causes(error)) else None)
