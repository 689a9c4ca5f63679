"""Do a node's limits of upload and download hold on its network interface, and what do they cost the others?

    python benchmarks/rates.py [--upload 400kB/s] [--download 400kB/s] [--minutes 2] [--hidden 128]
        [--vocabulary 4096] [--steps 2] [--step-ms 8000] [--dir DIR] [--json FILE]

Four daemons with a p2pd and a numpy trainer each, in network namespaces of their own (root, iproute2);
VOCABULARY (2 HIDDEN + 1) parameters. First MINUTES of rounds without a limit; then the last peer is started
again with its limits, and once a round has counted it, or it has followed three that left it out, come
MINUTES more. Then somebody without limits
fetches the state from that peer alone (serving), and at last a newcomer with the same limits joins the swarm.
All that crosses the limited one's end of its cable counts, every header and retransmission included; it is
read four times a second. For each part the most of any 60 s is printed as a share of the limit, and for the
rounds the median interval, how many counted the limited peer, and how much slower they were than before.
Exit code 1 when a share is above 1.05, or the rounds are more than 10 % slower.
"""

import argparse
import json
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from download_rig import Desk, Process
from join_running import PEERS, Swarm, interrupted, options_of_swarm

from talkoot.cli.demo_chaos_network import Cables, inside
from talkoot.cli.demo_node import TALKOOT, DemoNode, Place, stop_all
from talkoot.peer.config.values import rate

Json = dict[str, Any]

CAPPED, FETCHER, NEWCOMER = PEERS - 1, PEERS, PEERS + 1
LOOK_S = 0.25
WINDOW_S = 60.0
LEFT_OUT = 3
MOST_SHARE, MOST_SLOWER = 1.05, 0.10


