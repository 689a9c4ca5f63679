"""A swarm whose clients are behind symmetric NATs: they are reached through relays.

Real daemons in the laboratory of address translation: `--open` peers with open ports, and `--clients` that
can neither be dialled nor punch holes. They dial the open peers themselves; whatever else goes to them passes
`talkoot relay`. Measured: how long after its start each client was counted for the first time, how it is
connected, and `--rounds` rounds from the first that counts all. With `--kill` the relay with the most clients
is killed after half of them: how soon each client is reachable through another again, and whether somebody is
banned. Needs root, `ip` and `nft`.

    python benchmarks/relayed_rounds.py [--clients 8] [--open 2] [--rounds 20] [--numel 25000000] [--kill]
        [--relays 1] [--limit 1800] [--json FILE]

Exit code 1 when a round is missing, digests differ, or a client was not counted within `--counted` seconds.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import swarm_help
from nat_lab import Kind, Lab, Spot, why_not
from nat_nodes import Program, relay_in
from swarm_help import Daemons

from talkoot.cli.demo_node import TALKOOT, DemoNode, Place, stop_all
from talkoot.peer import presets
from talkoot.peer.manifest import Manifest

VOCABULARY = 4096
LOOK_S = 0.5
SMALL = 100_000
"""Parameters up to which the model of the tests will do."""

Json = dict[str, Any]


def manifest_of(numel: int, peers: int) -> Manifest:
    """The numpy model, as large as is wanted, with few and cheap steps a round."""
    manifest = presets.make("numpy-test", name="relayed")
    swarm = replace(manifest.swarm, start_peers=peers)
    if numel <= SMALL:
        return replace(manifest, swarm=swarm)
    config = {"vocab_size": VOCABULARY, "hidden": round(numel / (2 * VOCABULARY))}
    rounds = replace(
        manifest.round, announce_s=5.0, form_s=20.0, exchange_s=180.0, certify_s=60.0, max_interval_s=300.0
    )
    return replace(
        manifest,
        swarm=swarm,
        model=replace(manifest.model, config=config),
        data=replace(manifest.data, sequence_length=8),
        inner=replace(manifest.inner, batch_size=1),
        outer=replace(manifest.outer, inner_steps=2),
        round=rounds,
    )


class Swarm:
    """The daemons, the relays between them, and what was seen."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.options = options
        self.folder = folder
        opens = [f"open{index}" for index in range(options.open)]
        self.clients = [f"client{index}" for index in range(options.clients)]
        relays = [f"relay{index}" for index in range(options.relays)]
        kinds = dict.fromkeys([*relays, *opens], Kind.OPEN) | dict.fromkeys(self.clients, Kind.SYMMETRIC)
        self.lab = stack.enter_context(Lab(kinds))
        self.relays: dict[str, Program] = {}
        places = []
        for name in relays:
            program, addresses = relay_in(self.lab[name], folder)
            stack.callback(program.close)
            self.relays[addresses[0].rpartition("/")[2]] = program
            places += addresses[:1]
        self.swarm = Daemons(folder, *(word for place in places for word in ("--relay", place)))
        stack.callback(lambda: stop_all(self.swarm.peers, polite_s=20.0, firm_s=5.0))
        self.nodes: dict[str, DemoNode] = {}
        self.began = time.monotonic()
        self.started: dict[str, float] = {}
        self.first_counted: dict[str, float] = {}
        self.names: dict[str, str] = {}
        self.rounds: dict[int, Json] = {}
        self._start(opens)

    def _start(self, opens: list[str]) -> None:
        manifest = manifest_of(self.options.numel, len(opens))
        for name in [*opens, *self.clients]:
            node = DemoNode(name, self.folder, TALKOOT, _place(self.lab[name]))
            if self.nodes:
                self.swarm.join(node, profile="home")
            else:
                self.swarm.found(manifest, node, profile="home")
            self.nodes[name] = node
            self.started[name] = self.now

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def look(self) -> None:
        """What there is to see now."""
        for name, node in self.nodes.items():
            status = node.poll()
            if status is not None:
                self.names[status["peer_id"]] = name
        for entry in self.nodes["open0"].rounds():
            if entry["round"] in self.rounds:
                continue
            self.rounds[entry["round"]] = entry | {"at_s": self.now}
            for peer_id in entry["counted"]:
                name = self.names.get(peer_id, peer_id)
                self.first_counted.setdefault(name, self.now - self.started.get(name, 0.0))
            sys.stdout.write(f"{self.now:7.1f} s: round {entry['round']} counts {len(entry['counted'])}\n")
            sys.stdout.flush()

    def held(self, name: str) -> list[str]:
        """Living relays at which a node is reachable."""
        status = self.nodes[name].status or {}
        alive = {peer_id for peer_id, program in self.relays.items() if program.process.poll() is None}
        return [relay for relay in status.get("relays", []) if relay in alive]

    def until(self, reached: Any, what: str) -> bool:
        """Look until it is so, or the time is over."""
        while not reached():
            if self.now > self.options.limit:
                sys.stdout.write(f"not within {self.options.limit:.0f} s: {what}\n")
                return False
            self.look()
            time.sleep(LOOK_S)  # other processes, which say when asked only
        return True

    def kill_relay(self) -> Json:
        """Kill the relay that most clients use; when each of them had another."""
        users = {relay: [name for name in self.clients if relay in self.held(name)] for relay in self.relays}
        relay = max(users, key=lambda each: len(users[each]))
        self.relays[relay].process.kill()
        self.relays[relay].process.wait()
        killed = self.now
        again: dict[str, float] = {}

        def all_again() -> bool:
            for name in self.clients:
                if name not in again and self.held(name):
                    again[name] = self.now - killed
            return len(again) == len(self.clients)

        self.look()
        before = max(self.rounds)
        self.until(all_again, "every client at another relay")
        self.until(lambda: max(self.rounds) > before, "a round after the relay's death")
        return {"killed_at_s": killed, "users": len(users[relay]), "again_s": again,
                "next_round_s": self.now - killed}  # fmt: skip

    def all_counted(self) -> int | None:
        """The first round that counts everybody."""
        return next((number for number, entry in sorted(self.rounds.items())
                     if len(entry["counted"]) == len(self.nodes)), None)  # fmt: skip

    def measure(self) -> Json:
        """Everything, in order."""
        result: Json = {"options": {key: str(value) for key, value in vars(self.options).items()}}
        self.until(lambda: self.all_counted() is not None, "a round that counts all")
        first = self.all_counted()
        if first is not None:
            half, last = first + self.options.rounds // 2, first + self.options.rounds - 1
            if self.options.kill:
                self.until(lambda: max(self.rounds) >= half, f"round {half}")
                result["kill"] = self.kill_relay()
            self.until(lambda: max(self.rounds) >= last, f"round {last}")
        window = [
            entry for number, entry in sorted(self.rounds.items()) if first is not None and number >= first
        ]
        result |= {
            "first_counted_s": {name: self.first_counted.get(name) for name in self.clients},
            "rounds": [(entry["round"], len(entry["counted"]), round(entry["at_s"], 1)) for entry in window],
            "paths": {name: self._paths(name) for name in self.clients},
            "roles": {name: (self.nodes[name].status or {}).get("role") for name in self.nodes},
            "digests_differ": self._differ(),
            "banned": sum(len((node.status or {}).get("banned", [])) for node in self.nodes.values()),
        }
        return result

    def _paths(self, name: str) -> list[str]:
        return sorted({peer["path"] for peer in (self.nodes[name].status or {}).get("peers", [])})

    def _differ(self) -> int:
        """Rounds of which two nodes have another digest."""
        seen: dict[int, set[str]] = {}
        for node in self.nodes.values():
            for entry in node.rounds():
                seen.setdefault(entry["round"], set()).add(entry["digest"])
        return sum(len(digests) > 1 for digests in seen.values())


def _place(spot: Spot) -> Place:
    return Place(prefix=spot.prefix, inside=spot.inside)


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--open", type=int, default=2)
    parser.add_argument("--relays", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--numel", type=int, default=25_000_000)
    parser.add_argument("--counted", type=float, default=90.0)
    parser.add_argument("--limit", type=float, default=1800.0)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if reason := why_not():
        sys.stderr.write(f"no laboratory here: {reason}\n")
        return 1
    logging.disable(logging.CRITICAL)
    swarm_help.PATIENCE_S = options.limit
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        result = Swarm(options, Path(folder), stack).measure()
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    firsts = list(result["first_counted_s"].values())
    late = [value for value in firsts if value is None or value > options.counted]
    done = len(result["rounds"])
    sys.stdout.write(
        f"{done} rounds, {options.rounds} wanted; {len(firsts) - len(late)} of {len(firsts)} clients counted "
        f"within {options.counted:.0f} s of their start\n"
    )
    return 1 if late or done < options.rounds or result["digests_differ"] or result["banned"] else 0


if __name__ == "__main__":
    sys.exit(main())
