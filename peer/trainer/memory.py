"""Memory and cores of this process and its machine."""

import os
import resource
import sys

import psutil


def peak_bytes() -> int:
    """Most resident memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def process_limit(limit_bytes: int) -> int:
    """The limit given, or nine tenths of what this process has and what is free now."""
    if limit_bytes:
        return limit_bytes
    return resident_bytes() + int(psutil.virtual_memory().available * 0.9)


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads not counted."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
