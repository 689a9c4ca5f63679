"""Holds the state directory to the volunteer's disk limit.

Checkpoints are what can go: the oldest first, never the newest, which is the last that is known to be good.
If the rest does not fit, the node is paused like one whose disk is full, until there is more room or less to
keep.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from talkoot.dht.errors import ConfigError
from talkoot.peer.checkpoints import stored
from talkoot.peer.manifest import Manifest
from talkoot.peer.residual import DISK_BYTES_PER_ELEMENT
from talkoot.peer.roundlog import limits_of
from talkoot.peer.store import OuterStore
from talkoot.peer.watch import used_bytes

if TYPE_CHECKING:
    from talkoot.peer.node import Node

log = logging.getLogger("talkoot.state")

LOOK_S = 5.0
"""Pause between two looks."""

TRAINER_BYTES_PER_ELEMENT = 3 * 4 + 2 * 5 * 4
"""Snapshots: two and the next one. Saved local work: five vectors, and the next beside them."""

OTHER_BYTES = 32 << 20
"""Log lines, sidecars and small files."""

CHECKPOINT_SHARE = 0.9
"""Of the limit, so much may be taken up after a checkpoint was written: the rest is for what grows."""


def needed_bytes(manifest: Manifest) -> int:
    """What a node of this swarm may take up without checkpoints and prepared data."""
    numel = manifest.model.numel
    vectors = (DISK_BYTES_PER_ELEMENT + TRAINER_BYTES_PER_ELEMENT) * numel
    return OuterStore.needed_bytes(numel) + vectors + limits_of(manifest).max_bytes + OTHER_BYTES


def require_limit(manifest: Manifest, limit_bytes: int) -> None:
    """Refuse a limit (0: none) that the state does not fit into. Raises ConfigError."""
    needed = needed_bytes(manifest)
    if 0 < limit_bytes < needed:
        raise ConfigError(
            f"the disk limit of {limit_bytes / 1e6:,.0f} MB is below the {needed / 1e6:,.0f} MB that a node "
            "of this swarm needs: raise it"
        )


def too_old(sizes: Sequence[int], rest: int, limit: int) -> int:
    """How many of the checkpoints with these sizes, oldest first, have to go beside `rest` bytes. Pure."""
    number = 0
    while number < len(sizes) - 1 and rest + sum(sizes[number:]) > limit:
        number += 1
    return number


class Room:
    """Of one node. `run` looks now and then; `make` is asked before a checkpoint is written."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._changed = asyncio.Event()
        self._lock = threading.Lock()  # one removes at a time

    @property
    def _limit(self) -> int:
        return self._node.settings.now.disk_bytes

    async def run(self) -> None:
        """Until cancelled."""
        self._node.settings.follow(lambda _settings: self._changed.set())
        while True:
            self._changed.clear()
            await self.look()
            try:
                async with asyncio.timeout(LOOK_S if self._limit else None):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Remove what is too much, and pause the node, or let it go on."""
        limit, disk = self._limit, self._node.disk
        used = await asyncio.to_thread(self._shrink, limit) if limit else 0
        if used <= limit:
            disk.accepted(self)
            return
        if not disk.refuses(self):
            log.warning(
                "%s takes %.1f MB up, the disk limit is %.1f MB: raise it, or remove what you do not need",
                self._node.paths.path,
                used / 1e6,
                limit / 1e6,
            )
        disk.refused(self, "limit", f"{used} of {limit} bytes")

    def _shrink(self, limit: int) -> int:
        """Remove what may go if there is too much; what is left. In a thread."""
        with self._lock:
            used = used_bytes(self._node.paths.path)
            return used - self._remove(used, limit) if used > limit else used

    def _remove(self, used: int, limit: int) -> int:
        """Remove the oldest checkpoints until `used` is within the limit; the bytes of those."""
        files = [path for _, path in stored(self._node.paths.checkpoints)]
        sizes = [512 * path.stat().st_blocks for path in files]
        number = too_old(sizes, used - sum(sizes), limit)
        for path in files[:number]:
            path.unlink()
            log.info("checkpoint %s is removed: the disk limit", path.name)
        return sum(sizes[:number])

    def make(self, num_bytes: int) -> None:
        """Let a checkpoint of so many bytes fit, at the expense of older ones. In a thread.

        Raises OSError where it does not.
        """
        limit, manifest = int(CHECKPOINT_SHARE * self._limit), self._node.manifest
        if not limit or manifest is None:
            return
        with self._lock:
            sizes = [512 * path.stat().st_blocks for _, path in stored(self._node.paths.checkpoints)]
            others = used_bytes(self._node.paths.path) - sum(sizes)
            wanted = max(others, needed_bytes(manifest)) + sum(sizes) + num_bytes
            if wanted - self._remove(wanted, limit) > limit:
                raise OSError(f"the disk limit has no room for another {num_bytes / 1e6:,.1f} MB")
