"""Reads a log of certificates (`talkoot.peer.certlog`) without changing it, also while a daemon appends."""

from collections.abc import Iterator
from pathlib import Path

from talkoot.peer.certlog import HEADER, MAGIC, MAX_RECORD_BYTES, LogCorruptError, record_header


class LogReader:
    """Iterate to get (number, content) of each whole record, ascending; then `tail_bytes` is known."""

    def __init__(self, path: Path, start: int = len(MAGIC)) -> None:
        """Touches nothing. `start` is the place of a record, as `place` told."""
        self.path = path
        self.place = start
        """Where the record begins that was read last."""
        self.tail_bytes = 0
        """Bytes after the last whole record: a torn append, one under way, or damage."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Raises LogCorruptError if it is no log, OSError."""
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise LogCorruptError(f"{self.path} is no round log of this version")
            end, last = file.seek(self.place), -1
            while header := file.read(HEADER.size):
                content = None
                if len(header) == HEADER.size:
                    length, number, _ = HEADER.unpack(header)
                    if length <= MAX_RECORD_BYTES and number > last:
                        content = file.read(length)
                if content is None or record_header(number, content) != header:
                    break
                self.place = end
                yield number, content
                end, last = end + len(header) + len(content), number
            self.tail_bytes = self.path.stat().st_size - end
