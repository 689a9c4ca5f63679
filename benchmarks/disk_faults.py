"""Real daemons on a small disk that is filled up, made read-only, and opened no files on; and back again.

    sudo python benchmarks/disk_faults.py [--seconds 15] [--only full,read_only,files] [--json FILE]

Three peers with the numpy trainer. The last one's state directory is a tmpfs in a mount namespace of its own.
For each fault: what the peer said, seconds from the fault until it paused, rounds that the others went on
by, and seconds from the end of the fault until a round counted it again. Exit code 1 if anything was lost.
"""

import argparse
import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkoot.cli.demo_chaos_faults import BALLAST, fill, small_disks
from talkoot.cli.demo_chaos_network import run_tool
from talkoot.cli.demo_chaos_verify import states_that_differ
from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.cli.errors import CommandError
from talkoot.peer import manifest_file, presets
from talkoot.peer.verify import verify

LIMIT_S = 240.0
"""For any one event."""

POLL_S = 0.1
"""Pause between two questions to a daemon, which is a process of its own."""

INSIDE = "TALKOOT_DISK_FAULTS_INSIDE"
"""Set in the mount namespace."""

Json = dict[str, Any]


class Kept:
    """The API of a daemon over one connection, which outlives a time without descriptors."""

    def __init__(self, node: DemoNode) -> None:
        assert node.status is not None
        self._connection = http.client.HTTPConnection("127.0.0.1", node.status["http_port"], timeout=30)

    def status(self) -> Json:
        """What it is doing."""
        self._connection.request("GET", "/api/v1/status")
        answer: Json = json.loads(self._connection.getresponse().read())
        return answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one fault."""

    fault: str
    said: str
    paused_s: float
    """Until it said so."""
    others_rounds: int
    """That were committed while it was paused."""
    resumed_s: float
    """From the end of the fault until it did not say so any more."""
    counted_s: float
    """From the end of the fault until another peer's round counted it."""
    warnings: int
    wrong: list[str]


# -- faults ------------------------------------------------------------------------------------------


@contextmanager
def full(node: DemoNode, _pid: int) -> Iterator[None]:
    """No byte is free."""
    fill(node.state_dir)
    try:
        yield
    finally:
        (node.state_dir / BALLAST).unlink()


@contextmanager
def read_only(node: DemoNode, _pid: int) -> Iterator[None]:
    """Whatever is opened by its path from now on is read-only.

    The kernel remounts nothing under files that are open for writing, as those of a daemon are: so the same
    tree is mounted above itself.
    """
    folder = str(node.state_dir)
    with suppress(CommandError):
        run_tool("mount", "-o", "remount,ro", folder)
        raise SystemExit("the kernel made a file system read-only under mapped files: is the daemon there?")
    run_tool("mount", "--bind", folder, folder)
    try:
        run_tool("mount", "-o", "remount,bind,ro", folder)
        yield
        run_tool("mount", "-o", "remount,bind,rw", folder)
    finally:
        run_tool("umount", "--lazy", folder)


@contextmanager
def files(_node: DemoNode, pid: int) -> Iterator[None]:
    """It may open no more files, nor accept or dial."""
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, usual[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)


FAULTS = {"full": full, "read_only": read_only, "files": files}


# -- one fault ---------------------------------------------------------------------------------------


def until(event: Callable[[], bool], what: str) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while time.monotonic() - began < LIMIT_S:
        if event():
            return time.monotonic() - began
        time.sleep(POLL_S)  # another process, and says when asked only
    raise SystemExit(f"not within {LIMIT_S:.0f} s: {what}")


def round_of(node: DemoNode) -> int:
    """Rounds that it has committed."""
    status = node.poll()
    return -1 if status is None or status["round"] is None else int(status["round"])


def counted_since(node: DemoNode, peer_id: str, number: int) -> bool:
    """Whether a round from `number` on counted this peer, as another one tells."""
    later = [entry for entry in node.rounds() if entry["round"] >= number]
    return any(peer_id in json.dumps(entry["counted"]) for entry in later)


