"""What users live through, with real daemons of the numpy test model: how long until all is as before.

    python benchmarks/recovery.py [--only sleep,kill,link,ordered,killed,...] [--json FILE]

* sleep: a laptop is closed for more than three rounds (SIGSTOP to all of a node's processes, then SIGCONT).
* kill: SIGKILL to a node, started again four rounds later.
* link: a newcomer behind a slow cable (network namespaces, a token bucket both ways; root and iproute2).
* ordered, killed: all four trainers leave in order, or all are killed at once. The founder's archivist is
  left, which votes; two new volunteers come. Then the archivist itself is killed and started again.
* ordered-without, killed-without: the same with an archivist that has no vote. Volunteers hold the state and
  wait; then the founder comes back.

Digests are compared in each. Exit code 1 when something was lost or did not come about.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from recovery_swarm import Json, Lost, Swarm, caught_up_by, log_size, on_disk

from talkoot.cli.demo_chaos_network import Cables, run_tool, why_not
from talkoot.cli.demo_node import DemoNode

MISSED = 4
"""Rounds that a sleeping or killed node misses at least."""
LONG = 12
"""And one that sleeps for long."""
MBIT = 1.0
SHAPE = ("rate", f"{MBIT:g}mbit", "burst", "16kb", "latency", "400ms")
WAIT_S = 10.0
"""How long volunteers are watched who wait for somebody that may vote."""
OBSERVE = ("--observe",)


class Clock:
    """Seconds since something happened."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> float:
        return round(time.monotonic() - self._began, 1)


def four(swarm: Swarm) -> list[DemoNode]:
    """A founder and three volunteers that train, once all were counted in a round."""
    nodes = [swarm.found()]
    nodes += [swarm.join(f"peer-{number}", swarm.invite()) for number in range(1, 4)]
    swarm.counted(nodes[0], nodes, since=0)
    return nodes


# -- one node ----------------------------------------------------------------------------------------


def sleep(folder: Path) -> list[Json]:
    """A laptop that slept, shortly and for long."""
    swarm = Swarm(folder / "sleep", trainers=4)
    try:
        *others, laptop = four(swarm)
        return [_sleep(swarm, others, laptop, rounds) for rounds in (MISSED, LONG)]
    finally:
        swarm.end()


def _sleep(swarm: Swarm, others: Sequence[DemoNode], laptop: DemoNode, rounds: int) -> Json:
    before = swarm.round_of(laptop)
    fetched = (laptop.status or {})["state_bytes_received"]
    log_at = log_size(laptop)
    laptop.freeze()
    swarm.reach(before + rounds, *others)
    since = swarm.round_of(others[0])
    laptop.thaw()
    return {"what": f"slept for {since - before} rounds"} | _back(
        swarm, others, laptop, since, Clock(), log_at, fetched
    )


def _back(
    swarm: Swarm,
    others: Sequence[DemoNode],
    node: DemoNode,
    since: int,
    clock: Clock,
    log_at: int,
    fetched: int = 0,
) -> Json:
    """Until a node is level with the others, and until it is counted in a round again."""
    swarm.until(lambda: swarm.round_of(node) >= since, f"round {since} at {node.name}")
    level_s = clock()
    counted = swarm.counted(others[0], [node], since)
    swarm.digests()
    received = (node.poll() or {}).get("state_bytes_received", 0) - fetched
    return {
        "caught_up": caught_up_by(node, log_at),
        "state_bytes": received,
        "level_s": level_s,
        "counted_s": clock(),
        "rounds_of_others": counted - since + 1,
    }


def kill(folder: Path) -> list[Json]:
    """A node that was killed, and is started again."""
    swarm = Swarm(folder / "kill", trainers=4)
    try:
        *others, victim = four(swarm)
        swarm.until(lambda: (victim.poll() or {}).get("round_steps", 0) >= 10, "local steps")
        said = victim.poll() or victim.status or {}
        victim.kill()
        held = on_disk(victim)
        if held.round < said["round"]:
            raise Lost(f"it held round {said['round']}, and its disk has round {held.round}")
        known = swarm.digests().get(held.round - 1)
        if known is not None and known != held.digest.hex():
            raise Lost("its disk holds another state than the others had")
        swarm.reach(held.round + MISSED, *others)
        since, log_at = swarm.round_of(others[0]), log_size(victim)
        clock = Clock()
        victim.start()
        found = _back(swarm, others, victim, since, clock, log_at)
        words = f"killed, {since - held.round} rounds missed"
        return [{"what": words, "steps_lost": said["round_steps"]} | found]
    finally:
        swarm.end()


