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
import re
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from alert_faults import FAULTS, FIRE_LIMIT_S, NODES, SMALL_DISK, Fault, Truth, lacks_disk, tell
from recovery_swarm import Lost

from talkoot.cli.demo_chaos_faults import small_disks

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from prometheus_rig import RULES, Prometheus, watching

SHORTER = (
    (" > 6 * 3600", " > 60"),
    ("[6h]) > 200", "[50s]) > 2"),
    *(
        (f"talkoot_round_{name}[15m]", f"talkoot_round_{name}[50s]")
        for name in ("failures_total", "attempts_total")
    ),
)
"""Checkpoints are written every round here, not every 100; and tries at a round take as long as anywhere."""
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FACTOR = 60
LEAST_S = 10
"""Shortest time of a rule: a rate needs some values."""
SCRAPE_S = 2.0
"""Interval of scrapes, and how long one may take: a busy machine is no fault."""
CALM_S = 20.0
CLEAR_LIMIT_S = 400.0
"""Longest wait for it to clear: where nodes were killed they start anew, on a busy machine for minutes."""
LOOK_S = 0.5

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
    print(f"without a fault: {', '.join(result['without_fault']) or 'none fired'}")
    return 0 if result["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
