"""Fifteen things that keep a volunteer out, planted one at a time: does `talkoot doctor` name each first?

`python benchmarks/doctor_staged.py [--only NAME ...] [--json]`. Two daemons train in a laboratory of network
namespaces; the patient is a third machine of it. Needs root, iproute2, nftables and faketime. Takes minutes.
"""

import argparse
import base64
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from nat_lab import Kind, Lab, Spot, why_not
from swarm_help import daemons, small_manifest

from talkoot.cli.demo_chaos_network import run_tool
from talkoot.cli.demo_node import TALKOOT, DemoNode, Place
from talkoot.dht.identity import Identity
from talkoot.peer import presets
from talkoot.peer.invite import SCHEME, Invite, _checksum, decode, encode
from talkoot.peer.manifest import Manifest
from talkoot.peer.statedir import StateDir

LIMIT_S = 180.0
"""Longest wait for one consultation on a busy machine."""


@dataclass
class Patient:
    """One consultation: where, of what, and how it is started."""

    spot: Spot
    invite: str | None
    state_dir: Path
    before: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    undo: ExitStack = field(default_factory=ExitStack)

    def run(self) -> tuple[dict[str, Any], float, int]:
        """The report, the seconds that it took, and the exit code."""
        place = self.spot.prefix if self.invite else ()  # `ip netns exec` hides control groups
        command = [*place, *self.before, *TALKOOT, "doctor", "--json"]
        command += ["--state-dir", str(self.state_dir), *self.arguments]
        if "--port" not in self.arguments:
            command += ["--port", str(self.spot.port)]
        command += [self.invite] if self.invite else []
        began = time.monotonic()
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | self.environment,
            timeout=LIMIT_S,
            check=False,
        )
        took = time.monotonic() - began
        try:
            return json.loads(done.stdout), took, done.returncode
        except ValueError:
            return {"causes": [], "verdict": "none", "words": done.stderr[-300:]}, took, done.returncode

    def inside(self, *command: str) -> None:
        """Run a tool on the patient's machine."""
        run_tool(*self.spot.prefix, *command)


Stage = Callable[[Patient], None]
STAGES: dict[str, tuple[str, Stage]] = {}
"""By name: the cause that is to be named first, and what plants it."""


def stage(name: str, cause: str) -> Callable[[Stage], Stage]:
    """Register one."""

    def register(function: Stage) -> Stage:
        STAGES[name] = (cause, function)
        return function

    return register


@stage("no GPU driver", "no_gpu_driver")
def _(patient: Patient) -> None:
    """An NVIDIA graphics processor on the bus, as the kernel shows it, and no driver."""
    card = "/sys/bus/pci/devices/0000:01:00.0"
    script = f"mount -t tmpfs none /sys/bus/pci/devices && mkdir {card} && echo 0x10de > {card}/vendor && "
    script += f"echo 0x030000 > {card}/class && exec " + '"$@"'
    patient.before = ["unshare", "--mount", "sh", "-c", script, "sh"]


@stage("no memory", "no_memory")
def _(patient: Patient) -> None:
    """A control group, as a container has, with too little for the model that the state directory is of."""
    draft = presets.make("public", name="large")
    large = replace(draft, model=replace(draft.model, numel=140_000_000))
    StateDir(patient.state_dir).prepare()
    StateDir(patient.state_dir).save_manifest(large.canonical())
    patient.invite = None
    first = Path("/sys/fs/cgroup/memory")
    old = first.is_dir()
    group = (first if old else first.parent) / "talkoot-doctor-staged"
    group.mkdir()
    patient.undo.callback(group.rmdir)
    (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(2 * 10**9))
    patient.before = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


def firewall(patient: Patient, verdict: str) -> None:
    """What the machine's own firewall does with those who dial it."""
    rule = f"tcp dport {patient.spot.port} ct state new {verdict}"
    patient.inside("nft", "add table inet doctor")
    patient.undo.callback(patient.inside, "nft", "delete table inet doctor")
    patient.inside("nft", "add chain inet doctor in { type filter hook input priority 0; }")
    patient.inside("nft", f"add rule inet doctor in {rule}")


