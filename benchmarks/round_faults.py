"""How long survivors need for a round in which one of them dies, freezes or sends its part to only some.

    python benchmarks/round_faults.py [--kills 100] [--stops 50] [--partial 20] [--peers 4]
        [--numel 25000000] [--seed 0] [--json FILE]

Every peer is a process with its own p2pd on loopback that runs rounds without training. The victim is the
leader in every other trial and a reducer in all. Fates:

* kill: SIGKILL to the victim and its p2pd at a random moment between roster and last decoded part. Target:
  all survivors hold the round at most one normal round + 1 s after the kill.
* stop: SIGSTOP likewise; the victim goes on after the trial. Target: at most 3 normal rounds + 2 s after the
  round's start.
* partial: SIGKILL once the victim's part has been decoded by some of the others and by no one else.

A survivor that learns of a certificate whose bytes never reached it must fetch the state, as a daemon does;
`must_fetch` counts the trials with such a one. A normal round is the median of those without a fault in the
same run, from the first peer that begins to encode to the last certificate. Exit code 1 when survivors
ended on different bits or without a round.
"""

import argparse
import hashlib
import json
import os
import platform
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from talkoot.averaging.quorum import leader_of, leader_order

Json = dict[str, Any]

START_LIMIT_S = 120.0
ROUND_LIMIT_S = 60.0
"""A round that takes longer has failed."""
FIRST_NORMAL = 5
"""Rounds without a fault before the first trial; one more comes after each trial."""
TRIES = 3
"""How often a trial is repeated whose fault came after the round."""


