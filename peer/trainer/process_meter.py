"""What the operating system tells of a trainer: the CPU time that it uses, whether a signal stopped it."""

import time
from contextlib import suppress

import psutil

from talkoot.peer.trainer.silence import Look

AFTER_S = 5.0
"""Silence after which its CPU time, and that of its children (which compile), is looked at."""


class ProcessMeter:
    """Of one process. Each look takes well under a millisecond."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process: psutil.Process | None = None
        self._heard = 0.0
        self._cpu_before = 0.0

    def look(self, heard: float) -> Look:
        """`heard`: when it was last heard, on the monotonic clock."""
        silent_s, cpu_s = max(0.0, time.monotonic() - heard), None
        try:
            self._process = self._process or psutil.Process(self._pid)
            stopped = self._process.status() == psutil.STATUS_STOPPED
            if silent_s > AFTER_S:
                used = _cpu_s(self._process)
                if heard != self._heard:
                    self._heard, self._cpu_before = heard, used
                cpu_s = used - self._cpu_before
        except (psutil.Error, OSError):
            return Look(silent_s=silent_s, cpu_s=None, stopped=False)
        return Look(silent_s=silent_s, cpu_s=cpu_s, stopped=stopped)


def _cpu_s(process: psutil.Process) -> float:
    """Of the process and its children, those included that were waited for."""
    times = process.cpu_times()
    used = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            theirs = child.cpu_times()
            used += theirs.user + theirs.system
    return float(used)