def try_fault(name: str, victim: DemoNode, other: DemoNode, seconds: float) -> Outcome:
    """Make it, wait until the peer has paused and for `seconds`, take it back, wait until all is well."""
    begun = round_of(other)
    until(lambda: counted_since(other, _id(victim), begun), f"{victim.name} takes part")
    victim.poll()
    api = Kept(victim)
    before = api.status()
    pid = json.loads((victim.state_dir / "api.json").read_bytes())["pid"]
    logged = victim.log_path.stat().st_size
    with FAULTS[name](victim, pid):
        paused_s = until(lambda: api.status()["state"] == "paused", f"{name}: paused")
        shown, seen = api.status(), round_of(other)
        time.sleep(seconds)  # the fault lasts
        until(lambda: round_of(other) > seen, "the others go on")
        meanwhile = round_of(other) - seen
        still = api.status()
    ended = time.monotonic()
    until(lambda: api.status()["state"] in ("training", "exchanging"), f"{name}: trains again")
    resumed_s = time.monotonic() - ended
    number = round_of(other)
    until(lambda: counted_since(other, _id(victim), number), f"{name}: counted again")
    counted_s = time.monotonic() - ended
    after = api.status()
    with victim.log_path.open("rb") as file:
        file.seek(logged)
        log = file.read().decode(errors="replace")
    checks = {
        "it was not told why": (shown["reason"], still["state"]) == ("disk", "paused")
        and bool(shown["disk"]),
        "the trainer was started again": before["trainer_pid"] == after["trainer_pid"],
        "steps are gone": after["steps_total"] >= still["steps_total"] >= before["steps_total"],
        "it went on working meanwhile": still["steps_total"] - shown["steps_total"] <= 2,
        "something is lost": "lost:" not in log,
        "it warned again and again": log.count("paused until") <= 1,
        "digests differ": digests_equal(victim, other),
    }
    return Outcome(
        fault=name,
        said=f"{shown['state']} ({shown['reason']}): {shown['disk']}",
        paused_s=round(paused_s, 1),
        others_rounds=meanwhile,
        resumed_s=round(resumed_s, 1),
        counted_s=round(counted_s, 1),
        warnings=log.count('"warning"'),
        wrong=[words for words, good in checks.items() if not good],
    )


def _id(node: DemoNode) -> str:
    assert node.status is not None
    return str(node.status["peer_id"])


def digests_equal(*nodes: DemoNode) -> bool:
    """Whether no two peers differ in a round."""
    seen: dict[int, set[str]] = {}
    for node in nodes:
        for entry in node.rounds():
            seen.setdefault(entry["round"], set()).add(entry["digest"])
    return bool(seen) and all(len(digests) == 1 for digests in seen.values())


# -- all of it ---------------------------------------------------------------------------------------


def swarm(folder: Path) -> list[DemoNode]:
    """Three peers that have come through a round together."""
    manifest_file.save(presets.make("numpy-test", name="disks"), folder / manifest_file.FILE_NAME)
    nodes: list[DemoNode] = []
    for number in range(3):
        node = DemoNode(f"peer-{number}", folder, TALKOOT)
        how = [str(folder / manifest_file.FILE_NAME)]
        if nodes:
            invite: list[str] = []
            until(lambda: bool(invite.extend(filter(None, [nodes[0].invite()])) or invite), "an invite")  # noqa: B023
            how = ["--join", invite[-1]]
        node.start([*how, "--profile", "test", "--device", "cpu", "--threads", "1"])
        nodes.append(node)
        until(lambda: round_of(node) >= 0, f"{node.name} holds a state")  # noqa: B023
    return nodes


def measure(names: list[str], seconds: float) -> tuple[list[Outcome], list[str]]:
    """All faults in turn; also what is wrong with the states on disk at the end."""
    with tempfile.TemporaryDirectory(prefix="talkoot-disks-") as name:
        folder = Path(name)
        with small_disks([folder / "peer-2"]):
            nodes: list[DemoNode] = []
            try:
                nodes = swarm(folder)
                outcomes = []
                for fault in names:
                    outcomes.append(try_fault(fault, nodes[2], nodes[0], seconds))
                    tell(outcomes[-1])
            finally:
                stop_all(nodes)
            wrong = states_that_differ({node.name: node.state_dir for node in nodes})
            wrong += [node.name for node in nodes if not verify(node.state_dir).ok]
            return outcomes, wrong


def tell(outcome: Outcome) -> None:
    """One line of the table."""
    one = outcome
    sys.stdout.write(
        f"{one.fault:10} {one.said:38} paused after {one.paused_s:5.1f} s; "
        f"others {one.others_rounds:3} rounds; trains again after {one.resumed_s:4.1f} s, "
        f"counted after {one.counted_s:5.1f} s; "
        f"{one.warnings} warnings; {', '.join(one.wrong) or 'nothing lost'}\n"
    )
    sys.stdout.flush()


def main() -> int:
    """Measure and print; returns 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long a fault lasts once it was met")
    parser.add_argument("--only", default=",".join(FAULTS))
    parser.add_argument("--json", type=Path, help="also write the outcomes there")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(FAULTS):
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    if os.geteuid() != 0:
        parser.error("only root makes file systems: run it with sudo")
    if INSIDE not in os.environ:  # mounts are nobody else's, and gone with us
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        return subprocess.run(command, env=os.environ | {INSIDE: "1"}, check=False).returncode
    outcomes, wrong = measure(names, options.seconds)
    for words in wrong:
        sys.stdout.write(f"on disk: {words}\n")
    if options.json:
        figures = {"faults": [vars_of(one) for one in outcomes], "on_disk": wrong}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(bool(wrong) or any(one.wrong for one in outcomes))


def vars_of(outcome: Outcome) -> Json:
    """As JSON has it."""
    return {name: getattr(outcome, name) for name in Outcome.__slots__}


if __name__ == "__main__":
    sys.exit(main())
