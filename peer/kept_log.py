"""The last log lines on disk, as JSON: what `talkoot diag` shows of a daemon that has ended.

Written by a thread of its own, so that a disk that hangs holds nobody up; a line that finds no room in the
queue or on the disk is lost, and nothing else is.
"""

import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, RotatingFileHandler
from pathlib import Path
from threading import Thread

from talkoot.peer.logs import json_formatter

FILE_NAME = "talkoot.log"
MAX_FILE_BYTES = 1 << 20
"""Of each of two files: the one that is written and the one before it."""

MAX_WAITING = 2000
"""Lines that wait for the disk."""

STOP_S = 2.0
"""How long the end waits for the disk."""


class _Queue(QueueHandler):
    """Formats on the caller's thread, where a line's values still are what they were."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """The queue is full: the line is lost."""


class _File(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """The disk refuses: the line is lost."""


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Keep what is logged in `folder`, too. Call it after `logs.configure`. Never fails."""
    waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_WAITING)
    handler = _Queue(waiting)
    handler.setFormatter(json_formatter())
    writer = Thread(target=_write, args=(folder, waiting), name="kept log", daemon=True)
    writer.start()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(queue.Full):
            waiting.put(None, timeout=STOP_S)
            writer.join(STOP_S)


def _write(folder: Path, waiting: "queue.Queue[logging.LogRecord | None]") -> None:
    """Until there is None to write."""
    with suppress(OSError):
        folder.mkdir(exist_ok=True, mode=0o700)
    file = _File(
        folder / FILE_NAME,
        maxBytes=MAX_FILE_BYTES,
        backupCount=1,
        encoding="utf-8",
        delay=True,
        errors="replace",
    )
    while (record := waiting.get()) is not None:
        file.handle(record)
    file.close()


def last_lines(folder: Path, max_bytes: int) -> list[str]:
    """The newest whole lines in `folder`, oldest first, of at most so many bytes. Never fails."""
    data = b""
    for path in (folder / FILE_NAME, folder / f"{FILE_NAME}.1"):
        with suppress(OSError), path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - (max_bytes - len(data))))
            older = file.read(max_bytes - len(data))
            data = older[older.find(b"\n") + 1 if size > len(older) else 0 :] + data
        if len(data) >= max_bytes // 2:
            break
    return data.decode("utf-8", "replace").splitlines()
