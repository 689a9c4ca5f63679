"""A node's disk: what is tried again while it refuses, and in which words the node says so.

Whoever must not go on before something is on the disk makes the call through a `Disk`. An error that can
pass (full, read-only, no descriptors left, input/output) is a *fault*: the call is made again, with a bounded
pause, until it succeeds, and meanwhile the node is paused. All other errors go up.
"""

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from talkoot.dht.errors import ConfigError

log = logging.getLogger("talkoot.disk")

KINDS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "quota",
    errno.EROFS: "read_only",
    errno.EMFILE: "files",
    errno.ENFILE: "files",
    errno.EIO: "io",
}
"""Errors that pass without a line of code being changed, by what is wrong."""

WORDS = {
    "full": "the disk is full",
    "quota": "the disk quota is used up",
    "read_only": "the disk is read-only",
    "files": "too many files are open",
    "io": "the disk gives input/output errors",
    "limit": "the disk limit is used up",
}
"""For each kind, what the operator is told."""

ROOM_BYTES = 4 << 20
"""Free space from which on a node whose disk was full goes on."""

FIRST_PAUSE_S = 0.5
"""Before a refused call is made again; doubled each time, up to `MAX_PAUSE_S`."""

MAX_PAUSE_S = 5.0


class DiskLost(Exception):  # noqa: N818 - reads well where it is caught
    """The disk does not hold any more what was written to it: to be opened again, and put right."""


P = ParamSpec("P")
T = TypeVar("T")


def causes(error: BaseException) -> Iterator[BaseException]:
    """What is inside of groups, and what each was raised from."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from causes(inner)
        return
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def fault_of(error: BaseException) -> str | None:
    """The kind of disk fault among the reasons, if there is one."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in KINDS:
            return KINDS[cause.errno]
    return None


def takes_writes(folder: Path) -> bool:
    """Whether a small file can be written there, and there is room for more."""
    probe = folder / ".probe"
    try:
        if shutil.disk_usage(folder).free < ROOM_BYTES:
            return False
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, bytes(4096))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError:
        return False
    return True


class Disk:
    """The disk below one folder, as one node sees it."""

    def __init__(self, folder: Path, on_change: Callable[[str | None], None] = lambda _kind: None) -> None:
        """`on_change` is told the kind of a fault when one begins, or another; None when there is none."""
        self.folder = folder
        self._on_change = on_change
        self._waiting: dict[object, str] = {}
        self._shown: str | None = None
        self._well = asyncio.Event()
        self._well.set()

    @property
    def fault(self) -> str | None:
        """What is wrong at present, one of `WORDS`."""
        return self._shown

    async def well(self) -> None:
        """Wait until nothing is wrong."""
        await self._well.wait()

    async def run(self, call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Make a call in a thread, again and again until the disk takes it. It has to bear that.

        Raises what it raises but for faults.
        """
        return await self.until_done(lambda: asyncio.to_thread(call, *arguments, **options))

    async def until_done(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """As `run`, for what is no call in a thread."""
        waiting = object()
        pause_s, again = FIRST_PAUSE_S, False
        try:
            while True:
                try:
                    return await attempt()
                except (OSError, ConfigError) as error:
                    kind = fault_of(error)
                    if kind is None:
                        raise
                    if kind == "io" and not again:  # one that is gone at once is none
                        log.info("tried again at once: %s", error)
                        again = True
                        continue
                    self.refused(waiting, kind, error)
                await self._pause(pause_s, kind)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        finally:
            self.accepted(waiting)

    async def _pause(self, pause_s: float, kind: str) -> None:
        """Until another try is worth while."""
        while True:
            await asyncio.sleep(pause_s)
            if kind != "full" or await asyncio.to_thread(self._has_room):
                return

    def _has_room(self) -> bool:
        with suppress(OSError):
            return shutil.disk_usage(self.folder).free >= ROOM_BYTES
        return True

    def refused(self, who: object, kind: str, why: object) -> None:
        """Something could not be done, and will be tried again."""
        if self._waiting.get(who) != kind:
            self._waiting[who] = kind
            log.debug("refused: %s", why)
        self._show()

    def refuses(self, who: object) -> bool:
        """Whether this one waits."""
        return who in self._waiting

    def accepted(self, who: object) -> None:
        """It is done, or not wanted any more."""
        self._waiting.pop(who, None)
        self._show()

    def _show(self) -> None:
        kind = next(iter(self._waiting.values()), None)
        if kind == self._shown:
            return
        self._shown = kind
        (self._well.set if kind is None else self._well.clear)()
        self._on_change(kind)
