"""A newcomer downloads the state of a swarm that runs rounds meanwhile, and then joins it.

    python benchmarks/join_running.py [--hidden 1536] [--vocabulary 8192] [--steps 2] [--step-ms 6000]
        [--rounds 4] [--cycles 2] [--joins 1] [--mbit 400] [--nice 10] [--snapshot-rounds N] [--log-bytes N]
        [--dir DIR] [--json FILE]

Four daemons with a p2pd and a numpy trainer each, in network namespaces of their own (root, iproute2);
VOCABULARY (2 HIDDEN + 1) parameters. Phases of ROUNDS rounds with and without downloads alternate, half of
one without comes first and last, so that drift cancels: in the one kind a newcomer behind a link of MBIT
downloads the state, verified and installed, over and over; in the other it is idle. It runs with NICE above
the others, as it would have a machine of its own. Prints the median round, the downloads, which state each
chose and how far behind it was at its end, and what peer 0 gave while a round was exchanged and otherwise. At
last JOINS whole daemons join through the same link, one after the other: the round that closes next after the
download should count each. CYCLES 0: only they do. Broken off (Ctrl-C), it prints what it has.
"""

import argparse
import json
import math
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from download_rig import SHAPE, Desk, Process

from talkoot.cli.demo_chaos_network import Cables, run_tool
from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.dht.identity import key_of_peer_id
from talkoot.peer import manifest_file, presets
from talkoot.peer.manifest import Manifest

Json = dict[str, Any]

PEERS = 4
NEWCOMER = PEERS
"""Number of the newcomer's namespace."""

LIMIT_S = 240.0
"""Longest wait for any one event."""

POLL_S = 0.2
"""Pause between two questions to peer 0."""

PROMPT_S = 1.0
"""A phase begins so soon after a commit, or its first round does not count."""


def manifest_of(options: argparse.Namespace) -> Manifest:
    """Rounds of a few steps that leave the machine some time."""
    draft = presets.make("numpy-test", name="join-running")
    state = draft.state
    if options.snapshot_rounds is not None:
        state = replace(state, snapshot_rounds=options.snapshot_rounds)
    if options.log_bytes is not None:
        state = replace(state, log_bytes=options.log_bytes)
    shape = {"vocab_size": options.vocabulary, "hidden": options.hidden, "step_ms": options.step_ms}
    return replace(
        draft,
        swarm=replace(draft.swarm, start_peers=PEERS),
        model=replace(draft.model, config=shape),
        data=replace(draft.data, sequence_length=8),
        inner=replace(draft.inner, batch_size=1),
        outer=replace(draft.outer, inner_steps=options.steps),
        round=replace(
            draft.round,
            max_interval_s=600.0,
            announce_s=1.0,
            form_s=10.0,
            exchange_s=120.0,
            certify_s=60.0,
            floor_s=5.0,
        ),
        state=state,
    )


@dataclass
class Served:
    """What peer 0 gave, by what it did."""

    seconds: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})
    num_bytes: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    _last: tuple[float, int, bool] | None = None

    def look(self, status: Json) -> None:
        """One sample; counts where it did the same at the last one."""
        now, sent = time.monotonic(), status["state_bytes_sent"]
        exchanging = status["state"] == "exchanging"
        if self._last is not None and self._last[2] == exchanging:
            self.seconds[exchanging] += now - self._last[0]
            self.num_bytes[exchanging] += sent - self._last[1]
        self._last = (now, sent, exchanging)

    def pause(self) -> None:
        """Nothing is downloaded for now."""
        self._last = None

    def rate(self, exchanging: bool) -> float | None:
        """Bytes a second."""
        seconds = self.seconds[exchanging]
        return self.num_bytes[exchanging] / seconds if seconds else None


