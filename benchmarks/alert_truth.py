"""Does each alert fire when its fault is made, and clear when it is over? Real nodes, a real Prometheus.

    python benchmarks/alert_truth.py [--only TalkootNodeDown,...] [--json FILE]

Four nodes with the numpy trainer on loopback, and Prometheus with the shipped rules, which look every
second. So that nobody waits for days, all times in the rules are a sixtieth of what is shipped (`10m` is
`10s`); for checkpoints also the numbers beside them (`SHORTER`). Thresholds stay. The promtool cases in
tests/testdata/rules have the shipped times.

Before the first fault no alert may fire. Then, one after the other: the fault, the seconds until its alerts
fire for the nodes that they ought to, the end of the fault, the seconds until they are quiet again, and
what else fired meanwhile. The next fault waits until nothing fires and a round counts everybody; how long
that may take is bounded (half an hour for all where nothing goes wrong, two hours at most on a machine that
is too busy). `--json` is written after each fault. Needs Debian's package `prometheus`, and root (for a small
disk); what cannot be made is said. Exit code 1 when an alert does not fire, does not clear, or fires without
a fault.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from hostile import Victim, start
from recovery_swarm import Lost, Swarm

from talkoot.cli.demo_chaos_faults import BALLAST, fill, small_disks, why_no_disk
from talkoot.cli.demo_node import TALKOOT, DemoNode, Place
from talkoot.peer import manifest_file

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from prometheus_rig import RULES, Prometheus, free_port, watching

NODES = ("founder", "peer-1", "peer-2", "peer-3")
SMALL_DISK = "peer-1"
SHORTER = ((" > 6 * 3600", " > 60"), ("[6h]) > 200", "[50s]) > 2"))
"""Checkpoints are written every round here, not every 100."""
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FACTOR = 60
LEAST_S = 10
"""Shortest time of a rule: a rate needs some values."""
SCRAPE_S = 2.0
"""Interval of scrapes, and how long one may take: a busy machine is no fault."""
CALM_S = 20.0
FIRE_LIMIT_S = 300.0
"""Longest wait for an alert to fire, once the fault is made."""
CLEAR_LIMIT_S = 400.0
"""Longest wait for it to clear: where nodes were killed they start anew, on a busy machine for minutes."""
SETTLES = 3
"""Times that a round of everybody is waited for, LIMIT_S each, before the next fault."""
WRONG_CLOCK = "import time\nnow = time.time\ntime.time = lambda: now() + 30.0\n"
"""What Python runs first in all processes of a node whose clock is wrong."""
STEP_MS = 100.0
"""A step takes at least this long, so that small machines have time for all of them."""
OFFENCES = 100_000
LOOK_S = 0.5
STOP_S = 60.0
"""Longest wait for an orderly stop."""

Json = dict[str, Any]


def shortened(rules: str) -> str:
    """The rules with a sixtieth of their times."""
    for long, short in SHORTER:
        rules = rules.replace(long, short)

    def shorter(match: "re.Match[str]") -> str:
        seconds = int(match[2]) * SECONDS[match[3]]
        return f"{match[1]}{seconds if seconds < 60 else max(LEAST_S, seconds // FACTOR)}s{match[4]}"

    rules = re.sub(r"(\[)(\d+)([smhd])(\])", shorter, rules)
    return re.sub(r"(\n +for: )(\d+)([smhd])(\n)", shorter, rules)


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


@dataclass(kw_only=True)
class Told:
    """What came of one alert under its fault."""

    alert: str
    fault: str
    nodes: list[str]
    fired_s: float | None = None
    """Seconds from the fault until it fired for all of `nodes`."""
    cleared_s: float | None = None
    """Seconds from the end of the fault until it fired for nobody."""
    also: list[str] = field(default_factory=list)
    """Other alerts that fired meanwhile."""
    left_out: str = ""

    @property
    def good(self) -> bool:
        """Whether it did as it should, or could not be tried."""
        return bool(self.left_out) or (self.fired_s is not None and self.cleared_s is not None)


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

    def place(self, name: str, *, prefix: tuple[str, ...] = (), data: Path | None = None) -> Place:
        """How a node of this name runs."""
        return Place(
            prefix=prefix,
            arguments=(
                *("--profile", "test", "--http-port", str(self.ports[name])),
                *("--checkpoint-every", "0" if name == SMALL_DISK else "1"),
                *("--data", str((data or self.books) / "*.txt")),
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
        words="three of four nodes hang",
        expected={"TalkootRoundFailures": {"founder"}},
        make=freeze("peer-1", "peer-2", "peer-3"),
    ),
)

WITHOUT_METRICS = ("TalkootQuotaNearlyUsed",)
"""No node exports what these look at. TalkootNodeUnreachable needs routers, which are not here."""


# -- the course --------------------------------------------------------------------------------------


def tried(fault: Fault, truth: Truth, prometheus: Prometheus) -> list[Told]:
    """Make a fault and end it; what came of its alerts."""
    told = {
        alert: Told(alert=alert, fault=fault.words, nodes=sorted(nodes))
        for alert, nodes in fault.expected.items()
    }
    if lacking := fault.lacking():
        for each in told.values():
            each.left_out = lacking
        return list(told.values())
    tell(f"{fault.words} ...")
    began, undo, also = time.monotonic(), fault.make(truth), set[str]()
    until = time.monotonic() + FIRE_LIMIT_S
    try:
        while time.monotonic() < until and any(each.fired_s is None for each in told.values()):
            firing = look(truth, prometheus)
            also |= firing.keys() - told.keys()
            for alert, nodes in fault.expected.items():
                if told[alert].fired_s is None and nodes <= firing.get(alert, set()):
                    told[alert].fired_s = round(time.monotonic() - began, 1)
    finally:
        undo()
    ended = time.monotonic()
    while time.monotonic() < ended + CLEAR_LIMIT_S:
        firing = look(truth, prometheus)
        also |= firing.keys() - told.keys()
        for each in told.values():
            if each.fired_s is not None:
                quiet = each.alert not in firing
                each.cleared_s = (each.cleared_s or round(time.monotonic() - ended, 1)) if quiet else None
        if not firing:
            break
    for each in told.values():
        each.also = sorted(also)
        tell(row(each))
    return list(told.values())


def look(truth: Truth, prometheus: Prometheus) -> dict[str, set[str]]:
    """Alerts that fire, looked for again and again."""
    truth.meanwhile()
    time.sleep(LOOK_S)  # Prometheus is another process, and says when asked only
    return prometheus.alerts()


def run(options: argparse.Namespace) -> Json:
    """Everything. Raises Lost."""
    only = set(options.only.split(",")) if options.only else set[str]()
    faults = [fault for fault in FAULTS if not only or only & fault.expected.keys()]
    with tempfile.TemporaryDirectory(prefix="talkoot-alerts-") as folder, ExitStack() as stack:
        truth = Truth(Path(folder))
        stack.callback(truth.swarm.end)
        if not lacks_disk():
            stack.enter_context(small_disks([truth.swarm.folder / SMALL_DISK]))
            stack.callback(truth.swarm.end)
        truth.begin()
        rules = {path.name: shortened(path.read_text()) for path in RULES.glob("*.yml")}
        prometheus = stack.enter_context(
            watching(Path(folder) / "prometheus", rules, truth.targets(), interval_s=SCRAPE_S)
        )
        tell(f"all {len(NODES)} nodes train; {CALM_S:.0f} s without a fault")
        calm, until = set[str](), time.monotonic() + CALM_S
        while time.monotonic() < until:
            calm |= look(truth, prometheus).keys()
        tell(f"without a fault: {', '.join(sorted(calm)) or 'none fired'}")
        result, told = dict[str, Any](), list[Told]()
        for fault in faults:
            if told:
                truth.settle()
            told += tried(fault, truth, prometheus)
            result = {
                "alerts": [asdict(each) for each in told],
                "without_metrics": list(WITHOUT_METRICS),
                "without_fault": sorted(calm),
                "rounds_with_equal_digests": truth.equal_rounds(),
                "good": not calm and all(each.good for each in told),
                "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, CPU",
                "load_average": [round(load, 1) for load in os.getloadavg()],
            }
            if options.json:
                options.json.write_text(json.dumps(result, indent=2) + "\n")
    return result


HEAD = f"{'alert':27}{'fired':>8}{'cleared':>9}  fault; nodes; what else fired"


def row(told: Told) -> str:
    """One line for one alert."""
    if told.left_out:
        return f"{told.alert:27}{'-':>8}{'-':>9}  left out: {told.left_out}"
    fired = "NEVER" if told.fired_s is None else f"{told.fired_s:.0f} s"
    cleared = (
        "-" if told.fired_s is None else "NEVER" if told.cleared_s is None else f"{told.cleared_s:.0f} s"
    )
    also = ", ".join(told.also) or "nothing"
    return f"{told.alert:27}{fired:>8}{cleared:>9}  {told.fault}; {', '.join(told.nodes)}; {also}"


def tell(text: str) -> None:
    """On stderr, so that the table has stdout for itself."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="alerts, with commas between them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which("prometheus") is None:
        tell("no `prometheus` here: install Debian's package prometheus")
        return 2
    try:
        result = run(options)
    except Lost as error:
        tell(f"lost: {error}")
        return 1
    print("\n".join([HEAD, *(row(Told(**each)) for each in result["alerts"])]))
    for alert in WITHOUT_METRICS:
        print(f"{alert:27}{'-':>8}{'-':>9}  no node exports its metric yet")
    print(f"without a fault: {', '.join(result['without_fault']) or 'none fired'}")
    return 0 if result["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
