"""Disks that refuse: chosen files of chosen folders, from the call of the operating system on.

What node code calls in `os` and `io` comes here first while `faulty_disks` is on. As on a real disk,
one without room refuses what needs room, one that is read-only what changes anything, and a process without
descriptors opens nothing.
"""

import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(eq=False)
class FaultyDisks:
    """What is wrong at present, and how often that was met."""

    folder: Path | None = None
    pattern: re.Pattern[str] = re.compile("")
    code: int = 0
    hits: list[str] = field(default_factory=list)
    times: int | None = None
    """After so many refusals all is well again."""

    def fail(self, folder: Path, pattern: str, code: int) -> None:
        """From now on, for what lies in `folder` under a path that has `pattern`."""
        self.folder, self.pattern, self.code = folder, re.compile(pattern), code
        self.hits.clear()

    def heal(self) -> None:
        """All is well again."""
        self.folder = self.times = None

    def look(self, call: str, path: object, codes: Callable[[int], bool]) -> None:
        """Raise the error if this call of this path is to fail."""
        if self.folder is None or not isinstance(path, str | os.PathLike) or not codes(self.code):
            return
        text = os.fspath(path)
        inside = text.startswith(f"{self.folder}/")
        if inside and self.pattern.search(text[len(str(self.folder)) + 1 :]):
            self.hits.append(f"{call} {text}")
            if len(self.hits) == self.times:
                self.heal()
            raise OSError(self.code, os.strerror(self.code), text)

    def look_at(self, call: str, descriptor: int, codes: Callable[[int], bool]) -> None:
        """The same for an open file."""
        if self.folder is not None:
            self.look(call, os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)"), codes)


def _needs_room(code: int) -> bool:
    return code in {*ROOM, errno.EROFS, errno.EIO}


def _changes(code: int) -> bool:
    return code in {errno.EROFS, errno.EIO}


def _opens(code: int, *, new: bool, writes: bool) -> bool:
    if code in (errno.EMFILE, errno.ENFILE):
        return True
    return writes and (code == errno.EROFS or (new and code in ROOM))


@contextmanager
def faulty_disks() -> Iterator[FaultyDisks]:
    """Until it ends, files fail as they are told to."""
    disks = FaultyDisks()
    real: dict[str, Any] = {
        name: getattr(os, name)
        for name in (
            "open", "pwrite", "write", "pread", "fsync", "posix_fallocate", "ftruncate",
            "replace", "rename", "unlink", "mkdir",
        )
    }  # fmt: skip
    real_open = io.open

    def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        new = bool(flags & os.O_CREAT) and not os.path.exists(path)
        disks.look("open", path, lambda code: _opens(code, new=new, writes=bool(flags & WRITING)))
        return int(real["open"](path, flags, *rest, **more))

    def opened_file(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        writes = any(letter in mode for letter in "wax+")
        disks.look("io.open", path, lambda code: _opens(code, new=writes, writes=writes) or code == errno.EIO)
        return real_open(path, mode, *rest, **more)

    def on_descriptor(name: str, codes: Callable[[int], bool]) -> Callable[..., Any]:
        def call(descriptor: int, *rest: Any, **more: Any) -> Any:
            disks.look_at(name, descriptor, codes)
            return real[name](descriptor, *rest, **more)

        return call

    def on_path(name: str, codes: Callable[[int], bool]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            for one in (path, *rest[:1]):
                disks.look(name, one, codes)
            return real[name](path, *rest, **more)

        return call

    with (
        patch.object(os, "open", opened),
        patch.object(io, "open", opened_file),
        patch.object(os, "pwrite", on_descriptor("pwrite", _needs_room)),
        patch.object(os, "write", on_descriptor("write", _needs_room)),
        patch.object(os, "pread", on_descriptor("pread", lambda code: code == errno.EIO)),
        patch.object(os, "fsync", on_descriptor("fsync", _needs_room)),
        patch.object(os, "posix_fallocate", on_descriptor("posix_fallocate", _needs_room)),
        patch.object(os, "ftruncate", on_descriptor("ftruncate", _changes)),
        patch.object(os, "replace", on_path("replace", _changes)),
        patch.object(os, "rename", on_path("rename", _changes)),
        patch.object(os, "unlink", on_path("unlink", _changes)),
        patch.object(os, "mkdir", on_path("mkdir", _needs_room)),
    ):
        yield disks