class Swarm:
    """The daemons, and what was seen of them."""

    def __init__(self, folder: Path, cables: Cables, options: argparse.Namespace) -> None:
        self._cables = cables
        self.folder = folder
        self.options = options
        self.nodes: list[DemoNode] = []
        self.served = Served()
        self.rounds: dict[int, Json] = {}
        """Records of peer 0 by round."""
        self._zero_s = math.inf
        """Of the clock of these records, on ours."""

    def start(self, number: int, *arguments: str, name: str = "") -> DemoNode:
        """One daemon in its namespace."""
        place = self._cables.place(number)
        node = DemoNode(name or f"peer-{number}", self.folder, TALKOOT, place)
        node.start([*arguments, *place.arguments, "--device", "cpu", "--threads", "1"])
        self.nodes.append(node)
        return node

    def found(self) -> None:
        """All four, until the first round that counts them all."""
        path = self.folder / manifest_file.FILE_NAME
        manifest_file.save(manifest_of(self.options), path)
        self.start(0, str(path))
        for number in range(1, PEERS):
            self.start(number, "--join", self.invite())
        self.until(lambda: self.last_counts(PEERS), "round of all peers")

    def invite(self) -> str:
        """Of the founder, once it has one to give."""
        found: list[str | None] = [None]

        def asked() -> bool:
            found[0] = self.nodes[0].invite() if self.nodes[0].poll() else None
            return found[0] is not None

        self.until(asked, "invite")
        assert found[0] is not None
        return found[0]

    def until(self, event: Callable[[], object], what: str) -> None:
        """Wait. Raises SystemExit when it does not come."""
        deadline = time.monotonic() + LIMIT_S
        while not event():
            if time.monotonic() > deadline or not all(node.running for node in self.nodes):
                told = "; ".join(f"{node.name}: {node.last_words()}" for node in self.nodes)
                raise SystemExit(f"no {what} in {LIMIT_S:.0f} s: {told}")
            time.sleep(POLL_S)  # other processes, which say when asked only

    def last_counts(self, count: int) -> bool:
        """Whether the last round counted so many."""
        self.look()
        return bool(self.rounds) and len(self.rounds[max(self.rounds)]["counted"]) >= count

    def look(self) -> int:
        """Ask peer 0 for its rounds; the number of its last one, -1 before."""
        status = self.nodes[0].poll()
        if status is not None:
            self.served.look(status)
            if status["round"] and status["round"] - 1 not in self.rounds:
                self.rounds |= {entry["round"]: entry for entry in self.nodes[0].rounds()}
                if self.rounds:  # it may have been too busy to answer
                    last = self.rounds[max(self.rounds)]
                    self._zero_s = min(self._zero_s, time.monotonic() - last["ended_at_s"])
        return max(self.rounds, default=-1)

    def closed_s(self, number: int) -> float:
        """When a round closed at peer 0, on our clock; at most some tenths of a second late."""
        entry = self.rounds[number]
        return float(self._zero_s + entry["ended_at_s"] - (entry["seconds"] or 0.0))

    def next_commit(self, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Wait for the next round."""
        before = self.look()

        def looked() -> bool:
            meanwhile()
            return self.look() > before

        self.until(looked, "round")
        return max(self.rounds)

    def interval_s(self, number: int) -> float | None:
        """From the commit before to this one."""
        before, this = self.rounds.get(number - 1), self.rounds.get(number)
        return None if before is None or this is None else this["ended_at_s"] - before["ended_at_s"]

    def contacts(self) -> list[list[str]]:
        """Key and address of each."""
        statuses = [node.poll() for node in self.nodes]
        return [
            [key_of_peer_id(status["peer_id"]).hex(), status["addresses"][0]]
            for status in statuses
            if status is not None
        ]


class Downloads:
    """A newcomer that downloads over and over while it is told to."""

    def __init__(self, swarm: Swarm, desk: Desk) -> None:
        self._swarm = swarm
        self._process = Process("join", swarm.nodes[0].state_dir, desk)
        self._process.meet()
        self._into = swarm.folder / "new"
        self._busy = False
        self._began_at = -1
        self.done: list[Json] = []

    def begin(self) -> None:
        """Another one, unless one is under way."""
        if not self._busy:
            self._began_at = max(self._swarm.rounds)
            self._process.say({"into": str(self._into), "sources": self._swarm.contacts(), "marks": []})
            self._busy = True

    def collect(self) -> bool:
        """Whether none is under way (any more)."""
        if self._busy and self._process.has_told:
            told = self._process.hear()
            last = max(self._swarm.rounds)
            behind = last + 1 - told["round"] if told["ok"] else None
            self.done.append(told | {"passed": last - self._began_at, "behind": behind})
            shutil.rmtree(self._into)
            self._busy = False
        return not self._busy

    def go_on(self) -> None:
        """No gap between two."""
        if self.collect():
            self.begin()

    def end(self) -> None:
        """Kill it."""
        self._process.end()


def phases(
    swarm: Swarm, downloads: Downloads, options: argparse.Namespace, found: dict[bool, list[int]]
) -> None:
    """Adds the numbers of the rounds without and with a download from their begin to their end."""
    for cycle in range(2 * options.cycles + 1):
        loaded = cycle % 2 == 1
        swarm.served.pause()
        swarm.next_commit()
        for _ in range(options.rounds if 0 < cycle < 2 * options.cycles else options.rounds // 2):
            if loaded:
                downloads.begin()
            number = swarm.next_commit(downloads.go_on if loaded else lambda: None)
            found[loaded].append(number)
            tell(swarm, number, loaded)
        if loaded:
            swarm.until(lambda: swarm.look() >= 0 and downloads.collect(), "end of the download")


def tell(swarm: Swarm, number: int, loaded: bool) -> None:
    """One line about a round on stderr."""
    entry = swarm.rounds[number]
    words = "with" if loaded else "without"
    interval_s, closing_s = swarm.interval_s(number) or math.nan, entry["seconds"] or math.nan  # fetched
    print(
        f"round {number:3} {words:8} a download: {interval_s:6.2f} s, of them "
        f"{closing_s:5.2f} s since it closed; {len(entry['counted'])} counted",
        file=sys.stderr,
        flush=True,
    )


def join(swarm: Swarm, number: int) -> Json:
    """A whole daemon, until it is counted."""
    swarm.next_commit()
    node = swarm.start(NEWCOMER, "--join", swarm.invite(), name=f"new-{number}")
    began = time.monotonic()
    times: dict[str, float] = {}
    name: list[str] = []

    def seen(event: str, happened: object) -> None:
        if happened and event not in times:
            times[event] = time.monotonic() - began

    def counted() -> bool:
        last, status = swarm.look(), node.poll()
        if status is not None:
            name[:] = [status["peer_id"]]
            seen("download", status["sync"] is not None)
            seen("trainer ready", status["trainer"] in ("ready", "training"))
            seen("state", status["round"] is not None)
            seen("first step", status["steps_total"])
            seen("training", status["state"] == "training")
        seen("counted", name and name[0] in swarm.rounds[last]["counted"])
        return "counted" in times

    swarm.until(counted, "round that counts the newcomer")
    here_s = began + times["state"]
    first = min(number for number, entry in swarm.rounds.items() if name[0] in entry["counted"])
    missed = [number for number in swarm.rounds if number < first and swarm.closed_s(number) > here_s]
    node.interrupt()
    node.wait(LIMIT_S)
    swarm.nodes.remove(node)
    closed = [swarm.closed_s(number) - began for number in sorted([*missed, first])]
    return {"seconds": times, "closed": closed, "missed": len(missed)}


def figures(swarm: Swarm, downloads: list[Json], rounds: dict[bool, list[int]]) -> Json:
    """All that was measured."""
    result: Json = {}
    if not all(rounds.values()):
        return result
    for loaded, name in ((False, "without"), (True, "with")):
        numbers = rounds[loaded]
        intervals = [swarm.interval_s(number) for number in numbers]
        closing = [swarm.rounds[number]["seconds"] for number in numbers]
        result[name] = {
            "rounds": len(numbers),
            "interval_s": median(s for s in intervals if s is not None),
            "since_closed_s": median(s for s in closing if s is not None),
            "intervals_s": intervals,
            "closings_s": closing,
        }
    quiet, busy = result["without"], result["with"]
    result["slower"] = busy["interval_s"] / quiet["interval_s"] - 1
    result["exchange_slower"] = busy["since_closed_s"] / quiet["since_closed_s"] - 1
    result["downloads"] = downloads
    result["served_per_s"] = {
        "exchanging": swarm.served.rate(True),
        "otherwise": swarm.served.rate(False),
    }
    return result


def report(found: Json) -> None:
    """Print it."""
    if "slower" in found:
        report_rounds(found)
    for joined in found["joined"]:
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in joined["seconds"].items())
        closed = ", ".join(f"{seconds:.1f}" for seconds in joined["closed"])
        print(f"a daemon that joins: {times}; rounds closed after {closed} s, {joined['missed']} without it")
    missed = [joined["missed"] for joined in found["joined"]]
    print(f"{missed.count(0)} of {len(missed)} daemons were counted in the next round that closed")


def report_rounds(found: Json) -> None:
    """How rounds and downloads went beside each other."""
    for name in ("without", "with"):
        told = found[name]
        print(
            f"{name} downloads: {told['rounds']} rounds, median {told['interval_s']:.2f} s from commit to "
            f"commit, {told['since_closed_s']:.2f} s from closing to commit"
        )
    print(f"{100 * found['slower']:+.1f} % a round, {100 * found['exchange_slower']:+.1f} % of its exchange")
    whole = [told for told in found["downloads"] if told["ok"]]
    print(f"{len(whole)} of {len(found['downloads'])} downloads whole")
    for told in whole:
        rate = 8e-6 * told["bytes"] / told["download_s"]
        print(
            f"  {told['bytes'] / 1e6:.0f} MB in {told['download_s']:.1f} s, {rate:.0f} Mbit/s "
            f"({100 * rate / found['mbit']:.0f} %), {told['sources']} sources, "
            f"{told['wasted_bytes'] / 1e6:.1f} MB wasted; {told['passed']} rounds passed, "
            f"then {told['behind']} behind; {'; '.join(told['choices'])}"
        )
    for name, rate in found["served_per_s"].items():
        if rate is not None:
            print(f"peer 0 gave {rate / 1e6:.1f} MB/s ({name})")


def measure(folder: Path, options: argparse.Namespace) -> Json:
    """All of it."""
    with ExitStack() as stack:
        cables = stack.enter_context(Cables(PEERS + 1))
        hub = cables.names[0].rpartition("-")[0] + "-hub"
        rate = ("rate", f"{options.mbit:g}mbit", *SHAPE)
        run_tool("tc", "-n", hub, "qdisc", "replace", "dev", f"peer{NEWCOMER}", "root", "tbf", *rate)
        swarm = Swarm(folder, cables, options)
        stack.callback(lambda: stop_all(swarm.nodes, polite_s=20.0, firm_s=5.0))
        swarm.found()
        prefix = ("nice", "-n", str(options.nice), "ip", "netns", "exec", cables.names[NEWCOMER])
        done: list[Json] = []
        rounds: dict[bool, list[int]] = {False: [], True: []}
        joined: list[Json] = []
        try:
            if options.cycles:
                downloads = Downloads(swarm, Desk(prefix, cables.address(NEWCOMER)))
                stack.callback(downloads.end)
                done = downloads.done
                phases(swarm, downloads, options, rounds)
                downloads.end()
            joined.extend(join(swarm, number) for number in range(options.joins))  # keeps those before Ctrl-C
        except KeyboardInterrupt:
            if not all(rounds.values()) and not joined:
                raise
        found = figures(swarm, done, rounds)
        found |= {"joined": joined, "numel": (swarm.nodes[0].status or {}).get("numel")}
    return found


def interrupted(_number: int, _frame: object) -> NoReturn:
    """End as after Ctrl-C: daemons, namespaces and folders go."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a second one does not break off the clearing up
    raise KeyboardInterrupt


def options_of_swarm(
    about: str | None, *, hidden: int, vocabulary: int, step_ms: float
) -> argparse.ArgumentParser:
    """A parser with the options that `Swarm` reads, and those of where results go."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hidden", type=int, default=hidden)
    parser.add_argument("--vocabulary", type=int, default=vocabulary)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--step-ms", type=float, default=step_ms)
    parser.add_argument("--snapshot-rounds", type=int, default=None)
    parser.add_argument("--log-bytes", type=int, default=None)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    return parser


def main() -> None:
    """Measure and print."""
    parser = options_of_swarm(__doc__, hidden=1536, vocabulary=8192, step_ms=6000.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--joins", type=int, default=1)
    parser.add_argument("--mbit", type=float, default=400.0)
    parser.add_argument("--nice", type=int, default=10)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="talkoot-join-", dir=options.dir))
    try:
        found = measure(folder, options)
    finally:
        shutil.rmtree(folder)
    found |= {"mbit": options.mbit, "machine": platform.machine()}
    report(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
