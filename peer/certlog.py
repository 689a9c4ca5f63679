"""An append-only file of (round, bytes) records: the certificates of the rounds that this peer committed.

A record is a header (length, round, BLAKE3 checksum over length, round and content) and its content. What
a crash left at the end is cut off when the log is opened. Calls block on the disk.
"""

import os
import struct
from bisect import bisect_left
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from blake3 import blake3

from talkoot.peer.files import fsync_directory, ignore_step

MAX_RECORD_BYTES = 4 << 20
"""Longest content of a record."""

MAGIC = b"talkoot log 1\n\0\0"
_CHECKSUM_BYTES = 16
HEADER = struct.Struct(f"<IQ{_CHECKSUM_BYTES}s")
_DOMAIN = "talkoot 2026 log record"


class LogCorruptError(Exception):
    """The file is no log, or a record that was whole is not any more."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record is."""

    round: int
    offset: int
    length: int
    """Of the content, without its header."""


class CertLog:
    """The log, open. One instance for a file; rounds ascend but may skip."""

    def __init__(
        self,
        path: Path,
        *,
        max_record_bytes: int = MAX_RECORD_BYTES,
        hook: Callable[[str], None] = ignore_step,
    ) -> None:
        """Open or create the log, cut off a torn tail. Raises OSError, LogCorruptError."""
        self.path = path
        self.max_record_bytes = max_record_bytes
        self._hook = hook
        self._places: list[_Place] = []
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with ExitStack() as until_open:
            until_open.callback(self.close)
            self._end = self._start()
            while (place := self._scan(self._end)) is not None:
                self._places.append(place)
                self._end = place.offset + HEADER.size + place.length
            self.cut_bytes = os.fstat(self._descriptor).st_size - self._end
            """Bytes after the last whole record when the log was opened; they are gone."""
            self._cut()
            until_open.pop_all()

    def _start(self) -> int:
        start = os.pread(self._descriptor, len(MAGIC), 0)
        if start == MAGIC:
            return len(MAGIC)
        if not MAGIC.startswith(start):
            raise LogCorruptError(f"{self.path} is no round log of this version")
        _write_all(self._descriptor, MAGIC, 0)
        os.fsync(self._descriptor)
        fsync_directory(self.path.parent)
        return len(MAGIC)

    def _scan(self, offset: int) -> _Place | None:
        """The record at `offset` if it is whole and in order."""
        header = os.pread(self._descriptor, HEADER.size, offset)
        if len(header) < HEADER.size:
            return None
        length, number, _ = HEADER.unpack(header)
        if length > self.max_record_bytes or (self._places and number <= self._places[-1].round):
            return None
        place = _Place(number, offset, length)
        return place if self._content(place) is not None else None

    def _content(self, place: _Place) -> bytes | None:
        """The record's content if it fits its checksum."""
        data = os.pread(self._descriptor, HEADER.size + place.length, place.offset)
        content = data[HEADER.size :]
        whole = len(content) == place.length and data.startswith(record_header(place.round, content))
        return content if whole else None

    def __len__(self) -> int:
        return len(self._places)

    @property
    def first(self) -> int | None:
        """Round of the oldest record."""
        return self._places[0].round if self._places else None

    @property
    def last(self) -> int | None:
        """Round of the newest record."""
        return self._places[-1].round if self._places else None

    def before(self, number: int) -> int | None:
        """Round of the newest record that is older than `number`."""
        index = self._index(number)
        return self._places[index - 1].round if index else None

    def append(self, number: int, content: bytes) -> None:
        """Add the record of round `number`; durable on return.

        Raises ValueError if `number` does not ascend or the content is too long, and OSError; then the log
        is as it was.
        """
        if not 0 <= number < 1 << 64 or (self.last is not None and number <= self.last):
            raise ValueError(f"round {number} does not come after round {self.last}")
        if len(content) > self.max_record_bytes:
            raise ValueError(f"a record of {len(content)} bytes; at most {self.max_record_bytes} fit")
        self._cut()
        record = record_header(number, content) + content
        self._hook("append")
        _write_all(self._descriptor, record, self._end)
        self._hook("appended")
        os.fsync(self._descriptor)
        self._places.append(_Place(number, self._end, len(content)))
        self._end += len(record)

    def read(self, number: int) -> bytes | None:
        """The record of a round, if there is one. Raises LogCorruptError, OSError."""
        index = self._index(number)
        if index == len(self._places) or self._places[index].round != number:
            return None
        return self._read(self._places[index])

    def read_range(
        self, first: int, *, max_records: int = 1024, max_bytes: int = 16 << 20
    ) -> list[tuple[int, bytes]]:
        """Records from round `first` on, ascending, as many as both limits allow but at least one.

        Raises LogCorruptError, OSError.
        """
        records: list[tuple[int, bytes]] = []
        num_bytes = 0
        for place in self._places[self._index(first) :][:max_records]:
            num_bytes += place.length
            if records and num_bytes > max_bytes:
                break
            records.append((place.round, self._read(place)))
        return records

    def truncate_from(self, number: int) -> None:
        """Remove the records of round `number` and later, durably. Raises OSError."""
        index = self._index(number)
        if index < len(self._places):
            self._end = self._places[index].offset
            del self._places[index:]
            self._cut()

    def close(self) -> None:
        """Idempotent; no other call may follow."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _index(self, number: int) -> int:
        return bisect_left(self._places, number, key=lambda place: place.round)

    def _read(self, place: _Place) -> bytes:
        content = self._content(place)
        if content is None:
            raise LogCorruptError(f"the record of round {place.round} in {self.path} is damaged")
        return content

    def _cut(self) -> None:
        """Remove what a failed append left: it could hold something that looks like a record."""
        if os.fstat(self._descriptor).st_size != self._end:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)


def record_header(number: int, content: bytes) -> bytes:
    """What stands before the content of a record."""
    prefix = struct.pack("<IQ", len(content), number)
    checksum = blake3(prefix + content, derive_key_context=_DOMAIN).digest(_CHECKSUM_BYTES)
    return prefix + checksum


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)
