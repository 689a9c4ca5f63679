"""The faults of `alert_truth.py`, and the swarm of real nodes in which they are made."""

import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hostile import Victim, start
from recovery_swarm import Lost, Swarm

from talkoot.cli.demo_chaos_faults import BALLAST, fill, why_no_disk
from talkoot.cli.demo_node import TALKOOT, DemoNode, Place
from talkoot.peer import manifest_file
from talkoot.peer.guest.quota import kept_month

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from prometheus_rig import free_port

NODES = ("founder", "peer-1", "peer-2", "peer-3")
SMALL_DISK = "peer-1"
FIRE_LIMIT_S = 300.0
"""Longest wait for an alert to fire, once the fault is made."""
SETTLES = 3
"""Times that a round of everybody is waited for, LIMIT_S each, before the next fault."""
WRONG_CLOCK = "import time\nnow = time.time\ntime.time = lambda: now() + 30.0\n"
"""What Python runs first in all processes of a node whose clock is wrong."""
STEP_MS = 100.0
"""A step takes at least this long, so that small machines have time for all of them."""
OFFENCES = 100_000
NEARLY = 0.92
"""Part of a quota that is used when it is set."""
STOP_S = 60.0
"""Longest wait for an orderly stop."""

Json = dict[str, Any]


def tell(text: str) -> None:
    """On stderr, so that the table has stdout for itself."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong, and who ought to be told of it."""

    words: str
    expected: dict[str, set[str]]
    """Alert -> the nodes that it is to fire for."""
    make: Callable[["Truth"], Callable[[], None]]
    """Does it; returns what ends it."""
    lacking: Callable[[], str] = lambda: ""
    """Why it cannot be made here, or nothing."""


