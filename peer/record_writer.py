"""Writing one record of the round log, piece by piece as it comes."""

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from blake3 import blake3

from talkoot.peer.files import ignore_step

MAGIC = b"talkoot record 1"
HEADER = struct.Struct("<16sQ32sQ")
"""Magic, round, hash of the certified value, length of the record."""

CHECKSUM_BYTES = 32
_DOMAIN = "talkoot 2026 round record"


def checksum(header: bytes) -> blake3:
    """The hash over header and record, begun."""
    return blake3(header, derive_key_context=_DOMAIN)


class RecordWriter:
    """One record that is being written. A disk that fails ends it quietly: `finish` says so.

    Leaving it as a context before `finish` gives it up.
    """

    def __init__(
        self,
        temporary: Path,
        number: int,
        value_hash: bytes,
        num_bytes: int,
        *,
        done: Callable[[OSError | None], bool],
        hook: Callable[[str], None] = ignore_step,
    ) -> None:
        """`done` takes the synced file, or hears why there is none; then no other call follows."""
        self._temporary = temporary
        self._done = done
        self._hook = hook
        self._left = num_bytes
        header = HEADER.pack(MAGIC, number, value_hash, num_bytes)
        self._checksum = checksum(header)
        self._file: IO[bytes] | None = None
        self._failure: OSError | None = None
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            self._file = os.fdopen(descriptor, "wb")
            self._file.write(header)
            self._hook("record begun")
        except OSError as error:
            self._failed(error)

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the record."""
        self._left -= len(data)
        if self._file is None:
            return
        self._checksum.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self._failed(error)

    def finish(self) -> bool:
        """All was written: make it durable. False when the disk failed. Raises ValueError where there were
        more or fewer bytes than was said."""
        if self._left:
            raise ValueError(f"a record with {-self._left} bytes more than was said")
        if self._file is not None:
            try:
                self._hook("record filled")
                self._file.write(self._checksum.digest(CHECKSUM_BYTES))
                self._file.flush()
                os.fsync(self._file.fileno())
                self._hook("record written")
            except OSError as error:
                self._failed(error)
            else:
                self._close()
        return self._done(self._failure)

    def _failed(self, error: OSError) -> None:
        self._failure = error
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()  # what is still buffered may fail once more
            except OSError as error:
                self._failure = self._failure or error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives up what was not finished."""
        if self._file is not None:
            self._close()
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)
