"""How far this process stands back behind others, also while it runs."""

import os
import sys
from pathlib import Path

_at_start = os.getpriority(os.PRIO_PROCESS, 0)


def renice(nice: int) -> None:
    """Be `nice` above what the process was started with, with all of its threads.

    Linux lets nobody take that back who is not root: then the next process has it, and stderr says so.
    """
    wanted = min(19, _at_start + nice)
    if wanted == os.getpriority(os.PRIO_PROCESS, 0):
        return
    try:
        for thread in _threads():
            os.setpriority(os.PRIO_PROCESS, thread, wanted)
    except ProcessLookupError:  # it has just ended
        pass
    except PermissionError:
        sys.stderr.write(f"niceness {nice} needs a fresh trainer: it holds from its next start\n")


def _threads() -> list[int]:
    """Each has a niceness of its own; those to come have that of the thread that makes them."""
    folder = Path("/proc/self/task")
    return [int(entry.name) for entry in folder.iterdir()] if folder.is_dir() else [0]