class Truth:
    """A swarm, and a Prometheus that watches it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.swarm = Swarm(folder / "swarm", trainers=len(NODES))
        self.meanwhile: Callable[[], None] = _nothing
        """Done again and again while an alert is waited for."""
        self.ports = {name: free_port() for name in NODES}
        self.books, self.noise = folder / "books", folder / "noise"
        self._write_texts()
        path = self.swarm.folder / manifest_file.FILE_NAME
        manifest, _ = manifest_file.load(path)
        data = replace(manifest.data, source="text", paths=(str(self.books / "*.txt"),))
        model = replace(manifest.model, config={**manifest.model.config, "step_ms": STEP_MS})
        manifest_file.save(replace(manifest, data=data, model=model), path)

    def _write_texts(self) -> None:
        rng = random.Random(0)
        for place in (self.books, self.noise):
            place.mkdir()
        for number in range(40):
            text = f"{number} green bottles hanging on the wall, " * 100
            (self.books / f"{number}.txt").write_text(text)
            letters = "".join(chr(rng.randrange(32, 127)) for _ in range(4000))
            (self.noise / f"{number}.txt").write_text(letters)

    def place(self, name: str, *more: str, prefix: tuple[str, ...] = (), data: Path | None = None) -> Place:
        """How a node of this name runs."""
        return Place(
            prefix=prefix,
            arguments=(
                *("--profile", "test", "--http-port", str(self.ports[name])),
                *("--checkpoint-every", "0" if name == SMALL_DISK else "1"),
                *("--data", str((data or self.books) / "*.txt")),
                *more,
            ),
        )

    def begin(self) -> None:
        """Start all nodes; raises Lost when they do not train together."""
        nodes = [self.swarm.found(place=self.place("founder"))]
        nodes += [self.swarm.join(name, self.swarm.invite(), place=self.place(name)) for name in NODES[1:]]
        self.settle()

    def settle(self) -> None:
        """Wait for a round that counts everybody; a node that has ended is started again. Raises Lost."""
        founder, *_ = nodes = self.swarm.nodes
        for left in reversed(range(SETTLES)):
            for node in nodes:
                if not node.running:
                    node.start()
            try:
                self.swarm.counted(founder, nodes, since=self.swarm.round_of(founder) + 1)
            except Lost as error:
                if not left:
                    raise
                tell(f"again: {error}")
            else:
                return

    def equal_rounds(self) -> int:
        """Final rounds that two nodes or more remember. Raises Lost where their states differ."""
        digests: dict[int, list[str]] = {}
        for node in self.swarm.nodes:
            for entry in node.rounds():
                if entry["kind"] == "final":
                    digests.setdefault(entry["round"], []).append(entry["digest"])
        if differ := [number for number, each in digests.items() if len(set(each)) > 1]:
            raise Lost(f"two states of round {differ[0]}")
        return sum(len(each) > 1 for each in digests.values())

    def node(self, name: str) -> DemoNode:
        """The node of this name."""
        return next(node for node in self.swarm.nodes if node.name == name)

    def targets(self) -> list[Json]:
        """For Prometheus."""
        return [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name, "swarm": "truth"}}
            for name, port in self.ports.items()
        ]

    def swap(self, name: str, place: Place) -> Callable[[], None]:
        """Stop a node in good order and start it again as `place` says; returns what takes that back."""
        usual = self.node(name)
        other = DemoNode(name, self.swarm.folder, TALKOOT, place)
        self._replace(usual, other, [*place.arguments, "--device", "cpu", "--threads", "1"])
        return lambda: self._replace(other, usual, [])

    def _replace(self, old: DemoNode, new: DemoNode, arguments: list[str]) -> None:
        old.interrupt()
        if not old.wait(STOP_S):
            old.kill()
        self.swarm.nodes[self.swarm.nodes.index(old)] = new
        new.start(arguments)


# -- the faults --------------------------------------------------------------------------------------


def kill(*names: str) -> Callable[[Truth], Callable[[], None]]:
    """SIGKILL to all processes of these nodes."""

    def make(truth: Truth) -> Callable[[], None]:
        nodes = [truth.node(name) for name in names]

        def undo() -> None:
            for node in nodes:
                node.start()

        for node in nodes:
            node.kill()
        return undo

    return make


def freeze(*names: str) -> Callable[[Truth], Callable[[], None]]:
    """SIGSTOP to all processes of these nodes."""

    def make(truth: Truth) -> Callable[[], None]:
        nodes = [truth.node(name) for name in names]

        def undo() -> None:
            for node in nodes:
                node.thaw()

        for node in nodes:
            node.freeze()
        return undo

    return make


def fill_disk(truth: Truth) -> Callable[[], None]:
    """No byte is free on the file system of the state directory."""
    state = truth.node(SMALL_DISK).state_dir
    fill(state)
    return (state / BALLAST).unlink


def spoil_checkpoints(truth: Truth) -> Callable[[], None]:
    """A file is where the folder of checkpoints was."""
    folder = truth.node("peer-2").state_dir / "checkpoints"
    away = folder.rename(folder.with_name("away"))
    folder.touch()

    def undo() -> None:
        folder.unlink()
        away.rename(folder)

    return undo


def feed_noise(truth: Truth) -> Callable[[], None]:
    """The node is started again with random letters for data."""
    return truth.swap("peer-3", truth.place("peer-3", data=truth.noise))


def turn_clock(truth: Truth) -> Callable[[], None]:
    """The node is started again with a clock half a minute ahead."""
    folder = truth.folder / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WRONG_CLOCK)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return truth.swap("peer-3", truth.place("peer-3", prefix=("env", f"PYTHONPATH={path}")))


def narrow_quota(truth: Truth) -> Callable[[], None]:
    """The node is started again with a quota of which nearly all is used already."""
    used = kept_month(truth.node("peer-3").state_dir / "quota.json").used
    quota = f"TALKOOT_LIMITS_QUOTA={max(1, int(used / NEARLY))}"
    return truth.swap("peer-3", truth.place("peer-3", prefix=("env", quota)))


def hide(truth: Truth) -> Callable[[], None]:
    """The node is started again with an address at which nobody listens, and without relays."""
    nowhere = f"/ip4/127.0.0.1/tcp/{free_port()}"
    return truth.swap("peer-3", truth.place("peer-3", "--announce", nowhere, "--relayed", "refuse"))


def attack(truth: Truth) -> Callable[[], None]:
    """A stranger with a key of its own declares frames above every limit; its bans are lifted at once."""
    victim = Victim(truth.node("founder"), truth.swarm)
    honest = {truth.swarm.peer_id(node) for node in truth.swarm.nodes}
    process = start(victim, "oversized", OFFENCES, FIRE_LIMIT_S, 0)

    def lift() -> None:
        victim.lift_all(honest)

    truth.meanwhile = lift

    def undo() -> None:
        truth.meanwhile = _nothing
        process.kill()
        process.communicate()

    return undo


def _nothing() -> None:
    """There is nothing to do while one waits."""


def lacks_disk() -> str:
    """Why there is no small disk here, or nothing."""
    return why_no_disk()


FAULTS = (
    Fault(
        words="two of four nodes are killed",
        expected={"TalkootNodeDown": {"peer-2", "peer-3"}, "TalkootPeersLow": {"founder", "peer-1"}},
        make=kill("peer-2", "peer-3"),
    ),
    Fault(
        words="the disk of a node is full",
        expected={
            "TalkootPausedUnexpectedly": {SMALL_DISK},
            "TalkootDiskNearlyFull": {SMALL_DISK},
            "TalkootNodeStuck": {SMALL_DISK},
        },
        make=fill_disk,
        lacking=lacks_disk,
    ),
    Fault(
        words="the folder of checkpoints cannot be written",
        expected={"TalkootCheckpointStale": {"peer-2"}},
        make=spoil_checkpoints,
    ),
    Fault(
        words="a stranger sends frames that are too long",
        expected={"TalkootMessagesRejected": {"founder"}},
        make=attack,
    ),
    Fault(
        words="a node trains on noise",
        expected={"TalkootLossDiverged": {"peer-3"}},
        make=feed_noise,
    ),
    Fault(
        words="a clock is half a minute ahead",
        expected={"TalkootClockSkew": {"peer-3"}},
        make=turn_clock,
    ),
    Fault(
        words="a node announces an address at which nobody reaches it",
        expected={"TalkootNodeUnreachable": {"peer-3"}},
        make=hide,
    ),
    Fault(
        words="a quota is nearly used up",
        expected={"TalkootQuotaNearlyUsed": {"peer-3"}},
        make=narrow_quota,
    ),
    Fault(
        words="three of four nodes hang",
        expected={"TalkootRoundFailures": {"founder"}},
        make=freeze("peer-1", "peer-2", "peer-3"),
    ),
)