class Peer:
    """A worker process, in a session of its own so that its whole group can be killed."""

    def __init__(self, number: int, arguments: tuple[int, int, str], inbox: "queue.Queue[tuple[int, Json]]"):
        command = [sys.executable, str(Path(__file__).with_name("round_faults_peer.py"))]
        self.number = number
        self.process = subprocess.Popen(
            [*command, str(number), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.key = b""
        self.contact: Json = {}
        self.p2pd: int | None = None
        self.links = 0
        self.struck = False
        self.over: list[str] = []
        """Why attempts of the running round ended here."""
        self.phases: dict[tuple[int, str], float] = {}
        self.decoded: set[tuple[int, str]] = set()
        self.committed: dict[int, Json] = {}
        """By round: what it holds, or knows to be certified (event `missed`)."""
        threading.Thread(target=self._read, args=(inbox,), daemon=True).start()

    def _read(self, inbox: "queue.Queue[tuple[int, Json]]") -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            inbox.put((self.process.pid, json.loads(text)))
        inbox.put((self.process.pid, {"event": "gone"}))

    def take(self, told: Json) -> None:
        """Something that it said."""
        match told["event"]:
            case "ready":
                self.key, self.p2pd = bytes.fromhex(told["key"]), told["p2pd"]
                self.contact = {"key": told["key"], "addresses": told["addresses"]}
            case "links":
                self.links = told["count"]
            case "phase":
                self.phases.setdefault((told["round"], told["phase"]), told["at"])
            case "decoded":
                self.decoded.add((told["round"], told["reducer"]))
            case "committed" | "missed":
                self.committed[told["round"]] = told
            case "over":
                self.over.append(told["reason"])
            case "gone" if not self.struck:
                raise RuntimeError(f"peer {self.number} died by itself, exit code {self.process.wait()}")

    def say(self, order: Json) -> None:
        """One line; a dead peer hears nothing."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> float:
        """To the worker's process group and to its p2pd, which has one of its own; returns when."""
        self.struck |= number == signal.SIGKILL
        now = time.monotonic()
        for group in (self.process.pid, self.p2pd):
            if group is not None:
                with suppress(ProcessLookupError):
                    os.killpg(group, number)
        return now

    def end(self) -> None:
        """Kill it and wait."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()


class Failed(Exception):  # noqa: N818 - reads well where it is raised
    """An event did not come in time."""


class Swarm:
    """All peers of one run."""

    def __init__(self, peers: int, numel: int, codec: str) -> None:
        self._arguments = (peers, numel, codec)
        self._inbox: queue.Queue[tuple[int, Json]] = queue.Queue()
        self.peers = [Peer(number, self._arguments, self._inbox) for number in range(peers)]
        self.round = 0
        self.normal: list[Json] = []
        """Rounds without a fault: seconds, and seconds of the exchange."""

    def until(self, event: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
        """Take in what the peers say until `event`. Raises Failed after `limit_s`."""
        deadline = time.monotonic() + limit_s
        while not event():
            try:
                pid, told = self._inbox.get(timeout=max(0.001, deadline - time.monotonic()))
            except queue.Empty:
                raise Failed(f"no {what} in {limit_s:.0f} s") from None
            for peer in self.peers:
                if peer.process.pid == pid:
                    peer.take(told)

    def connect(self) -> None:
        """Make all peers know each other, and wait until all are connected."""
        self.until(lambda: all(peer.key for peer in self.peers), "start of all peers")
        contacts = [peer.contact for peer in self.peers]
        for peer in self.peers:
            peer.say({"peers": contacts})
        others = len(self.peers) - 1
        self.until(lambda: all(peer.links == others for peer in self.peers), "connection of all peers")

    def replace(self, victim: Peer) -> None:
        """A new process in the victim's place."""
        victim.end()
        index = self.peers.index(victim)
        self.peers[index] = Peer(victim.number, self._arguments, self._inbox)
        self.connect()

    def begin(self, withhold: dict[int, list[str]] | None = None) -> int:
        """Let all peers begin the next round; returns its number."""
        self.round += 1
        for peer in self.peers:
            peer.over.clear()
            peer.say({"round": self.round, "withhold": (withhold or {}).get(peer.number, [])})
        return self.round

    def leader(self, number: int) -> Peer:
        """Who leads the first attempt of a round."""
        prior = hashlib.sha256(b"%d" % number).digest()  # as the worker makes it
        order = leader_order([peer.key for peer in self.peers], prior)
        return next(peer for peer in self.peers if peer.key == leader_of(order, 0))

    def committed(self, peers: list[Peer], number: int) -> bool:
        """Whether all of these have committed a round."""
        return all(number in peer.committed for peer in peers)

    def outcome(self, peers: list[Peer], number: int) -> Json:
        """What these peers hold after a round that all of them committed."""
        told = [peer.committed[number] for peer in peers]
        return {
            "ended": max(t["at"] for t in told),
            "attempts": 1 + max(t.get("attempts", 0) for t in told),
            "missed": sum(t["event"] == "missed" for t in told),
            "counted": min(t["counted"] for t in told),
            "digests_equal": len({t["digest"] for t in told}) == 1,
        }

    def normal_round(self) -> None:
        """One round without a fault that counts everybody; who was frozen may miss the first."""
        for _ in range(TRIES):
            if self._normal_round():
                return
        raise Failed("no round that counts everybody")

    def _normal_round(self) -> bool:
        number = self.begin()
        self.until(lambda: self.committed(self.peers, number), "normal round", ROUND_LIMIT_S)
        told = [peer.committed[number] for peer in self.peers]
        if any(t["event"] == "missed" or t["counted"] < len(told) for t in told):
            return False
        began = min(t["began"] for t in told)
        roster = min(peer.phases[number, "exchanging"] for peer in self.peers)
        exchange_s = max(t["decoded"] for t in told) - roster
        self.normal.append({"seconds": max(t["at"] for t in told) - began, "exchange": exchange_s})
        return True

    def normal_s(self, name: str = "seconds") -> float:
        """Median over the normal rounds."""
        return float(median(entry[name] for entry in self.normal))

    def end(self) -> None:
        """Kill everything that is left."""
        for peer in self.peers:
            peer.end()


@contextmanager
def swarm_of(options: argparse.Namespace) -> Iterator[Swarm]:
    """A connected swarm with its first normal rounds behind it."""
    swarm = Swarm(options.peers, options.numel, options.codec)
    try:
        swarm.connect()
        swarm.normal_round()  # warms up
        swarm.normal.clear()
        for _ in range(FIRST_NORMAL):
            swarm.normal_round()
        yield swarm
    finally:
        swarm.end()


# -- trials ------------------------------------------------------------------------------------------


def trial(swarm: Swarm, fate: str, index: int, rng: random.Random) -> Json:
    """One round with one fault; the swarm is whole again afterwards."""
    number = swarm.round + 1
    leader = swarm.leader(number)
    victim = leader if index % 2 == 0 else rng.choice([peer for peer in swarm.peers if peer is not leader])
    survivors = [peer for peer in swarm.peers if peer is not victim]
    result: Json = {"fate": fate, "victim": "leader" if victim is leader else "reducer"}
    try:
        result["began"], result["fault"] = strike(swarm, fate, victim, survivors, rng)
        result["too_late"] = swarm.committed(survivors, number)
        swarm.until(lambda: swarm.committed(survivors, number), "round of the survivors", ROUND_LIMIT_S)
        result |= swarm.outcome(survivors, number)
    except Failed as error:
        reasons = {peer.number: peer.over for peer in survivors if number not in peer.committed}
        result["failed"] = f"{error}; attempts ended there: {reasons}"
    if fate == "stop":
        victim.signal(signal.SIGCONT)
        swarm.connect()
    else:
        swarm.replace(victim)
    swarm.normal_round()  # the new process has measured nothing yet
    return result


def strike(
    swarm: Swarm, fate: str, victim: Peer, survivors: list[Peer], rng: random.Random
) -> tuple[float, float]:
    """Begin a round and do it; returns when the round began and when the fault was. Raises Failed."""
    began = time.monotonic()
    if fate == "partial":
        some = rng.sample(survivors, rng.randint(1, len(survivors) - 1))
        others = [peer.key.hex() for peer in survivors if peer not in some]
        number = swarm.begin({victim.number: others})
        part = (number, victim.key.hex())
        # Bandwidths decide about parts: with few chunks the victim may have none, and the round just ends.
        swarm.until(
            lambda: all(part in peer.decoded or number in peer.committed for peer in some),
            "part of the victim",
        )
    else:
        number = swarm.begin()
        swarm.until(lambda: (number, "exchanging") in victim.phases, "exchange of the victim")
        time.sleep(rng.uniform(0, swarm.normal_s("exchange")))  # the fault comes at a random instant of it
    return began, victim.signal(signal.SIGSTOP if fate == "stop" else signal.SIGKILL)


def trials(swarm: Swarm, fate: str, count: int, rng: random.Random) -> list[Json]:
    """So many trials whose fault came before the survivors had committed."""
    results = []
    for index in range(count):
        for _ in range(TRIES):
            result = trial(swarm, fate, index, rng)
            if not result.get("too_late"):
                break
        results.append(result)
        tell(index, result)
    return results


def tell(index: int, result: Json) -> None:
    """One line about a trial on stderr."""
    words = result.get("failed")
    if words is None:
        words = f"{result['ended'] - result['fault']:6.2f} s after the fault, {result['attempts']} attempts, "
        words += f"{result['counted']} counted, {result['missed']} must fetch it, digests "
        words += "equal" if result["digests_equal"] else "DIFFERENT"
    print(f"{result['fate']:8}{index:4}  {result['victim']:8}{words}", file=sys.stderr)


def figures(fate: str, results: list[Json], normal_s: float) -> Json:
    """What is to be reported about the trials of one fate."""
    since = "began" if fate == "stop" else "fault"
    target_s = 3 * normal_s + 2 if fate == "stop" else normal_s + 1
    done = [result for result in results if "failed" not in result]
    seconds = sorted(result["ended"] - result[since] for result in done) or [float("nan")]
    return {
        "trials": len(results),
        "committed": len(done),
        "digests_equal": sum(result["digests_equal"] for result in done),
        "seconds_from": "the round's start" if fate == "stop" else "the fault",
        "target_s": round(target_s, 3),
        "within_target": sum(result["ended"] - result[since] <= target_s for result in done),
        "seconds_median": round(median(seconds), 3),
        "seconds_p90": round(seconds[min(len(seconds) - 1, int(0.9 * len(seconds)))], 3),
        "seconds_max": round(seconds[-1], 3),
        "must_fetch": sum(result["missed"] > 0 for result in done),
        "attempts_max": max((result["attempts"] for result in done), default=None),
        "failures": [result["failed"] for result in results if "failed" in result],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("kills", 100), ("stops", 50), ("partial", 20)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help="trials")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--numel", type=int, default=25_000_000)
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts = {"kill": options.kills, "stop": options.stops, "partial": options.partial}
    with swarm_of(options) as swarm:
        results = {fate: trials(swarm, fate, count, rng) for fate, count in counts.items() if count}
        normal = sorted(entry["seconds"] for entry in swarm.normal)
    report: Json = {
        "peers": options.peers,
        "numel": options.numel,
        "codec": options.codec,
        "seed": options.seed,
        "normal_rounds": len(normal),
        "normal_s": round(median(normal), 3),
        "normal_s_max": round(normal[-1], 3),
    }
    report |= {fate: figures(fate, rows, median(normal)) for fate, rows in results.items()}
    report["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = json.dumps(report, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    whole = all(report[fate]["digests_equal"] == report[fate]["trials"] for fate in results)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
