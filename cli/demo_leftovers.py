"""What a demo left behind that was killed: namespaces and file systems that bear its process's number.

A demo removes its own at its end, but nothing is left of a killed process that could. Its daemons die with
it (`demo_node`), and the next demo of this kind clears up.
"""

import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil

from talkoot.cli.demo_chaos_network import run_tool
from talkoot.cli.errors import CommandError

NAMESPACES = Path("/run/netns")
_NAME = re.compile(r"talkoot-([0-9]{1,9})-[a-z0-9]{1,8}")


def remove_leftovers() -> list[str]:
    """Remove them, but for what a living process uses; returns what was removed.

    For root: others may not, and get nothing done here.
    """
    return [*_unmount(), *_delete_namespaces()]


def dead_owner(name: str) -> int | None:
    """The process that made something of this name, where it was a demo's and is gone."""
    match = _NAME.fullmatch(name)
    if match is None or psutil.pid_exists(int(match[1])):
        return None
    return int(match[1])


def _unmount() -> list[str]:
    removed = []
    for mount in psutil.disk_partitions(all=True):
        if mount.fstype == "tmpfs" and dead_owner(mount.device) is not None:
            with suppress(CommandError):  # in use
                run_tool("umount", mount.mountpoint)
                removed.append(mount.mountpoint)
    return removed


def _delete_namespaces() -> list[str]:
    """All of a demo's or none: they are tied to each other by cables."""
    by_owner: defaultdict[int, list[str]] = defaultdict(list)
    for path in sorted(NAMESPACES.glob("talkoot-*")):
        owner = dead_owner(path.name)
        if owner is not None:
            by_owner[owner].append(path.name)
    removed = []
    for names in by_owner.values():
        with suppress(CommandError):
            if not any(run_tool("ip", "netns", "pids", name).strip() for name in names):
                for name in names:
                    run_tool("ip", "netns", "delete", name)
                    removed.append(name)
    return removed
