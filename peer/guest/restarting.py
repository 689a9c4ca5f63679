"""The end of a daemon that stands still: what its threads did is written down, its children are ended, and it
begins again in the same process, or leaves that to the supervisor that it has.

Called from the watchdog's thread while nothing else may work any more: nothing here waits without a bound,
takes a lock of logging, or needs the event loop.
"""

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil

STOOD_STILL = 70
"""Exit code of a daemon that stood still (EX_SOFTWARE of sysexits.h)."""

FILE_NAME = "standstill.txt"
"""In the folder of the logs: why it began again, and what each thread did."""

KEPT_NAME = f"{FILE_NAME}.1"
"""The same, once it was read by the daemon that began again."""

WRITE_S = 3.0
"""How long the disk may take to keep it."""

CHILDREN_S = 3.0
"""How long killed children may take to be gone."""

MAX_REASON = 300
"""Characters of a reason that are read again."""


def end(reason: str, logs: Path, *, again: bool) -> None:
    """Never returns. `again`: there is no supervisor, and it was not told to stop: begin again here."""
    _bounded(lambda: _write_down(reason, logs, "begins again" if again else "ends"))
    _end_children()
    if again:
        with suppress(OSError):
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves
    os._exit(STOOD_STILL)


def _bounded(work: Callable[[], None]) -> None:
    writer = Thread(target=work, name="standstill", daemon=True)
    writer.start()
    writer.join(WRITE_S)


def _write_down(reason: str, logs: Path, what: str) -> None:
    with suppress(OSError), (logs / FILE_NAME).open("w", encoding="utf-8") as file:
        file.write(f"{reason}\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
    with suppress(OSError):
        os.write(2, f"talkoot: {reason}: {what}\n".encode())


def _end_children() -> None:
    """Kill and reap, those as well that a loop which still turns starts meanwhile: the process that goes on
    does not know them."""
    until = time.monotonic() + CHILDREN_S
    with suppress(ChildProcessError):  # none is left
        while time.monotonic() < until:
            with suppress(psutil.Error):
                for child in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):
                        child.kill()
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
            time.sleep(0.05)


def why_again(logs: Path) -> str | None:
    """Why the daemon before this one ended, if it stood still. Once: the file is put aside."""
    path = logs / FILE_NAME
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            reason = file.readline(MAX_REASON).strip()
        path.replace(path.with_name(KEPT_NAME))
    except OSError:
        return None
    return reason or None
