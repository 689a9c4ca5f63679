"""A live node under attack: a small swarm of real daemons on loopback, and attackers beside it.

    python benchmarks/hostile.py [--scale 0.01] [--frames N] [--connections N] [--half-open N]
        [--oversized N] [--bombs N] [--replays N] [--forged N] [--channels N] [--seconds 15]
        [--peers 3] [--only frames,forged,...] [--seed 0] [--json FILE]

Each kind of harm comes from a process with a key of its own (`hostile_attacker.py`) for `--seconds` at most,
while the swarm trains. The victim is the founder. The full size (`--scale 1 --seconds 600`) is 1,000,000
mutated frames, 5,000 connections, 500 half-open handshakes, 100 oversized declarations, 50 bombs, 10,000
replays, 1,000 forged announcements and certificates, and 10,000 channels that are opened and left.

For each: what the attacker sent and how often it was refused, what the victim counted, the honest rounds
meanwhile, memory of the victim and of its p2pd, and whether the offender was banned, for what, after how
many offences. The first ban holds for seconds; later ones are lifted at once, so that the attack goes on.
Exit code 1 when an exception was not caught, a daemon ended, digests differ, memory grew by 64 MB or more, an
attack that has an offender was not answered by a ban, or an honest peer was banned.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import psutil
from recovery_swarm import Lost, Swarm, log_size

from talkoot.cli.demo_node import DemoNode
from talkoot.cli.errors import CommandError, NoDaemonError
from talkoot.cli.local_api import LocalApi

Json = dict[str, Any]

FULL = {
    "frames": 1_000_000,
    "connections": 5_000,
    "half_open": 500,
    "oversized": 100,
    "bombs": 50,
    "replays": 10_000,
    "forged": 1_000,
    "channels": 10_000,
}
"""What the full size sends of each."""
LEAST = 20
BANNED_FOR = frozenset({"frames", "oversized", "bombs", "forged", "channels"})
"""Kinds that no honest peer does. Replays are true statements that come late; connections have no key."""
CALM_ROUNDS = 8
"""Rounds before the first attack, as a measure."""
LIFT_S = 0.2
SHUT_S = 2.5
"""How long the first ban holds, for connections to be closed because of it."""
MAX_GROWTH_MB = 64.0
GRACE_S = 40.0
"""How long an attacker may take to start and to end beside its time."""
UNCAUGHT = ("Traceback", "this should not have happened", "never retrieved", "unhandled exception")


@dataclass
class Victim:
    """The node that is attacked, seen from outside."""

    node: DemoNode
    swarm: Swarm

    @property
    def api(self) -> LocalApi:
        """Its local API."""
        return LocalApi(self.node.state_dir, timeout_s=10.0)

    def status(self) -> Json:
        """What it says of itself."""
        return self.swarm.until(self.node.poll, "status of the victim")

    def counters(self) -> dict[str, float]:
        """Its counters of refusals, penalties, bans and cut connections."""
        port = self.status()["http_port"]
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        names = "messages_rejected|peer_penalties|peer_bans|connections_refused|state_requests_refused"
        found = re.findall(
            rf'^talkoot_({names})_total{{(?:reason|limit)="(\w+)"}} (\S+)$', text, re.MULTILINE
        )
        return {f"{name}.{reason}": float(value) for name, reason, value in found}

    def memory(self) -> tuple[int, int]:
        """Resident bytes of the daemon and of its p2pd."""
        p2pd = self.node.part("p2pd")
        daemon = self.node._process
        assert daemon is not None
        return (
            psutil.Process(daemon.pid).memory_info().rss,
            0 if p2pd is None else p2pd.memory_info().rss,
        )

    def first_ban(self) -> Json | None:
        """Any ban."""
        with suppress(NoDaemonError, CommandError):
            return next((each["ban"] for each in self.api.peers() if each["ban"] is not None), None)
        return None

    def lift_all(self, honest: set[str]) -> list[str]:
        """Lift all bans of its own score; whom they were of. Raises Lost where one is of an honest peer."""
        lifted = []
        with suppress(NoDaemonError, CommandError):
            for entry in self.api.peers():
                if entry["state"] == "banned":
                    if entry["peer_id"] in honest:
                        raise Lost(f"an honest peer is banned: {entry}")
                    lifted.append(entry["peer_id"])
                    self.api.unban(entry["peer_id"])
        return lifted

    def round_seconds(self, since: int) -> list[float]:
        """How long the rounds since number `since` took from their closing to their commit."""
        rounds = [entry for entry in self.node.rounds() if entry["round"] >= since]
        return [entry["seconds"] for entry in rounds if entry.get("seconds") is not None]


def attack(victim: Victim, kind: str, count: int, seconds: float, seed: int, honest: set[str]) -> Json:
    """One attack; the first ban ends it for `SHUT_S`, later ones are lifted at once."""
    number, log_at = victim.status()["round"], log_size(victim.node)
    before, memory, began = victim.counters(), victim.memory(), time.monotonic()
    process = start(victim, kind, count, seconds, seed)
    first: Json = {}
    bans, peak = 0, memory
    while process.poll() is None:
        if not first and (ban := victim.first_ban()) is not None:
            held = {name: n - before[name] for name, n in victim.counters().items() if "penalties" in name}
            first = {"ban_reason": ban["reason"], "offences_until_ban": sum(held.values())}
            time.sleep(SHUT_S)  # the ban holds for so long: that is what is looked at
        bans += len(victim.lift_all(honest))
        peak = tuple(map(max, peak, victim.memory()))
        if time.monotonic() - began > seconds + GRACE_S:
            process.kill()
        time.sleep(LIFT_S)  # between two looks at a daemon, which is a process of its own
    told = finished(process)
    if not first and (ban := victim.first_ban()) is not None:
        first = {"ban_reason": ban["reason"]}
    bans += len(victim.lift_all(honest))
    victim.swarm.until(lambda: victim.status()["round"] > number, "round after the attack")
    after = victim.counters()
    return {
        "kind": kind,
        **told,
        "banned": bool(first),
        **first,
        "bans": bans,
        "counted": {name: after[name] - before[name] for name in after if after[name] > before[name]},
        "rounds": victim.status()["round"] - number,
        "round_s": _median(victim.round_seconds(number)),
        "daemon_growth_mb": _mb(peak[0] - memory[0]),
        "p2pd_growth_mb": _mb(peak[1] - memory[1]),
        "uncaught": uncaught(victim.node, log_at),
    }


def start(victim: Victim, kind: str, count: int, seconds: float, seed: int) -> "subprocess.Popen[str]":
    """An attacker's process."""
    status = victim.status()
    orders = {
        "kind": kind,
        "count": count,
        "seconds": seconds,
        "seed": seed,
        "swarm": status["swarm_id"],
        "address": status["addresses"][0],
        "round": status["round"],
    }
    command = [sys.executable, str(Path(__file__).with_name("hostile_attacker.py")), json.dumps(orders)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: "subprocess.Popen[str]") -> Json:
    """What an attacker says at its end. Raises Lost."""
    out, err = process.communicate()
    try:
        told: Json = json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        raise Lost(f"the attacker failed: {err[-2000:]}") from None
    return told


