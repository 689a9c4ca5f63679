"""The round log: the records of the last rounds (`talkoot.averaging.record`) on disk, one file for each.

A file is a header, the record and a checksum over both. It is written beside its place, synced and renamed,
so a process killed at any instant leaves all of it or nothing. What is damaged all the same is removed
when the log is opened. A record that cannot be written is not kept, and nothing else depends on it.
Calls block on the disk, `find` apart; they may come from several threads.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from talkoot.compression import codec
from talkoot.peer.files import fsync_directory, ignore_step
from talkoot.peer.manifest import Manifest
from talkoot.peer.record_writer import CHECKSUM_BYTES, HEADER, MAGIC, RecordWriter, checksum

log = logging.getLogger("talkoot.state")

BYTES_PER_ELEMENT = 8
"""What the log may take for each parameter where the manifest does not say: as much as the outer state."""

RECORD_NAME = re.compile(r"\d{12}\.record")
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLimits:
    """How much is kept; what is older goes first."""

    max_rounds: int
    max_bytes: int
    """Of all files together."""


def limits_of(manifest: Manifest) -> LogLimits:
    """The limits of a sealed manifest."""
    state = manifest.state
    return LogLimits(
        max_rounds=state.log_rounds,
        max_bytes=state.log_bytes or BYTES_PER_ELEMENT * manifest.model.numel,
    )


def replayable_rounds(manifest: Manifest) -> int:
    """About how many rounds the log of a peer reaches back."""
    chosen, limits = manifest.compression, limits_of(manifest)
    name = chosen.aggregate_codec if manifest.round.exchange == "dense" else chosen.codec
    num_bytes = codec.get("int8" if name == "auto" else name).encoded_size(manifest.model.numel)
    return min(limits.max_rounds, limits.max_bytes // num_bytes)


@dataclass(frozen=True, slots=True)
class Kept:
    """A record that is in the log."""

    round: int
    value_hash: bytes
    """Of the certified value that it belongs to."""
    num_bytes: int
    """Of the record; its file is a little longer."""

    @property
    def file_bytes(self) -> int:
        """Length of the file."""
        return HEADER.size + self.num_bytes + CHECKSUM_BYTES


class RoundLog:
    """The records of one peer. One instance for a folder."""

    def __init__(self, folder: Path, limits: LogLimits, *, hook: Callable[[str], None] = ignore_step) -> None:
        """Reads every record that is there and removes those that are not whole. Raises OSError."""
        self._folder = folder
        self._limits = limits
        self._hook = hook
        self._lock = Lock()
        self._records: dict[bytes, Kept] = {}
        """By value hash; replaced, never changed, so that it can be read without the lock."""
        self._switches = 0
        self._complained = False
        folder.mkdir(exist_ok=True, mode=0o700)
        self.num_damaged = self._scan()
        """Files that were removed when the log was opened."""
        self._trim(0)

    def _scan(self) -> int:
        damaged = 0
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith("."):  # what a killed process was writing
                path.unlink()
            elif RECORD_NAME.fullmatch(path.name):
                kept = check_record(path)
                if kept is None:
                    damaged += 1
                    path.unlink()
                else:
                    self._records[kept.value_hash] = kept
        if damaged:
            log.warning("%s: %d records of rounds were damaged and are gone", self._folder, damaged)
        return damaged

    # -- what there is -------------------------------------------------------------------------------

    @property
    def records(self) -> list[Kept]:
        """What is in the log, oldest first."""
        return sorted(self._records.values(), key=lambda kept: kept.round)

    def find(self, value_hash: bytes) -> Kept | None:
        """The record that belongs to a value."""
        return self._records.get(value_hash)

    def read(self, value_hash: bytes, offset: int, length: int) -> bytes | None:
        """A piece of a record, None where it is not in the log (any more). Raises OSError."""
        kept = self.find(value_hash)
        if kept is None or not 0 <= offset < kept.num_bytes:
            return None
        try:
            with self._path(kept.round).open("rb") as file:
                file.seek(HEADER.size + offset)
                return file.read(min(length, kept.num_bytes - offset))
        except FileNotFoundError:
            return None

    # -- writing -------------------------------------------------------------------------------------

    def write(
        self, number: int, value_hash: bytes, num_bytes: int, pieces: Iterable[bytes | memoryview]
    ) -> bool:
        """Keep the record of round `number`, durable on return; False when disk or limits refuse it."""
        writer = self.begin(number, value_hash, num_bytes)
        if writer is None:
            return False
        with writer:
            for piece in pieces:
                writer.write(piece)
            return writer.finish()

    def begin(self, number: int, value_hash: bytes, num_bytes: int) -> RecordWriter | None:
        """Make room for a record and begin it; None where the limits leave no room for it, or it is there."""
        kept = Kept(number, value_hash, num_bytes)
        if self._limits.max_rounds < 1 or kept.file_bytes > self._limits.max_bytes:
            return None
        if self.find(value_hash) is not None:
            return None
        with self._lock:
            self._trim(kept.file_bytes)
            switches = self._switches
        temporary = self._folder / f".{number:012d}.{value_hash[:4].hex()}.tmp"

        def done(failure: OSError | None) -> bool:
            return self._done(kept, temporary, switches, failure)

        return RecordWriter(temporary, number, value_hash, num_bytes, done=done, hook=self._hook)

    def _done(self, kept: Kept, temporary: Path, switches: int, failure: OSError | None) -> bool:
        """A record was written and synced, or could not be."""
        try:
            if failure is not None:
                raise failure
            with self._lock:
                if switches != self._switches:  # it may be of a branch that was left
                    temporary.unlink()
                    return False
                self._take(kept, temporary)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if not self._complained:
                log.warning("no record of round %d is kept: %s", kept.round, error.strerror or error)
            self._complained = True
            return False
        self._complained = False
        return True

    def _take(self, kept: Kept, temporary: Path) -> None:
        temporary.replace(self._path(kept.round))
        others = {key: other for key, other in self._records.items() if other.round != kept.round}
        self._records = others | {kept.value_hash: kept}
        self._hook("record renamed")
        self._trim(0)
        fsync_directory(self._folder)
        self._hook("record durable")

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.record"

    # -- removing ------------------------------------------------------------------------------------

    def keep_only(self, wanted: Callable[[Kept], bool]) -> None:
        """Remove all others, and what is being written now: another branch is followed."""
        with self._lock:
            self._switches += 1
            for kept in self.records:
                if not wanted(kept):
                    self._remove(kept)

    def _trim(self, more_bytes: int) -> None:
        """Remove the oldest records until the limits hold with so many bytes more."""
        records = self.records
        newest = records[-1].round if records else 0
        total = more_bytes + sum(kept.file_bytes for kept in records)
        count = len(records) + (1 if more_bytes else 0)
        for kept in records:
            within = total <= self._limits.max_bytes and count <= self._limits.max_rounds
            if within and kept.round > newest - self._limits.max_rounds:
                break
            self._remove(kept)
            total -= kept.file_bytes
            count -= 1

    def _remove(self, kept: Kept) -> None:
        with suppress(OSError):
            self._path(kept.round).unlink(missing_ok=True)
        self._records = {key: other for key, other in self._records.items() if other is not kept}


def check_record(path: Path) -> Kept | None:
    """What is in a file, if it is whole and what its name says. Raises OSError."""
    with path.open("rb") as file:
        header = file.read(HEADER.size)
        size = os.fstat(file.fileno()).st_size
        if len(header) < HEADER.size:
            return None
        magic, number, value_hash, num_bytes = HEADER.unpack(header)
        if magic != MAGIC or path.name != f"{number:012d}.record":
            return None
        if size != HEADER.size + num_bytes + CHECKSUM_BYTES:
            return None
        hasher = checksum(header)
        left = num_bytes
        while left and (data := file.read(min(_READ_BYTES, left))):
            hasher.update(data)
            left -= len(data)
        whole = not left and file.read(CHECKSUM_BYTES + 1) == hasher.digest(CHECKSUM_BYTES)
    return Kept(number, value_hash, num_bytes) if whole else None
