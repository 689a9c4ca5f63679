"""Keeps a folder of checkpoints beside a running node: when one is due, how many stay.

Written by a worker thread; rounds do not wait for it. A disk that is full, or breaks, costs the checkpoint
and nothing else. One that is there was verified after it was written.
"""

import asyncio
import errno
import logging
import os
import re
import shutil
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from talkoot.peer.checkpoint_file import CheckpointDamagedError, Contents
from talkoot.peer.checkpoint_write import (
    OvertakenError,
    Source,
    StoppedError,
    write_checkpoint,
)
from talkoot.peer.holdings import Holdings, number_of
from talkoot.peer.manifest import Manifest
from talkoot.peer.metrics import Metrics
from talkoot.peer.options import RunOptions
from talkoot.peer.tensor_names import Names

log = logging.getLogger("talkoot.state")

_NAME = re.compile(r"round-(\d{8,})\.safetensors")

ROOM_BYTES = 64 << 20
"""Free space that a checkpoint leaves to the node, which a full disk would pause."""

MAX_OVERTAKEN = 5
"""After so many copies in a row that rounds overtook, the next try is when another one is due."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """When checkpoints are written and which are kept."""

    every_rounds: int
    """0: none are written."""
    keep: int
    max_bytes: int
    """Of all together; the newest stays even if it is larger."""


def policy_of(manifest: Manifest, options: RunOptions) -> Policy:
    """What the manifest suggests, and the volunteer has the last word on."""
    section = manifest.checkpoint
    return Policy(
        every_rounds=_either(options.checkpoint_every, section.every_rounds),
        keep=_either(options.checkpoint_keep, section.keep),
        max_bytes=_either(options.checkpoint_bytes, section.max_bytes),
    )


def _either(own: int | None, suggested: int) -> int:
    return suggested if own is None else own


def source_of(holdings: Holdings, manifest: Manifest) -> Source:
    """The committed state of now, flat. On the event loop, as soon as it was committed."""
    head = holdings.head
    contents = Contents(
        manifest=manifest,
        ledger=holdings.ledger,
        certificate=head,
        before=holdings.certificate_of(head.value.round - 1),
    )
    return Source(contents, holdings.tree, holdings.store.theta, holdings.store.momentum)


def checkpoint_path(folder: Path, rounds: int) -> Path:
    """The name of the checkpoint after so many rounds."""
    return folder / f"round-{rounds:08d}.safetensors"


def stored(folder: Path) -> list[tuple[int, Path]]:
    """(rounds, file) of the checkpoints in a folder, ascending; a missing one has none. Raises OSError."""
    if not folder.is_dir():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match is not None)


def prune(folder: Path, policy: Policy) -> list[Path]:
    """Remove the oldest beyond `keep` and `max_bytes`, never the newest; what was removed. Raises OSError."""
    files = [path for _, path in stored(folder)]
    sizes = {path: path.stat().st_size for path in files}
    removed = []
    while len(files) > 1 and (
        len(files) > policy.keep or sum(sizes[path] for path in files) > policy.max_bytes
    ):
        removed.append(files.pop(0))
        removed[-1].unlink()
    return removed


class Checkpoints:
    """A service of the node. `news` tells it of new states."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        policy: Policy,
        metrics: Metrics,
        *,
        names: Callable[[], Awaitable[Names]],
        make_room: Callable[[int], None] = lambda _num_bytes: None,
    ) -> None:
        """`names` is asked once, when the first one is due. `make_room` is told of each before it is written,
        in a thread, and raises OSError where there is to be none."""
        self.folder = folder
        self.policy = policy
        self._manifest = manifest
        self._metrics = metrics
        self._make_names = names
        self._make_room = make_room
        self._names: Names | None = None
        self._offer: Source | None = None
        self._wake = asyncio.Event()
        self._ended = threading.Event()
        self._last = 0
        """Rounds in the newest one, or in the one that failed last."""
        self._overtaken = 0
        """Copies in a row."""
        self._warned = False

    def news(self, holdings: Holdings) -> None:
        """A state was just committed. Only final ones are kept: a weak one may be rolled back."""
        if holdings.head.kind == "final" and self._is_due(number_of(holdings.head)):
            self._offer = source_of(holdings, self._manifest)
            self._wake.set()

    def _is_due(self, rounds: int) -> bool:
        every = self.policy.every_rounds
        return every > 0 and rounds // every > self._last // every

    async def run(self) -> None:
        """Write them when they are due, until cancelled."""
        try:
            await asyncio.to_thread(self._tidy)
            while True:
                await self._wake.wait()
                self._wake.clear()
                offer, self._offer = self._offer, None
                if offer is not None and self._is_due(offer.contents.ledger.round):
                    await self._take(offer)
        finally:
            self._ended.set()

    def _tidy(self) -> None:
        """Remove what a killed process left half written, and see what there is."""
        try:
            files = stored(self.folder)
            for path in self.folder.glob(".round-*.safetensors.tmp"):
                path.unlink(missing_ok=True)
            if files:
                self._last, newest = files[-1]
                self._metrics.checkpoint_size.set(newest.stat().st_size)
                self._metrics.checkpoint_last_success.set(newest.stat().st_mtime)
        except OSError as error:
            log.warning("checkpoints in %s: %s", self.folder, error.strerror or error)

    async def _take(self, offer: Source) -> None:
        if self._names is None:
            self._names = await self._make_names()
        source = replace(offer, contents=replace(offer.contents, names=self._names))
        try:
            await asyncio.to_thread(self._write, source)
        except StoppedError:
            return
        except OvertakenError as error:
            self._overtaken += 1
            log.info("checkpoint: %s; the next final state serves as well", error)
            if self._overtaken < MAX_OVERTAKEN:
                return
            self._failed("rounds follow each other faster than the disk takes a state up")
        except (OSError, CheckpointDamagedError) as error:
            self._failed(str(error))
        self._overtaken = 0
        self._last = source.contents.ledger.round

    def _write(self, source: Source) -> None:
        self.folder.mkdir(exist_ok=True, mode=0o700)
        self._make_room(source.num_bytes)
        if shutil.disk_usage(self.folder).free < source.num_bytes + ROOM_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        path = checkpoint_path(self.folder, source.contents.ledger.round)
        num_bytes = write_checkpoint(source, path, stopped=self._ended.is_set)
        self._metrics.checkpoint_saved(num_bytes)
        self._warned = False
        log.info("checkpoint %s: %.1f MB", path, num_bytes / 1e6)
        for old in prune(self.folder, self.policy):
            log.info("checkpoint %s is removed", old.name)

    def _failed(self, why: str) -> None:
        """Count it; warn once until one succeeds."""
        self._metrics.checkpoint_failed()
        log.log(logging.DEBUG if self._warned else logging.WARNING, "no checkpoint: %s", why)
        self._warned = True
