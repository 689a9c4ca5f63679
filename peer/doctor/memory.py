"""Main memory that is free for this process: the machine's, or what its control groups leave (containers)."""

from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_OURS = Path("/proc/self/cgroup")
_FILES = {"max": ("memory.max", "memory.current", "inactive_file"),
          "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}  # fmt: skip
# Limit, use, and what of the use the kernel gives back when asked: of version 2 and of version 1.


def free_bytes() -> int:
    """The smallest of what the machine has free and what each control group leaves."""
    free = int(psutil.virtual_memory().available)
    return min([free, *(left for group in _groups() if (left := _left(group)) is not None)])


def _groups() -> Iterator[Path]:
    """Folders of the control groups of this process that may have a limit."""
    try:
        lines = _OURS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds and "memory" not in kinds.split(","):
            continue
        base = _GROUPS / "memory" if kinds else _GROUPS
        group = base / path.strip("/")
        while group != base:
            yield group
            group = group.parent
        yield base


def _left(group: Path) -> int | None:
    """What the limit of a group leaves; None where there is none."""
    for limit, used, given_back in _FILES.values():
        try:
            left = int((group / limit).read_text()) - int((group / used).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return max(0, left + int(stat.get(given_back, 0)))
        except (OSError, ValueError):  # `max`: no limit
            continue
    return None
