"""How long a part of a node stands still until that is found, and until the node is counted again.

Three peers on this machine train the numpy model; to one of them, over and over, one of four things happens:

* trainer: its process is stopped (SIGSTOP);
* p2pd: likewise;
* worker: one of the daemon's worker threads waits for what never comes;
* loop: its event loop is blocked, likewise.

A line of JSON for each: seconds until it was found (by the log), until the victim's work was counted in a
round again, and how many rounds the swarm had finished from the find to the first that counts it. Targets:
found in 60 s; counted in the second round at the latest after that which was under way when all of it ran
again.

    python benchmarks/watchdog.py [--trials 20] [--kinds trainer,p2pd,worker,loop] [--minutes 60]

Exit code 1 unless every trial was found in time and came back. With --minutes it ends early, and says how
many trials were made.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psutil
import swarm_help
from swarm_help import Daemons, daemons, small_manifest

from talkoot.cli.demo_node import DemoNode

STANDING = (sys.executable, str(Path(__file__).parent.parent / "tests" / "standing_talkoot.py"), "0")

FOUND_S = 60.0
BACK_ROUNDS = 2
LIMIT_S = 300.0
"""After so long a trial has failed."""

START_S = 900.0
"""How long the three may take to begin, on a machine that has more to do."""

POLL_S = 0.2

WORDS = {
    "trainer": "trainer ended: ",
    "p2pd": "p2pd does not react any more",
    "worker": "began again by itself: a worker thread",
    "loop": "began again by itself: the event loop",
}
"""What the log says once it is found; of the daemon itself, once it runs again."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one."""

    kind: str
    found_s: float | None
    """Until it was found; None: it was not."""
    running_s: float | None
    """Until the victim followed rounds again."""
    back_s: float | None
    """Until a round counted its work again."""
    rounds: int | None
    """Rounds that the others finished without it from when it ran again, to the one that counts it."""

    @property
    def good(self) -> bool:
        """Whether it is within the targets."""
        found = self.found_s is not None and self.found_s <= FOUND_S
        return found and self.rounds is not None and self.rounds <= BACK_ROUNDS


def wait(event: Callable[[], T | None], until: float) -> T | None:
    """Its first value that is not None, or None after the time."""
    while (value := event()) is None and time.monotonic() < until:
        time.sleep(POLL_S)  # another process, and says when asked only
    return value


def part_of(kind: str, victim: DemoNode) -> psutil.Process | None:
    """Its p2pd, or its trainer; None while there is none."""
    assert victim._process is not None
    mark = "p2pd" if kind == "p2pd" else "trainer.worker"
    children = psutil.Process(victim._process.pid).children(recursive=True)
    return next((child for child in children if mark in " ".join(child.cmdline())), None)


def harm(kind: str, victim: DemoNode) -> int:
    """Let it happen; returns the process that stands still then."""
    assert victim._process is not None
    if kind in ("worker", "loop"):
        os.kill(victim._process.pid, signal.SIGUSR2 if kind == "worker" else signal.SIGUSR1)
        return victim._process.pid
    part = part_of(kind, victim)
    assert part is not None
    part.suspend()
    return part.pid


def found_at(kind: str, victim: DemoNode, seen: int) -> float | None:
    """When the log said it, in Unix time; of the daemon itself: when the stacks were written."""
    with victim.log_path.open(errors="replace") as log:
        log.seek(seen)
        if not any(WORDS[kind] in line for line in log):
            return None
    if kind in ("worker", "loop"):
        return (victim.state_dir / "logs" / "standstill.txt.1").stat().st_mtime
    return time.time()


def counting(node: DemoNode, victim: str, since: int) -> int | None:
    """The first round after `since` that counts the victim, as another node has it."""
    rounds = [entry["round"] for entry in node.rounds() if victim in entry["counted"]]
    return next((number for number in sorted(rounds) if number > since), None)


def round_of(node: DemoNode) -> int | None:
    """Final rounds that it holds."""
    return (node.poll() or {}).get("round")


def trial(kind: str, swarm: Daemons) -> Trial:
    """Harm the last peer, and wait until it is back."""
    witness, victim = swarm.peers[0], swarm.peers[-1]
    name = swarm.status(victim)["peer_id"]
    seen, began = victim.log_path.stat().st_size, time.time()
    until = time.monotonic() + LIMIT_S
    stood = harm(kind, victim)
    found = wait(lambda: found_at(kind, victim, seen), until)
    if found is None:
        return Trial(kind=kind, found_s=None, running_s=None, back_s=None, rounds=None)

    def runs() -> int | None:
        there = victim.poll()
        training = there is not None and there["state"] in ("training", "exchanging")
        return round_of(witness) if training and connected(victim, stood) else None

    def connected(node: DemoNode, before: int) -> bool:
        """Of p2pd: whether another one has found others; nothing else tells that it is gone."""
        if kind != "p2pd":
            return True
        now = part_of(kind, node)
        peers = (node.poll() or {}).get("peers", ())
        return now is not None and now.pid != before and any(peer["connected"] for peer in peers)

    since = wait(runs, until)
    running_s = time.time() - began
    back = None if since is None else wait(lambda: counting(witness, name, since), until)
    return Trial(
        kind=kind,
        found_s=round(found - began, 1),
        running_s=None if since is None else round(running_s, 1),
        back_s=None if back is None else round(time.time() - began, 1),
        rounds=None if back is None or since is None else back - since,
    )


def summary(trials: list[Trial], wanted: int) -> str:
    """A line for each kind."""
    lines = []
    for kind in dict.fromkeys(each.kind for each in trials):
        mine = [each for each in trials if each.kind == kind]
        found = [each.found_s for each in mine if each.found_s is not None]
        back = [each.rounds for each in mine if each.rounds is not None]
        lines.append(
            f"{kind}: {sum(each.good for each in mine)} of {len(mine)} good (of {wanted} wanted); found in "
            + (f"{statistics.median(found):.0f} s, at most {max(found):.0f} s; " if found else "no time; ")
            + (f"counted in round {statistics.median(back):.0f} after, at most {max(back)}" if back else "")
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kinds", default="trainer,p2pd,worker,loop")
    parser.add_argument("--minutes", type=float, default=240.0)
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    vars(swarm_help)["PATIENCE_S"] = START_S
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="watchdog-") as folder, daemons(Path(folder)) as swarm:
        swarm.found(small_manifest(peers=3, step_ms=100.0))
        swarm.join()
        swarm.join(DemoNode("victim", Path(folder), STANDING))
        swarm.counted(*swarm.peers, since=0)
        for _ in range(options.trials):
            for kind in options.kinds.split(","):
                if time.monotonic() > end:
                    break
                done = trial(kind, swarm)
                trials.append(done)
                sys.stdout.write(json.dumps({**asdict(done), "good": done.good}) + "\n")
                sys.stdout.flush()
    sys.stdout.write(summary(trials, options.trials) + "\n")
    return 0 if trials and all(each.good for each in trials) else 1


if __name__ == "__main__":
    sys.exit(main())
