"""Real daemons for tests: started from a small numpy manifest, watched through their API, always ended."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.cli.local_api import Json
from talkoot.peer import manifest_file, presets
from talkoot.peer.manifest import Manifest

PATIENCE_S = 120.0
"""Longest wait for any one event; the usual wait is a few seconds."""

T = TypeVar("T")


def small_manifest(*, peers: int, step_ms: float = 5.0) -> Manifest:
    """A swarm of the numpy model that begins with `peers` peers and leaves the machine some time."""
    manifest = presets.make("numpy-test", name="test")
    return replace(
        manifest,
        swarm=replace(manifest.swarm, start_peers=peers),
        model=replace(manifest.model, config={"step_ms": step_ms}),
    )


def until(event: Callable[[], T | None], what: str, nodes: Sequence[DemoNode] = ()) -> T:
    """The first value of `event` that is not None and not False, looked for often."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        value = event()
        if value is not None and value is not False:
            return value
        time.sleep(0.05)
    told = "; ".join(f"{node.name}: exit {node.exit_code}, {node.last_words()}" for node in nodes)
    raise AssertionError(f"no {what} within {PATIENCE_S:.0f} s; {told}")


class Daemons:
    """The peers of one swarm. `peers[0]` founded it."""

    def __init__(self, folder: Path, *options: str) -> None:
        """`options` go to every `talkoot run`."""
        self.folder = folder
        self.options = options
        self.peers: list[DemoNode] = []

    def found(self, manifest: Manifest, node: DemoNode | None = None, *, profile: str = "test") -> DemoNode:
        """Start the first peer, on loopback unless told otherwise."""
        manifest_file.save(manifest, self.folder / manifest_file.FILE_NAME)
        return self._start(node, str(self.folder / manifest_file.FILE_NAME), "--profile", profile)

    def join(self, node: DemoNode | None = None, *, profile: str = "test") -> DemoNode:
        """Start one more peer with an invite of the founder."""
        invite = until(self._invite, "invite", self.peers)
        return self._start(node, "--join", invite, "--profile", profile)

    def _invite(self) -> str | None:
        return self.peers[0].invite() if self.peers[0].poll() else None

    def _start(self, node: DemoNode | None, *arguments: str) -> DemoNode:
        node = node or DemoNode(f"peer-{len(self.peers)}", self.folder, TALKOOT)
        self.peers.append(node)
        node.start([*arguments, "--device", "cpu", "--threads", "1", *self.options])
        return node

    def status(self, node: DemoNode) -> Json:
        """What `node` says, once it says something."""
        return until(node.poll, f"status of {node.name}", self.peers)

    def round_of(self, node: DemoNode) -> int:
        """Rounds in the outer state of `node`, once it has one."""
        return until(lambda: _round(node.poll()), f"outer state of {node.name}", self.peers)

    def counted(self, *nodes: DemoNode, since: int) -> int:
        """Wait until each of `nodes` has committed the same round, not before `since`, that counts them all.

        Returns that round; its digests were equal.
        """

        def common() -> int | None:
            names = {(node.poll() or {}).get("peer_id") for node in nodes}
            views = [{entry["round"]: entry for entry in node.rounds()} for node in nodes]
            for number in sorted(set.intersection(*(set(view) for view in views)), reverse=True):
                entries = [view[number] for view in views]
                if number >= since and all(names <= set(entry["counted"]) for entry in entries):
                    assert len({entry["digest"] for entry in entries}) == 1, entries
                    return int(number)
            return None

        return until(common, f"round after {since} that counts all of {len(nodes)} peers", self.peers)


def _round(status: Json | None) -> int | None:
    return None if status is None else status["round"]


@contextmanager
def daemons(folder: Path, *options: str) -> Iterator[Daemons]:
    """No process is left when this ends, whatever happens."""
    swarm = Daemons(folder, *options)
    try:
        yield swarm
    finally:
        stop_all(swarm.peers, polite_s=20.0, firm_s=5.0)
