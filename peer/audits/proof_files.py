"""Proofs on disk: one file each, in a folder that is bounded by bytes and by count, oldest out first.

A proof is put together in a *draft*, a file whose name begins with a dot, in whatever order its bytes come;
it gets its name when it was verified and is durable. So what has a name is whole, and what has none is
nobody's after a restart. All calls block on the disk: a worker thread.
"""

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from talkoot.peer.files import fsync_directory

MAX_PROOFS = 64
"""Proofs that are kept."""

MIN_KEPT_BYTES = 256 << 20
"""What they may add up to in any swarm."""

KEPT_BYTES_PER_ELEMENT = 8
"""And for each parameter: as much as the outer state takes. So many bytes once more may be in drafts."""

ROOM_BYTES = 64 << 20
"""Left free on the disk for the node itself, as beside checkpoints."""

_NAME = re.compile(r"([0-9a-f]{64})\.proof")


class ProofFiles:
    """The folder of one node."""

    def __init__(self, folder: Path) -> None:
        """Touches nothing."""
        self._folder = folder
        self._lock = Lock()
        self._sizes: dict[bytes, int] = {}
        """Bytes of the proofs by offender, oldest first. Replaced, never changed."""
        self._drafts: dict[Path, int] = {}
        self._number = 0
        self.max_bytes = MIN_KEPT_BYTES
        """What the proofs that are kept may add up to; none is longer."""

    def limit(self, numel: int) -> None:
        """Set `max_bytes` for a model of this size."""
        self.max_bytes = max(MIN_KEPT_BYTES, KEPT_BYTES_PER_ELEMENT * numel)

    @property
    def sizes(self) -> dict[bytes, int]:
        """Bytes of the proofs by offender, oldest first."""
        return self._sizes

    def found(self) -> dict[bytes, int]:
        """What lies in the folder, by offender, oldest first; to be verified, then `adopt`ed. Drafts of a
        killed process go. Raises OSError."""
        found = []
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                match = _NAME.fullmatch(path.name)
                if match is not None:
                    status = path.stat()
                    found.append((status.st_mtime_ns, bytes.fromhex(match[1]), status.st_size))
                elif path.name.startswith("."):
                    path.unlink(missing_ok=True)
        return {key: size for _, key, size in sorted(found)}

    def open(self, offender: bytes) -> "ProofFile":
        """The proof in the folder. Raises OSError."""
        return ProofFile(self._path(offender), os.open(self._path(offender), os.O_RDONLY | os.O_NOFOLLOW))

    def read(self, offender: bytes, offset: int, length: int) -> bytes | None:
        """A piece of a proof that is kept; None where there is none."""
        if offender not in self._sizes or offset < 0:
            return None
        try:
            with self.open(offender) as file:
                return file.read(offset, length) or None
        except OSError:
            return None

    def draft(self, num_bytes: int) -> "ProofFile":
        """Begin a proof of at most so many bytes, and hold room for it. Raises OSError: ENOSPC where there is
        none on the disk, EDQUOT where the limits have none."""
        self._folder.mkdir(exist_ok=True, mode=0o700)
        with self._lock:
            if sum(self._drafts.values()) + num_bytes > self.max_bytes:
                raise _refusal(errno.EDQUOT, self._folder)
            if shutil.disk_usage(self._folder).free < num_bytes + ROOM_BYTES:
                raise _refusal(errno.ENOSPC, self._folder)
            self._number += 1
            path = self._folder / f".{self._number:08d}.draft"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            self._drafts[path] = num_bytes
        return ProofFile(path, descriptor, self)

    def forget_draft(self, path: Path) -> None:
        """Give back its room, and the file if it still has no other name."""
        with self._lock:
            if self._drafts.pop(path, None) is not None:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def keep(self, draft: "ProofFile", offender: bytes, num_bytes: int) -> None:
        """Make a draft of that length the proof against somebody, durable on return. Raises OSError."""
        draft.cut_off(num_bytes)
        with self._lock:
            draft.path.replace(self._path(offender))
            self._drafts.pop(draft.path, None)
            self._add(offender, num_bytes)
        fsync_directory(self._folder)

    def keep_bytes(self, data: bytes, offender: bytes) -> None:
        """The same for a proof that is short. Raises OSError."""
        with self.draft(len(data)) as draft:
            draft.write(0, data)
            self.keep(draft, offender, len(data))

    def adopt(self, offender: bytes, num_bytes: int) -> None:
        """A proof that was `found` holds."""
        with self._lock:
            self._add(offender, num_bytes)

    def remove(self, offender: bytes) -> None:
        """It holds no more, or never did."""
        with self._lock:
            self._sizes = {key: size for key, size in self._sizes.items() if key != offender}
            with suppress(OSError):
                self._path(offender).unlink(missing_ok=True)

    def _add(self, offender: bytes, num_bytes: int) -> None:
        sizes = {key: size for key, size in self._sizes.items() if key != offender}
        while sizes and (len(sizes) >= MAX_PROOFS or sum(sizes.values()) + num_bytes > self.max_bytes):
            oldest = next(iter(sizes))
            del sizes[oldest]
            with suppress(OSError):
                self._path(oldest).unlink(missing_ok=True)
        self._sizes = sizes | {offender: num_bytes}

    def _path(self, offender: bytes) -> Path:
        return self._folder / f"{offender.hex()}.proof"


class ProofFile:
    """An open proof, or a draft of one, which is removed when it is left without having been kept.

    Whoever waited for a call may have given up by then, so that calls come after the file was closed: they
    fail, since its descriptor may be another file's.
    """

    def __init__(self, path: Path, descriptor: int, files: ProofFiles | None = None) -> None:
        """Of `files` where it is a draft."""
        self.path = path
        self._descriptor = descriptor
        self._files = files
        self._using = Lock()

    def read(self, offset: int, length: int) -> bytes:
        """The bytes that are there; fewer where it ends. Raises OSError."""
        with self._using:
            return os.pread(self._descriptor, length, offset)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put bytes into a draft. Raises OSError."""
        view = memoryview(data)
        with self._using:
            while view:
                done = os.pwrite(self._descriptor, view, offset)
                view, offset = view[done:], offset + done

    def cut_off(self, num_bytes: int) -> None:
        """Make it so long, and durable. Raises OSError."""
        with self._using:
            os.ftruncate(self._descriptor, num_bytes)
            os.fsync(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        with self._using:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._files is not None:
            self._files.forget_draft(self.path)


def _refusal(code: int, folder: Path) -> OSError:
    return OSError(code, os.strerror(code), str(folder))
