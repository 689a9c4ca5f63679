"""Real daemons for `benchmarks/recovery.py`: a small swarm, what its peers say, and what their disks hold."""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from talkoot.cli.demo_node import HERE, TALKOOT, DemoNode, Place
from talkoot.peer import manifest_file, presets
from talkoot.peer.head import Head, StoreCorruptError, read_head

Json = dict[str, Any]
T = TypeVar("T")

LIMIT_S = 240.0
"""Longest wait for any one event."""
POLL_S = 0.05
"""A daemon, a process of its own, says how it is only when asked."""
HIDDEN = 128
"""Width of the numpy model: 65,792 parameters, so a state of 526 kB."""
STEP_MS = 40.0
"""A step takes at least this long: a round is a second or more."""

_CAUGHT_UP = re.compile(r"catching up with (\d+) rounds by (\w+)")


class Lost(Exception):  # noqa: N818 - reads well where it is raised
    """Something did not come about, or is gone."""


class Swarm:
    """The peers of one swarm; the first one founded it. `end` in any case."""

    def __init__(self, folder: Path, *, trainers: int) -> None:
        """`trainers`: training begins when so many are there."""
        folder.mkdir()
        self.folder = folder
        self.nodes: list[DemoNode] = []
        manifest = presets.make("numpy-test", name="recovery")
        manifest = replace(
            manifest,
            swarm=replace(manifest.swarm, start_peers=trainers),
            model=replace(manifest.model, config={"hidden": HIDDEN, "step_ms": STEP_MS}),
        )
        manifest_file.save(manifest, folder / manifest_file.FILE_NAME)

    def found(self, *options: str, place: Place = HERE) -> DemoNode:
        """Start the founder, and wait until it holds the first state."""
        node = self._start("founder", place, str(self.folder / manifest_file.FILE_NAME), *options)
        self.until(lambda: (node.poll() or {}).get("digest"), "founded swarm")
        return node

    def invite(self) -> str:
        """A fresh one."""
        return self.until(self.nodes[0].invite, "invite")

    def join(self, name: str, invite: str, *options: str, place: Place = HERE) -> DemoNode:
        """Start one more peer."""
        return self._start(name, place, "--join", invite, *options)

    def _start(self, name: str, place: Place, *arguments: str) -> DemoNode:
        node = DemoNode(name, self.folder, TALKOOT, place)
        self.nodes.append(node)
        node.start([*arguments, *place.arguments, "--device", "cpu", "--threads", "1"])
        return node

    def end(self) -> None:
        """No process is left."""
        for node in self.nodes:
            node.thaw()
            node.kill()

    # -- waiting -------------------------------------------------------------------------------------

    def until(self, event: Callable[[], T | None], what: str) -> T:
        """The first value of `event` that is something. Raises Lost."""
        began = time.monotonic()
        while time.monotonic() - began < LIMIT_S:
            value = event()
            if value is not None and value is not False:
                return value
            time.sleep(POLL_S)  # other processes, which say when asked only
        told = "; ".join(f"{node.name}: {node.last_words()}" for node in self.nodes if not node.frozen)
        raise Lost(f"no {what} within {LIMIT_S:.0f} s; {told}")

    def round_of(self, node: DemoNode) -> int:
        """Rounds in its outer state, once it has one."""
        return self.until(lambda: (node.poll() or {}).get("round"), f"state of {node.name}")

    def reach(self, rounds: int, *nodes: DemoNode) -> None:
        """Wait until all of these hold so many rounds."""
        for node in nodes:
            self.until(lambda node=node: self.round_of(node) >= rounds, f"round {rounds} at {node.name}")

    def counted(self, watcher: DemoNode, peers: Sequence[DemoNode], since: int) -> int:
        """Wait for a round, not before `since`, that counts all of these at once, as `watcher` sees it."""
        names = {self.peer_id(peer) for peer in peers}

        def found() -> int | None:
            entries = [entry for entry in watcher.rounds() if entry["round"] >= since]
            return next((entry["round"] for entry in entries if names <= set(entry["counted"])), None)

        return self.until(found, "round that counts " + " ".join(peer.name for peer in peers))

    def peer_id(self, node: DemoNode) -> str:
        """Its name in certificates."""
        return str(self.until(lambda: (node.status or node.poll() or {}).get("peer_id"), "peer id"))

    # -- what they say -------------------------------------------------------------------------------

    def digests(self) -> dict[int, str]:
        """Of every round that a running peer remembers. Raises Lost where two differ."""
        seen: dict[int, str] = {}
        for node in self.nodes:
            for entry in node.rounds():
                if seen.setdefault(entry["round"], entry["digest"]) != entry["digest"]:
                    raise Lost(f"two states of round {entry['round']}")
        return seen


def caught_up_by(node: DemoNode, since: int) -> list[str]:
    """How it caught up, by its log from byte `since` on: each time `rounds way`."""
    text = node.log_path.read_bytes()[since:].decode(errors="replace")
    return [f"{rounds} by {way}" for rounds, way in _CAUGHT_UP.findall(text)]


def log_size(node: DemoNode) -> int:
    """Bytes in its log."""
    return node.log_path.stat().st_size


def on_disk(node: DemoNode) -> Head:
    """The state that its disk holds. Raises Lost."""
    with suppress(StoreCorruptError, OSError):
        head = read_head(node.state_dir / "outer")
        if head is not None:
            return head
    raise Lost(f"the disk of {node.name} holds no state")
