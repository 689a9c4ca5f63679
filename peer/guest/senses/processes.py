"""The processes of this computer: their names and who started them. Read every second or two, so cheaply."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from talkoot.peer.guest.program_names import plain

PROC = Path("/proc")

MAX_STAT_BYTES = 4096
MAX_COMMAND_BYTES = 4096
"""Read of one process's command line."""

INTERPRETERS = ("python", "bash", "sh", "perl", "ruby", "node", "java", "wine", "reaper")
"""Whoever runs one of these runs what its arguments name."""


@dataclass(frozen=True, slots=True)
class Process:
    """One, as it was when it was looked at."""

    pid: int
    parent: int
    name: str
    names: frozenset[str]
    """What it may be called, in small letters without `.exe`."""


class Processes:
    """All that are visible here. Not on the event loop."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._known: dict[int, Process] = {}
        self.hidden = sys.platform == "linux" and not (proc / "1").exists()
        """Whether those of other users are not shown."""

    def look(self) -> list[Process]:
        """Those that run now, ours and all others; what has ended and was not waited for does not run."""
        found = self._linux() if sys.platform == "linux" else self._others()
        self._known = {process.pid: process for process in found}
        return list(self._known.values())

    def own(self) -> frozenset[int]:
        """This process and all that come from it, as of the last look."""
        children: dict[int, list[int]] = {}
        for process in self._known.values():
            children.setdefault(process.parent, []).append(process.pid)
        own, next_ones = {os.getpid()}, [os.getpid()]
        while next_ones:
            fresh = [pid for pid in children.get(next_ones.pop(), ()) if pid not in own]
            own.update(fresh)
            next_ones += fresh
        return frozenset(own)

    def _linux(self) -> Iterator[Process]:
        for entry in os.listdir(self._proc):
            if not entry.isdigit():
                continue
            try:
                stat = _read(f"{self._proc}/{entry}/stat", MAX_STAT_BYTES)
                name = stat[stat.index(b"(") + 1 : stat.rindex(b")")]
                status, parent = stat[stat.rindex(b")") + 2 :].split(None, 2)[:2]
                if status not in (b"Z", b"X"):
                    yield self._process(int(entry), int(parent), name.decode(errors="replace"))
            except (OSError, ValueError):  # it has ended meanwhile
                continue

    def _process(self, pid: int, parent: int, name: str) -> Process:
        known = self._known.get(pid)
        if known is not None and (known.parent, known.name) == (parent, name):
            return known
        command = _read(f"{self._proc}/{pid}/cmdline", MAX_COMMAND_BYTES).decode(errors="replace")
        return Process(pid, parent, name, names_of(name, command.split("\0")))

    def _others(self) -> Iterator[Process]:
        for process in psutil.process_iter(["name", "ppid", "status", "cmdline"]):
            info = process.info
            if info["status"] != psutil.STATUS_ZOMBIE:
                name = info["name"] or ""
                names = names_of(name, info["cmdline"] or [])
                yield Process(process.pid, info["ppid"] or 0, name, names)


def _read(path: str, limit: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def names_of(name: str, command: list[str]) -> frozenset[str]:
    """All names of one: the kernel's (cut at 15 letters), its file's, and the script's that it runs."""
    names = {plain(name)}
    if command and command[0]:
        names.add(plain(command[0]))
        if (
            plain(command[0]).startswith(INTERPRETERS)
            and len(command) > 1
            and command[1][:1] not in ("", "-")
        ):
            names.add(plain(command[1]))
    return frozenset(names)