def uncaught(node: DemoNode, since: int) -> int:
    """Lines of a log, from byte `since` on, that tell of an exception that nobody caught."""
    text = node.log_path.read_bytes()[since:].decode(errors="replace")
    return sum(text.count(words) for words in UNCAUGHT)


def _median(values: list[float]) -> float | None:
    return round(median(values), 3) if values else None


def _mb(num_bytes: int) -> float:
    return round(num_bytes / 1e6, 1)


def run(options: argparse.Namespace) -> Json:
    """Everything. Raises Lost."""
    counts = {
        kind: getattr(options, kind) or max(LEAST, int(options.scale * full)) for kind, full in FULL.items()
    }
    kinds = options.only.split(",") if options.only else list(FULL)
    with tempfile.TemporaryDirectory(prefix="talkoot-hostile-") as folder:
        swarm = Swarm(Path(folder) / "swarm", trainers=options.peers)
        try:
            nodes = [swarm.found()]
            nodes += [swarm.join(f"peer-{n}", swarm.invite()) for n in range(1, options.peers)]
            return _attacks(Victim(nodes[0], swarm), nodes, kinds, counts, options)
        finally:
            swarm.end()


def _attacks(
    victim: Victim,
    nodes: list[DemoNode],
    kinds: list[str],
    counts: dict[str, int],
    options: argparse.Namespace,
) -> Json:
    swarm = victim.swarm
    first = swarm.counted(nodes[0], nodes, since=0)
    swarm.reach(first + CALM_ROUNDS, victim.node)
    honest = {swarm.peer_id(node) for node in nodes}
    calm = _median(victim.round_seconds(first + 1))
    results = []
    for number, kind in enumerate(kinds):
        tell(f"{kind}: {counts[kind]}")
        results.append(attack(victim, kind, counts[kind], options.seconds, options.seed + number, honest))
        tell(row(results[-1]))
    round_now = victim.status()["round"]
    swarm.counted(victim.node, nodes, since=round_now)
    swarm.digests()
    return {
        "calm_round_s": calm,
        "attacks": results,
        "rounds": round_now,
        "digests_equal": True,
        "daemons_alive": all(node.running for node in nodes),
        "uncaught_elsewhere": sum(uncaught(node, 0) for node in nodes[1:]),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, CPU",
    }


