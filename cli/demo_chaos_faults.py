"""Does to a peer of the demo what the schedule says, and takes it back."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from talkoot.cli.demo_chaos_network import Cables, run_tool
from talkoot.cli.demo_chaos_network import why_not as why_no_network
from talkoot.cli.demo_chaos_plan import KINDS
from talkoot.cli.demo_node import DemoNode
from talkoot.cli.errors import CommandError

DISK = "64m"
"""Size of a peer's own file system: a few times what the numpy trainer's peers need."""

BALLAST = "ballast"
"""File that fills a disk."""


def possible_kinds() -> tuple[list[str], dict[str, str]]:
    """Faults that can be made here, and for the others the reason why not."""
    reasons = {"nothing": "", "disk": why_no_disk(), "network": why_no_network()}
    left_out = {name: reasons[kind.need] for name, kind in KINDS.items() if reasons[kind.need]}
    return [name for name in KINDS if name not in left_out], left_out


def why_no_disk() -> str:
    """Why no file system can be made here, or nothing."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        return "only root makes file systems of a limited size, on Linux"
    try:
        with TemporaryDirectory() as folder, small_disks([Path(folder) / "disk"]):
            return ""
    except CommandError as error:
        return str(error)


@contextmanager
def small_disks(folders: list[Path]) -> Iterator[None]:
    """A small file system on each of these folders, which are made. Raises CommandError."""
    with ExitStack() as stack:
        for folder in folders:
            folder.mkdir(mode=0o700, parents=True)
            size = f"size={DISK},mode=0700"
            name = f"talkoot-{os.getpid()}-disk"  # for whoever clears up after us, if we are killed
            run_tool("mount", "-t", "tmpfs", "-o", size, name, str(folder))
            # Lazily: a process that is about to be gone may still hold it.
            stack.callback(run_tool, "umount", "--lazy", str(folder))
        yield


def fill(folder: Path) -> None:
    """Leave no byte free on the file system of a folder."""
    block = bytes(1 << 16)
    with (folder / BALLAST).open("wb", buffering=0) as file, suppress(OSError):
        while True:
            if file.write(block) < len(block):
                block = block[: max(1, len(block) // 2)]


class Trouble:
    """One fault: made by the constructor, taken back by `step` when its time has come."""

    def __init__(self, kind: str, node: DemoNode, index: int, lasts_s: float, cables: Cables | None) -> None:
        self.kind = kind
        self.node = node
        self.index = index
        self.began = time.monotonic()
        self.over = False
        self.ended_at: float | None = None
        """When it was taken back."""
        self._ends = self.began + lasts_s
        self._cables = cables
        self._undo: Callable[[], None] = self._begin()

    def _begin(self) -> Callable[[], None]:
        """Do it; returns what takes it back."""
        node, cables, index = self.node, self._cables, self.index
        match self.kind:
            case "kill":
                node.kill()
                return node.start
            case "freeze":
                node.freeze()
                return node.thaw
            case "p2pd":
                node.kill_part("p2pd")
                return _nothing
            case "trainer":
                node.kill_part("trainer.worker")
                return _nothing
            case "disk":
                fill(node.state_dir)
                return lambda: (node.state_dir / BALLAST).unlink(missing_ok=True)
        assert cables is not None
        match self.kind:
            case "link":
                cables.link(index, "down")
                return lambda: cables.link(index, "up")
            case "mute":
                cables.mute(index)
                return lambda: cables.unmute(index)
            case "slow":
                cables.slow(index)
                return lambda: cables.fast(index)
        raise AssertionError(f"nobody knows how to make {self.kind}")

    def step(self, now: float) -> bool:
        """Take it back if its time has come; whether it is over now."""
        if not self.over and now >= self._ends:
            self.over, self.ended_at = True, now
            self._undo()
        return self.over

    def take_back(self) -> None:
        """At the end of the demo, whatever is left; starts nobody."""
        if not self.over and self.kind != "kill":
            self.over = True
            self._undo()


def _nothing() -> None:
    """What died is started again by its parent."""
