"""One peer of the demo: a `talkoot run` process in a session of its own, watched through its API."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from talkoot.cli.errors import CommandError, NoDaemonError
from talkoot.cli.local_api import Json, LocalApi

TALKOOT = (sys.executable, "-m", "talkoot.cli.main")
"""How the demo starts `talkoot`: with the interpreter that it runs in itself."""

POLL_TIMEOUT_S = 3.0

LAST_ROUNDS = 100
"""Rounds that are asked for; the demo asks every second or two."""


@cache
def dying_with_us() -> tuple[str, ...]:
    """What stands before a command that is to be killed with this process, where util-linux can do that."""
    before = ("setpriv", "--pdeathsig", "KILL")
    if not sys.platform.startswith("linux") or shutil.which("setpriv") is None:
        return ()
    tried = subprocess.run([*before, "true"], capture_output=True, check=False)  # noqa: S603 - BusyBox's cannot
    return before if tried.returncode == 0 else ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where on this machine a daemon runs; by default on its loopback."""

    prefix: tuple[str, ...] = ()
    """What stands before its command."""
    arguments: tuple[str, ...] = ("--profile", "test")
    """Which network it uses."""
    inside: Callable[[], AbstractContextManager[None]] = nullcontext
    """Makes a scope in which its API can be reached."""


HERE = Place()


class DemoNode:
    """Starts, watches, kills and stops one daemon. Its log is `<folder>/<name>.log`."""

    def __init__(self, name: str, folder: Path, program: Sequence[str], place: Place = HERE) -> None:
        self.name = name
        self.place = place
        self.frozen = False
        """Whether `freeze` stopped it; it is not asked anything then."""
        self.state_dir = folder / name
        self.log_path = folder / f"{name}.log"
        self.status: Json | None = None
        """What it said last; None before its first word and after its end."""
        self._program = (*place.prefix, *program)
        self._arguments: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] = []
        self._api = LocalApi(self.state_dir, timeout_s=POLL_TIMEOUT_S)

    def start(self, arguments: Sequence[str] = ()) -> None:
        """Start the daemon; without arguments as it was started before. Raises OSError.

        To be called by a thread that lasts as long as the daemon is to: it is killed when that has ended.
        """
        self._arguments = list(arguments) or self._arguments
        self.status, self.frozen = None, False
        command = [
            *dying_with_us(),
            *self._program,
            "run",
            *self._arguments,
            "--state-dir",
            str(self.state_dir),
        ]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def running(self) -> bool:
        """Whether the daemon's process lives."""
        return self._process is not None and self._process.poll() is None

    def wait(self, limit_s: float) -> bool:
        """Wait for the end of the daemon's process; False when it still lives after that long."""
        with suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(max(0.0, limit_s))
        return not self.running

    @property
    def exit_code(self) -> int | None:
        """How the process ended, if it did."""
        return None if self._process is None else self._process.poll()

    def poll(self) -> Json | None:
        """Ask for the status; None when it does not answer (starting, busy, gone)."""
        if not self.running:
            self.status = None
            return None
        if self.frozen:
            return None
        with suppress(NoDaemonError, CommandError), self.place.inside():
            self.status = self._api.status()
            self._remember_family()
            return self.status
        return None

    def rounds(self) -> list[Json]:
        """The last rounds that it remembers; none when it does not answer."""
        with suppress(NoDaemonError, CommandError), self.place.inside():
            return self._api.rounds(LAST_ROUNDS) if self.running and not self.frozen else []
        return []

    def invite(self) -> str | None:
        """A new invite, or None when it has none to give yet."""
        with suppress(NoDaemonError, CommandError), self.place.inside():
            return self._api.invite()
        return None

    def last_words(self) -> str:
        """The last line of its log."""
        with suppress(OSError):
            lines = self.log_path.read_text(errors="replace").strip().splitlines()
            return lines[-1][-300:] if lines else ""
        return ""

    def kill(self) -> None:
        """SIGKILL to the daemon, its p2pd and its trainer at once, and wait for the end of the daemon."""
        self._remember_family()
        if self._process is None:
            return
        self._kill_group()
        for member in self._family:
            with suppress(psutil.NoSuchProcess):  # psutil compares start times: never another's process
                member.kill()
        self._process.wait()
        self.status = None

    def freeze(self) -> None:
        """SIGSTOP to the daemon, its p2pd and its trainer."""
        self._remember_family()
        self.frozen = self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT to all of them."""
        self._signal_all(signal.SIGCONT)
        self.frozen = False

    def _signal_all(self, number: signal.Signals) -> bool:
        if self._process is None or not self.running:
            return False
        self._process.send_signal(number)
        for member in self._family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        return True

    def kill_part(self, name: str) -> bool:
        """SIGKILL to a child of the daemon with `name` in its command line; whether there was one."""
        child = self.part(name)
        if child is None:
            return False
        with suppress(psutil.NoSuchProcess):
            child.kill()
        return True

    def part(self, name: str) -> psutil.Process | None:
        """A living child of the daemon with `name` in its command line."""
        self._remember_family()
        for child in self._family if self.running else ():
            with suppress(psutil.NoSuchProcess):
                if name in " ".join(child.cmdline()):
                    return child
        return None

    def interrupt(self) -> None:
        """Ctrl-C for the daemon alone; its children are its own to stop."""
        if self._process is not None and self.running:
            self._remember_family()
            self._process.send_signal(signal.SIGINT)

    def _kill_group(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _remember_family(self) -> None:
        if self._process is None or not self.running:
            return
        with suppress(psutil.NoSuchProcess):
            self._family = psutil.Process(self._process.pid).children(recursive=True)


def stop_all(nodes: Sequence[DemoNode], *, polite_s: float = 40.0, firm_s: float = 10.0) -> list[str]:
    """End every daemon: politely, then at once, then by SIGKILL.

    Returns the names of those that had to be killed. Whatever happens (a Ctrl-C too), no process is left.
    """
    killed = []
    try:
        for wait_s in (polite_s, firm_s):
            for node in nodes:
                node.interrupt()
            _wait_for_end(nodes, wait_s)
    finally:
        for node in nodes:
            if node.running:
                killed.append(node.name)
            node.kill()
    return killed


def _wait_for_end(nodes: Sequence[DemoNode], wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    for node in nodes:
        node.wait(deadline - time.monotonic())