@stage("blocked port", "port_blocked")
def _(patient: Patient) -> None:
    firewall(patient, "reject with tcp reset")


@stage("firewall that drops", "firewall_drops")
def _(patient: Patient) -> None:
    firewall(patient, "drop")


@stage("clock off by an hour", "clock")
def _(patient: Patient) -> None:
    patient.before = ["faketime", "-f", "+3600s"]


@stage("dead bootstrap", "dead_bootstrap")
def _(patient: Patient) -> None:
    """Nobody listens any more where the invite leads."""
    patient.invite = encode(at_port(decode(patient.invite or ""), 9))


def at_port(given: Invite, port: int) -> Invite:
    """An invite whose peers listen at another port."""
    moved = [text.split("/") for text in given.addresses]
    places = tuple("/".join([*parts[:4], str(port), *parts[5:]]) for parts in moved)
    return Invite(given.swarm, places, given.anchor, given.key)


@stage("wrong protocol version", "protocol")
def _(patient: Patient) -> None:
    """An invite as the next version would make it."""
    text = (patient.invite or "")[len(SCHEME) :]
    data = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    data[0] += 1
    data[-4:] = _checksum(bytes(data[:-4]))
    patient.invite = SCHEME + base64.urlsafe_b64encode(bytes(data)).decode().rstrip("=")


@stage("full disk", "disk_full")
def _(patient: Patient) -> None:
    patient.state_dir.mkdir(parents=True)
    run_tool("mount", "-t", "tmpfs", "-o", "size=1m", "none", str(patient.state_dir))
    patient.undo.callback(run_tool, "umount", str(patient.state_dir))
    with (patient.state_dir / "full").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass


@stage("slow uplink", "slow_uplink")
def _(patient: Patient) -> None:
    shape = ("tbf", "rate", "24kbit", "burst", "3kb", "latency", "1s")
    patient.inside("tc", "qdisc", "replace", "dev", "wan", "root", *shape)
    patient.undo.callback(patient.inside, "tc", "qdisc", "delete", "dev", "wan", "root")


@stage("no IPv6", "no_ipv6")
def _(patient: Patient) -> None:
    """The invite has IPv6 addresses only, and this machine none."""
    given = decode(patient.invite or "")
    only = tuple(text for text in given.addresses if text.startswith("/ip6/2"))
    patient.invite = encode(Invite(given.swarm, only, given.anchor, given.key))
    switch = "net.ipv6.conf.all.disable_ipv6"
    patient.inside("sysctl", "-w", f"{switch}=1")

    def back() -> None:
        patient.inside("sysctl", "-w", f"{switch}=0")
        number = patient.spot.outside.split(".")[2]
        patient.inside("ip", "address", "add", f"2a07:4507:{int(number):x}::1/32", "dev", "wan", "nodad")

    patient.undo.callback(back)


@stage("state directory locked", "state_locked")
def _(patient: Patient) -> None:
    paths = StateDir(patient.state_dir)
    paths.prepare()
    lock = patient.undo.enter_context(paths.lock_file.open("r+b"))
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.pwrite(lock.fileno(), b"%d\n" % os.getpid(), 0)


@stage("key file readable by others", "key_readable")
def _(patient: Patient) -> None:
    paths = StateDir(patient.state_dir)
    paths.prepare()
    Identity.load_or_create(paths.key_file)
    paths.key_file.chmod(0o644)


@stage("old version", "old_version")
def _(patient: Patient) -> None:
    """What pip wrote when an older one was installed."""
    folder = patient.state_dir.parent / "older" / "talkoot-0.0.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: talkoot\nVersion: 0.0.1\n")
    path = os.pathsep.join(filter(None, (str(folder.parent), os.environ.get("PYTHONPATH"))))
    patient.environment = {"PYTHONPATH": path}