def link(folder: Path) -> list[Json]:
    """A newcomer on a slow cable."""
    reason = why_not()
    if reason:
        return [{"what": f"newcomer on a slow link: left out ({reason})"}]
    swarm = Swarm(folder / "link", trainers=3)
    with Cables(4) as cables:
        try:
            founder = swarm.found(place=cables.place(0))
            trainers = [founder]
            for number in (1, 2):
                invite = swarm.invite()
                trainers.append(swarm.join(f"peer-{number}", invite, place=cables.place(number)))
            swarm.reach(swarm.counted(founder, trainers, since=0) + 4, founder)
            hub = cables.names[0].rpartition("-")[0] + "-hub"
            for name, device in ((cables.names[3], "eth0"), (hub, "peer3")):
                run_tool("tc", "-n", name, "qdisc", "replace", "dev", device, "root", "tbf", *SHAPE)
            invite, since, clock = swarm.invite(), swarm.round_of(founder), Clock()
            newcomer = swarm.join("newcomer", invite, place=cables.place(3))
            found = _back(swarm, trainers, newcomer, since, clock, 0)
            seconds = [entry["seconds"] or 0.0 for entry in founder.rounds() if entry["round"] >= since]
            found["longest_round_s"] = max(seconds)
            return [{"what": f"newcomer at {MBIT:g} Mbit/s"} | found]
        finally:
            swarm.end()


# -- everybody leaves --------------------------------------------------------------------------------


def left(folder: Path, *, ordered: bool, votes: bool) -> list[Json]:
    """Everybody leaves but an archivist; two volunteers come, and what follows."""
    swarm = Swarm(folder / f"left-{ordered}-{votes}", trainers=4)
    try:
        founder = swarm.found(*(OBSERVE if votes else ()))
        trainers = [] if votes else [founder]
        while len(trainers) < 4:
            trainers.append(swarm.join(f"peer-{len(trainers)}", swarm.invite()))
        archivist = founder if votes else swarm.join("archivist", swarm.invite(), *OBSERVE)
        first = swarm.counted(trainers[0], trainers, since=0)
        swarm.reach(first + 3, archivist)
        invites = [swarm.invite(), swarm.invite()]
        _leave(trainers, ordered)
        rows = [_newcomers(swarm, trainers, archivist, invites, votes=votes, ordered=ordered)]
        rows.append(_archivist_ends(swarm, archivist, votes=votes))
        return rows
    finally:
        swarm.end()


def _leave(trainers: Sequence[DemoNode], ordered: bool) -> None:
    for node in trainers:
        if ordered:
            node.interrupt()
            if not node.wait(60.0) or node.exit_code != 0:
                raise Lost(f"{node.name} did not leave in order: {node.last_words()}")
        else:
            node.kill()


def _newcomers(
    swarm: Swarm,
    trainers: Sequence[DemoNode],
    archivist: DemoNode,
    invites: Sequence[str],
    *,
    votes: bool,
    ordered: bool,
) -> Json:
    """Two volunteers begin where the archivist is, and rounds go on from there."""
    newest = max(on_disk(node).round for node in trainers)
    if ordered:
        swarm.reach(newest, archivist)  # who left last waited for that
    else:
        time.sleep(WAIT_S)  # what the dead had sent may still arrive, and nothing says that it was the last
    kept = archivist.poll() or {}
    rounds, digest = kept["round"], kept["digest"]
    behind = newest - rounds
    address, clock = kept["addresses"][0], Clock()
    volunteers = [
        swarm.join(f"volunteer-{number}", invite, "--bootstrap", address)
        for number, invite in enumerate(invites)
    ]
    held = [swarm.until(lambda node=node: _state(node), "state") for node in volunteers]
    found = {
        "what": f"all {'left' if ordered else 'killed'}, archivist {'votes' if votes else 'has no vote'}",
        "rounds_on_dead_disks_only": max(0, behind),
        "level_s": clock(),
    }
    if not votes:
        if held != [(rounds, digest)] * 2:
            raise Lost(f"the volunteers began at {held}, not at {(rounds, digest)}")
        time.sleep(WAIT_S)  # what is looked at: nothing happens
        if [_state(node) for node in volunteers] != held:
            raise Lost("a round without a voter")
        clock = Clock()
        trainers[0].start()
        found["founder_back"] = True
    swarm.counted(volunteers[0], volunteers, since=rounds)
    found["counted_s"] = clock()
    swarm.reach(rounds + 4, *volunteers, archivist)
    after = {entry["round"]: entry for entry in volunteers[0].rounds()}
    if behind <= 0 and rounds not in after:
        raise Lost(f"rounds did not go on after {rounds}")
    known = {number: value for node in trainers for number, value in _ended(node)}
    if known.get(rounds, digest) != digest:
        raise Lost("the trainers' last state is another one")
    swarm.digests()
    return found | {"kinds": [after[number]["kind"] for number in sorted(after)][:6]}


