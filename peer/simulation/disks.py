"""The disks of simulated hosts: `fsync` takes no time, space may run out, and power may be cut in a write.

Node code calls `os.fsync` and `os.replace` as ever; while `simulated_disks` is on, both come here first. A
power cut happens before one of them takes effect, and leaves of the file that was being written only some
part of what was not yet synced.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from talkoot.peer.simulation.hosts import Host, here

_real_replace = os.replace


class PowerCutError(BaseException):
    """The host that was writing is off. Not an error of the node: nobody may handle it."""


@contextmanager
def simulated_disks() -> Iterator[None]:
    """Give this process's files to simulated hosts while it lasts."""
    real_fsync = os.fsync
    os.fsync, os.replace = _fsync, _replace  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync, os.replace = real_fsync, _real_replace


def _fsync(descriptor: int) -> None:
    host = here.get()
    if host is None:
        return
    status = os.fstat(descriptor)
    if host.full and stat.S_ISREG(status.st_mode):
        host.refused = True
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _burn(host, descriptor)
    host.synced[status.st_ino] = status.st_size


def _replace(source: Any, target: Any, **options: Any) -> None:
    host = here.get()
    if host is not None:
        _burn(host, None)
    _real_replace(source, target, **options)


def _burn(host: Host, descriptor: int | None) -> None:
    """One step nearer to the power cut. Raises PowerCutError when it is there."""
    if host.fuse is None:
        return
    host.fuse -= 1
    if host.fuse <= 0:
        host.fuse = None
        if descriptor is not None:
            _tear(host, descriptor)
        raise PowerCutError


def _tear(host: Host, descriptor: int) -> None:
    """Keep only some of the bytes that were never synced. Mapped files have their size from the start."""
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        safe = min(host.synced.get(status.st_ino, 0), status.st_size)
        os.ftruncate(descriptor, host.random.randint(safe, status.st_size))