@stage("unreachable relay", "relay_unreachable")
def _(patient: Patient) -> None:
    relay = Identity.generate().peer_id
    patient.arguments = ["--relay", f"/ip4/{patient.spot.outside}/tcp/9/p2p/{relay}"]


@stage("symmetric NAT", "symmetric_nat")
def _(_patient: Patient) -> None:
    """The patient is another one: see `main`."""


@stage("nothing", "")
def _(_patient: Patient) -> None:
    """The control: a machine with nothing wrong."""


def manifest() -> Manifest:
    """Rounds that leave time for questions, and an exchange that a slow line misses."""
    made = small_manifest(peers=2, step_ms=50)
    return replace(made, round=replace(made.round, min_interval_s=15.0, exchange_s=3.0, announce_s=1.0))


@contextmanager
def swarm(lab: Lab, folder: Path) -> Iterator[str]:
    """Two daemons that train; gives an invite."""
    with daemons(folder) as peers:
        nodes = []
        for name in ("one", "other"):
            spot = lab[name]
            arguments = ("--port", str(spot.port))
            nodes.append(DemoNode(name, folder, TALKOOT, Place(prefix=spot.prefix, inside=spot.inside)))
            peers.options = arguments
            if name == "one":
                peers.found(manifest(), nodes[0], profile="home")
            else:
                peers.join(nodes[1], profile="home")
        peers.counted(*nodes, since=1)
        invite = nodes[0].invite()
        assert invite is not None
        yield invite


def consult(name: str, lab: Lab, invite: str, folder: Path) -> dict[str, Any]:
    """Plant one problem, ask the doctor, put everything back."""
    cause, plant = STAGES[name]
    spot = lab["symmetric" if cause == "symmetric_nat" else "patient"]
    patient = Patient(spot, invite, folder / "state")
    with patient.undo:
        plant(patient)
        report, took, code = patient.run()
    causes = report["causes"]
    fixes = {check["cause"] or check["name"]: check["fix"] for check in report.get("checks", ())}
    good = causes[:1] == [cause] and bool(fixes.get(cause)) if cause else causes == []
    return {
        "planted": name,
        "named": causes,
        "good": good,
        "verdict": report["verdict"],
        "words": report["words"],
        "fix": fixes.get(cause, "") if cause else "",
        "exit": code,
        "seconds": round(took, 1),
    }


def main(arguments: Sequence[str]) -> int:
    """Entry point. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(STAGES), help="may be repeated")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(f"not here: {reason}", file=sys.stderr)
        return 2
    rows = []
    kinds = {"one": Kind.OPEN, "other": Kind.OPEN, "patient": Kind.OPEN, "symmetric": Kind.SYMMETRIC}
    with (
        tempfile.TemporaryDirectory(prefix="talkoot-staged-") as name,
        Lab(kinds) as lab,
        swarm(lab, Path(name)) as invite,
    ):
        for number, planted in enumerate(options.only or STAGES):
            folder = Path(name) / f"patient-{number}"
            folder.mkdir()
            rows.append(consult(planted, lab, invite, folder))
            print(json.dumps(rows[-1]) if options.json else _line(rows[-1]), flush=True)
    good = sum(row["good"] for row in rows if row["planted"] != "nothing")
    planted_count = sum(row["planted"] != "nothing" for row in rows)
    print(f"{good} of {planted_count} named first, longest {max(row['seconds'] for row in rows)} s")
    return int(any(not row["good"] for row in rows))


def _line(row: dict[str, Any]) -> str:
    mark = "ok  " if row["good"] else "MISS"
    named = ", ".join(row["named"]) or "-"
    start = f"{mark} {row['planted']:28} {named:34} {row['verdict']:12} {row['seconds']:5.1f} s"
    return f"{start}  {row['words'][:150]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