def _state(node: DemoNode) -> tuple[int, str] | None:
    """(rounds, digest) of what it holds."""
    status = node.poll() or {}
    return (status["round"], status["digest"]) if status.get("digest") else None


def _ended(node: DemoNode) -> list[tuple[int, str]]:
    """What the disk of a node that ended holds."""
    if node.running:
        return []
    head = on_disk(node)
    return [(head.round, head.digest.hex())]


def _archivist_ends(swarm: Swarm, archivist: DemoNode, *, votes: bool) -> Json:
    """The archivist is killed and started again while the volunteers train."""
    volunteers = [node for node in swarm.nodes if node.name.startswith("volunteer")]
    archivist.kill()
    held = on_disk(archivist).round
    swarm.reach(held + 2, *volunteers)
    since, log_at = swarm.round_of(volunteers[0]), log_size(archivist)
    clock = Clock()
    archivist.start()
    swarm.reach(since, archivist)
    found: Json = {"what": f"archivist that {'votes' if votes else 'has no vote'} killed", "level_s": clock()}
    if votes:  # a round that it has computed itself
        own = swarm.until(
            lambda: next((entry for entry in archivist.rounds() if entry["seconds"] is not None), None),
            "round with the archivist",
        )
        found["votes_s"] = clock()
        found["kinds"] = [own["kind"]]
    swarm.digests()
    return found | {
        "caught_up": caught_up_by(archivist, log_at),
        "state_bytes": (archivist.poll() or {}).get("state_bytes_received"),
    }


# -- all of it ---------------------------------------------------------------------------------------

SCENARIOS: dict[str, Callable[[Path], list[Json]]] = {
    "sleep": sleep,
    "kill": kill,
    "link": link,
    "ordered": lambda folder: left(folder, ordered=True, votes=True),
    "killed": lambda folder: left(folder, ordered=False, votes=True),
    "ordered-without": lambda folder: left(folder, ordered=True, votes=False),
    "killed-without": lambda folder: left(folder, ordered=False, votes=False),
}


def line(row: Json) -> str:
    """One row of the table."""
    figures = []
    for name, words in (
        ("level_s", "level after {} s"),
        ("counted_s", "counted after {} s"),
        ("votes_s", "votes after {} s"),
        ("rounds_of_others", "in round {} of the others"),
        ("steps_lost", "{} local steps lost"),
        ("longest_round_s", "longest exchange {} s"),
        ("rounds_on_dead_disks_only", "{} rounds on dead disks only"),
    ):
        if name in row:
            figures.append(words.format(row[name]))
    if row.get("caught_up"):
        figures.append("caught up: " + ", ".join(row["caught_up"]))
    if row.get("state_bytes"):
        figures.append(f"{row['state_bytes'] / 1e3:,.0f} kB of state")
    if row.get("kinds"):
        figures.append("then " + " ".join(row["kinds"]))
    if "lost" in row:
        figures.append("LOST: " + row["lost"])
    return f"{row['what']:38} {'; '.join(figures)}"


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="some of " + ", ".join(SCENARIOS))
    parser.add_argument("--dir", type=Path, help="keep state directories and logs there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # and no process is left
    rows: list[Json] = []
    with tempfile.TemporaryDirectory(prefix="talkoot-recovery-") as temporary:
        folder = options.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            clock = Clock()
            try:
                found = SCENARIOS[name](folder)
            except Lost as error:
                found = [{"what": name, "lost": str(error)}]
            for row in found:
                print(line(row), flush=True)
            rows += [{"scenario": name, "seconds": clock()} | row for row in found]
    if options.json is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    return 1 if any("lost" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
