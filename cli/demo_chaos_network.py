"""A network of namespaces for the peers of the demo: each has a cable to one bridge, and none leads outside.

Needs root and the programs `ip` and `tc` of iproute2.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from talkoot.cli.demo_node import Place
from talkoot.cli.errors import CommandError

SUBNET = "10.77.0"
"""Of the peers; seen in their namespaces only."""

CABLE = "eth0"
NOBODY = "02:00:00:00:00:01"
"""A hardware address that no cable has: what is sent there reaches no one."""

SLOW = ("rate", "128kbit", "burst", "16kb", "latency", "400ms")

CLONE_NEWNET = 0x40000000


def why_not() -> str:
    """What is missing for such a network here, or nothing."""
    if not sys.platform.startswith("linux"):
        return "only Linux has network namespaces"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return "missing: " + ", ".join(missing)
    try:
        with Cables(1) as cables:
            cables.slow(0)
    except CommandError as error:
        return str(error)
    return ""


class Cables:
    """`count` namespaces, to be entered as a context; peer i has the address `address(i)`."""

    def __init__(self, count: int) -> None:
        if not 0 < count < 250:
            raise ValueError("1 to 249 peers fit into the subnet")
        self._hub = f"talkoot-{os.getpid()}-hub"
        self.names = [f"talkoot-{os.getpid()}-{index}" for index in range(count)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Raises CommandError when a step fails; nothing is left then."""
        with self._stack as stack:
            for name in (self._hub, *self.names):
                _ip("netns", "add", name)
                stack.callback(_delete, name)  # its cable goes with it
                _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._hub, "link", "set", "bridge", "up")
            for index, name in enumerate(self.names):
                self._plug_in(index, name)
            self._stack = stack.pop_all()
        return self

    def _plug_in(self, index: int, name: str) -> None:
        plug = f"peer{index}"
        _ip("link", "add", CABLE, "netns", name, "type", "veth", "peer", "name", plug, "netns", self._hub)
        _ip("-n", self._hub, "link", "set", plug, "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"{self.address(index)}/24", "dev", CABLE)
        _ip("-n", name, "link", "set", CABLE, "up")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def address(self, index: int) -> str:
        """IP address of a peer."""
        return f"{SUBNET}.{index + 1}"

    def place(self, index: int) -> Place:
        """How a daemon runs in the namespace of a peer."""
        name = self.names[index]
        return Place(
            prefix=("ip", "netns", "exec", name),
            arguments=("--profile", "lan", "--listen", self.address(index)),
            inside=lambda: inside(name),
        )

    # -- faults --------------------------------------------------------------------------------------

    def link(self, index: int, state: str) -> None:
        """Set the link of a peer `up` or `down`."""
        _ip("-n", self.names[index], "link", "set", CABLE, state)

    def mute(self, index: int) -> None:
        """What this peer sends to the others goes nowhere, without a word to it; it still hears them."""
        for other in range(len(self.names)):
            if other != index:
                where = (self.address(other), "lladdr", NOBODY, "dev", CABLE, "nud", "permanent")
                _ip("-n", self.names[index], "neighbour", "replace", *where)

    def unmute(self, index: int) -> None:
        """Take `mute` back."""
        for other in range(len(self.names)):
            if other != index:
                _ip("-n", self.names[index], "neighbour", "delete", self.address(other), "dev", CABLE)

    def slow(self, index: int) -> None:
        """Limit what this peer sends."""
        run_tool("tc", "-n", self.names[index], "qdisc", "replace", "dev", CABLE, "root", "tbf", *SLOW)

    def fast(self, index: int) -> None:
        """Take `slow` back."""
        run_tool("tc", "-n", self.names[index], "qdisc", "delete", "dev", CABLE, "root")


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Sockets that this thread makes meanwhile belong to the namespace. Raises OSError."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(Path("/run/netns") / name)
        try:
            yield
        finally:
            _set_namespace(home)
    finally:
        os.close(home)


def _enter(path: Path) -> None:
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(there)
    finally:
        os.close(there)


def _set_namespace(descriptor: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if library.setns(descriptor, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _ip(*arguments: str) -> None:
    run_tool("ip", *arguments)


def _delete(name: str) -> None:
    """At the end: what cannot be deleted stays, and the rest is deleted all the same."""
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False, timeout=30)  # noqa: S603, S607


def run_tool(*command: str) -> str:
    """What the program prints. Raises CommandError with what it complains of."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
