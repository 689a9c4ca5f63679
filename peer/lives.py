"""A node's lives in one process: when a full disk has ended one, the next begins as soon as there is room.

What was committed is on the disk, so a new life is a restart without the seconds that loading the program
takes. Until then the trainer is stopped and its memory free, and the node shows `paused: disk`.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

from talkoot.peer import clock
from talkoot.peer.node import Node
from talkoot.peer.swarming import DiskFull, NodeFailed

log = logging.getLogger("talkoot.node")

ROOM_BYTES = 4 << 20
"""Free space from which on a node goes on: the trainer's and the store's big files have theirs already."""

LOOK_S = 2.0
"""Pause between two looks at the free space, and before the next life."""

SHORT_S = 60.0
"""A life that ends sooner doubles the pause, up to this: free space does not show a quota."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


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
            await self._until_room()
            if self.node.stopping.is_set():
                return
            before, self.node = self.node, self._make()
            self.node.go_on_from(before)

    async def _live(self) -> bool:
        """One life; False if a full disk has ended it."""
        node, began = self.node, clock.now()
        try:
            await node.run()
        except (NodeFailed, OSError, ExceptionGroup) as error:
            if node.holdings is None or not disk_is_full(error):  # a disk too small to begin with is told
                raise
            log.warning("the disk of %s is full: paused until there is room", node.paths.path)
            short = clock.now() - began < SHORT_S
            self._pause_s = min(2 * self._pause_s, SHORT_S) if short else LOOK_S
            return False
        finally:
            if node.holdings is not None:
                node.holdings.close()
        return True

    async def _until_room(self) -> None:
        node = self.node
        node.pause("disk")
        pause_s = self._pause_s
        while not node.stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await node.stopping.wait()
            if node.paths.free_bytes() >= ROOM_BYTES:
                return
            pause_s = LOOK_S


def disk_is_full(error: BaseException) -> bool:
    """Whether a full disk is among the reasons."""
    return any(
        isinstance(cause, DiskFull) or (isinstance(cause, OSError) and cause.errno in FULL)
        for cause in causes(error)
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """What is inside of groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from causes(inner)
    else:
        yield error