def failures(result: Json) -> list[str]:
    """What should not have been."""
    found = [] if result["daemons_alive"] else ["a daemon ended"]
    if result["uncaught_elsewhere"]:
        found.append("an exception was not caught in another daemon")
    for each in result["attacks"]:
        if each["uncaught"]:
            found.append(f"{each['kind']}: {each['uncaught']} exceptions not caught")
        if each["kind"] in BANNED_FOR and not each["banned"]:
            found.append(f"{each['kind']}: the offender was not banned")
        if max(each["daemon_growth_mb"], each["p2pd_growth_mb"]) >= MAX_GROWTH_MB:
            found.append(f"{each['kind']}: memory grew")
    return found


HEAD = "attack          sent  refused  rounds  round s   daemon     p2pd  banned, counted"


def row(each: Json) -> str:
    """One line for one kind of harm."""
    counted = ", ".join(f"{name.partition('.')[2]} {count:.0f}" for name, count in _refusals(each))
    banned = f"{each['ban_reason']} after {each.get('offences_until_ban', '?')}" if each["banned"] else "no"
    held = f"; {each['alive']} of {each['held']} still open" if "held" in each else ""
    return (
        f"{each['kind']:11}{each['sent']:>9}{each['refused']:>9}{each['rounds']:>8}"
        f"{each['round_s'] or '-':>9}"
        f"{each['daemon_growth_mb']:>6} MB{each['p2pd_growth_mb']:>6} MB  {banned}{held}; {counted}"
    )


def _refusals(each: Json) -> list[tuple[str, float]]:
    return [item for item in each["counted"].items() if item[0].startswith(("messages", "connections"))]


def tell(text: str) -> None:
    """On stderr, so that JSON has stdout for itself."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.01, help="share of the full size")
    for kind in FULL:
        parser.add_argument(f"--{kind.replace('_', '-')}", type=int, default=0, help="in place of its share")
    parser.add_argument("--seconds", type=float, default=15.0, help="longest time of one attack")
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--only", default="", help="kinds, with commas between them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        result = run(options)
    except Lost as error:
        tell(f"lost: {error}")
        return 1
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join([HEAD, *map(row, result["attacks"])]))
    print(f"without an attack a round takes {result['calm_round_s']} s")
    for failure in failures(result):
        tell(failure)
    return 1 if failures(result) else 0


if __name__ == "__main__":
    sys.exit(main())