class Meter:
    """Counts what crosses one cable, in a thread of its own. Sent and received as its peer sees it."""

    def __init__(self, hub: str, plug: str) -> None:
        self._hub, self._plug = hub, f"{plug}:"
        self._samples: list[tuple[float, int, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def measuring(self) -> Iterator["Meter"]:
        """Meanwhile."""
        self._thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._thread.join()

    def _run(self) -> None:
        with inside(self._hub):
            while not self._ended.wait(LOOK_S):
                self._samples.append((time.monotonic(), *self._counts()))

    def _counts(self) -> tuple[int, int]:
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
            if line.strip().startswith(self._plug):
                counts = line.split(":")[1].split()
                return int(counts[0]), int(counts[8])  # what the hub receives, the peer has sent
        raise SystemExit(f"{self._plug} is gone")

    def figures(self, began: float, ended: float, limits: tuple[float, float]) -> Json:
        """Of what was between two times: the most of any window as a share, and the mean."""
        seen = [each for each in self._samples if began <= each[0] <= ended]
        found: Json = {"seconds": round(ended - began, 1)}
        for index, name in ((1, "sent"), (2, "received")):
            points = [(each[0], each[index]) for each in seen]
            total, limit = points[-1][1] - points[0][1], limits[index - 1]
            found[name] = {
                "bytes": total,
                "share_of_limit": round(_most(points) / (limit * WINDOW_S), 4),
                "mean_share": round(total / (points[-1][0] - points[0][0]) / limit, 4),
            }
        return found


def _most(points: list[tuple[float, int]]) -> float:
    """The most bytes of any 60 s; of a shorter time, all of it."""
    most, start = 0.0, 0
    for at, count in points:
        while start + 1 < len(points) and at - points[start + 1][0] >= WINDOW_S:
            start += 1
        most = max(most, count - points[start][1])
    return most


class Rates:
    """The swarm, and one peer of it with limits."""

    def __init__(self, folder: Path, cables: Cables, options: argparse.Namespace) -> None:
        self.swarm = Swarm(folder, cables, options)
        self._cables = cables
        self._options = options
        self.limits = rate().read(options.upload), rate().read(options.download)

    def place(self, number: int) -> Place:
        """A namespace with the limits set."""
        place = self._cables.place(number)
        environment = (
            f"TALKOOT_LIMITS_UPLOAD={self._options.upload}",
            f"TALKOOT_LIMITS_DOWNLOAD={self._options.download}",
        )
        return replace(place, prefix=(*place.prefix, "env", *environment))

    def start(self, number: int, name: str, *arguments: str) -> DemoNode:
        """A daemon with limits."""
        place = self.place(number)
        node = DemoNode(name, self.swarm.folder, TALKOOT, place)
        node.start([*arguments, *place.arguments, "--device", "cpu", "--threads", "1"])
        return node

    def limit(self) -> DemoNode:
        """Start the last peer again, with limits; returns it once it takes part again."""
        usual = self.swarm.nodes.pop()
        usual.interrupt()
        usual.wait(60.0)
        self.swarm.next_commit()
        node = self.start(CAPPED, usual.name)
        self.swarm.nodes.append(node)
        began = self.swarm.look()

        def takes_part() -> bool:
            followed = ((node.poll() or {}).get("round") or 0) > began + LEFT_OUT
            return self.counts(node) or followed

        self.swarm.until(takes_part, "round that counts the limited peer")
        return node

    def counts(self, node: DemoNode) -> bool:
        """Whether the last round counts it."""
        status = node.poll()
        last = self.swarm.look()
        return status is not None and last >= 0 and status["peer_id"] in self.swarm.rounds[last]["counted"]

    def some_rounds(self) -> list[int]:
        """The rounds of some minutes."""
        began, numbers = time.monotonic(), list[int]()
        while time.monotonic() - began < 60.0 * self._options.minutes or len(numbers) < 2:
            numbers.append(self.swarm.next_commit())
            entry = self.swarm.rounds[numbers[-1]]
            tell(f"round {numbers[-1]}: {len(entry['counted'])} counted, {entry['seconds'] or 0:.1f} s")
        return numbers

    def interval_s(self, numbers: list[int]) -> float:
        """From commit to commit."""
        ends = [self.swarm.rounds[number]["ended_at_s"] for number in numbers]
        return median(after - before for before, after in pairwise(ends))

    def serve(self, capped: DemoNode) -> Json:
        """Somebody fetches the state from the limited peer alone."""
        desk = Desk(("ip", "netns", "exec", self._cables.names[FETCHER]), self._cables.address(FETCHER))
        contact = next(each for each in self.swarm.contacts() if _address(self._cables, CAPPED) in each[1])
        process = Process("join", capped.state_dir, desk)
        try:
            process.meet()
            process.say({"into": str(self.swarm.folder / "new"), "sources": [contact], "marks": []})
            return process.hear()
        except SystemExit as error:  # where states are made faster than it may send one
            return {"ok": False, "why": str(error)}
        finally:
            process.end()

    def join(self) -> Json:
        """A newcomer with limits, until it trains."""
        node = self.start(NEWCOMER, "newcomer", "--join", self.swarm.invite())
        self.swarm.nodes.append(node)
        began = time.monotonic()
        self.swarm.until(lambda: (node.poll() or {}).get("state") in ("training", "exchanging"), "newcomer")
        return {"until_training_s": round(time.monotonic() - began, 1)}


def _address(cables: Cables, number: int) -> str:
    return f"/ip4/{cables.address(number)}/"


def tell(text: str) -> None:
    """On stderr."""
    print(text, file=sys.stderr, flush=True)


def measure(folder: Path, options: argparse.Namespace) -> Json:
    """All of it."""
    with ExitStack() as stack:
        cables = stack.enter_context(Cables(PEERS + 2))
        hub = cables.names[0].rpartition("-")[0] + "-hub"
        meters = {
            number: stack.enter_context(Meter(hub, f"peer{number}").measuring())
            for number in (CAPPED, NEWCOMER)
        }
        rates = Rates(folder, cables, options)
        stack.callback(lambda: stop_all(rates.swarm.nodes, polite_s=20.0, firm_s=5.0))
        rates.swarm.found()
        usual = rates.some_rounds()
        capped = rates.limit()
        name = (capped.status or {})["peer_id"]
        found: Json = {"limits": rates.limits}

        def timed(part: str, number: int, act: Callable[[], Any]) -> Any:
            began = time.monotonic()
            result = act()
            found[part] = meters[number].figures(began, time.monotonic(), rates.limits)
            tell(f"{part}: {found[part]}")
            return result

        limited = timed("rounds", CAPPED, rates.some_rounds)
        counted = [name in rates.swarm.rounds[number]["counted"] for number in limited]
        without_s, with_s = rates.interval_s(usual), rates.interval_s(limited)
        found["rounds"] |= {
            "number": len(limited),
            "counted": sum(counted),
            "interval_s": [round(without_s, 2), round(with_s, 2)],
            "slower": round(with_s / without_s - 1, 4),
        }
        found["serving"]["result"] = timed("serving", CAPPED, lambda: rates.serve(capped))
        joined = timed("join", NEWCOMER, rates.join)
        found["join"] |= joined
    return found


def good(found: Json) -> bool:
    """Whether all that is promised was kept."""
    parts = [found[part][way] for part in ("rounds", "serving", "join") for way in ("sent", "received")]
    shares = [part["share_of_limit"] for part in parts]
    return max(shares) <= MOST_SHARE and found["rounds"]["slower"] <= MOST_SLOWER


def report(found: Json) -> None:
    """Print it."""
    for part in ("rounds", "serving", "join"):
        told = found[part]
        ways = ", ".join(
            f"{way} {100 * told[way]['share_of_limit']:.1f} % in the worst 60 s "
            f"(mean {100 * told[way]['mean_share']:.1f} %)"
            for way in ("sent", "received")
        )
        print(f"{part} ({told['seconds']:.0f} s): {ways}")
    if not found["serving"]["result"]["ok"]:
        print(
            f"nobody could fetch the state from the limited peer alone: {found['serving']['result']['why']}"
        )
    told = found["rounds"]
    print(
        f"{told['counted']} of {told['number']} rounds counted the limited peer; from commit to commit "
        f"{told['interval_s'][0]:.1f} s without limits, {told['interval_s'][1]:.1f} s with them "
        f"({100 * told['slower']:+.1f} %)"
    )


def main() -> int:
    """Measure and print."""
    parser = options_of_swarm(__doc__, hidden=128, vocabulary=4096, step_ms=8000.0)
    parser.add_argument("--upload", default="400kB/s")
    parser.add_argument("--download", default="400kB/s")
    parser.add_argument("--minutes", type=float, default=2.0)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="talkoot-rates-", dir=options.dir))
    try:
        found = measure(folder, options) | {"machine": platform.machine()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found) + "\n")
    return 0 if good(found) else 1


if __name__ == "__main__":
    sys.exit(main())
