"""How soon a node gives way to a program and to another user of the GPU, and how soon it is back.

    python benchmarks/yielding.py [--times 20] [--quiet-s 20] [--preset numpy-test] [--only program,gpu]
    python benchmarks/yielding.py --cost

A real daemon on loopback, alone in its swarm, whose trainer is a process of its own. Each time a listed
program starts (a copy of `cat`), or another process takes 1 GiB of the GPU's memory (in a file of readings
that stands in for NVIDIA's library). All from outside: *paused* is when the API says so, *freed* when the
trainer's process is gone as well, *back* is from the program's end until training goes on. Exit code 1 if one
of the times was above 5 s, 5 s and 60 s.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.cli.local_api import Json
from talkoot.peer import manifest_file, presets
from talkoot.peer.guest.senses.machine import Machine
from talkoot.peer.guest.senses.service import POLL_S as POLL_EACH_S
from talkoot.peer.guest.senses.service import SLOW_POLLS
from talkoot.peer.guest.settings import GuestSettings

LIMIT_S = 300.0
"""For any one event."""

POLL_S = 0.05
"""Pause between two questions to the daemon, which is a process of its own."""

BUSY_S = 3.0
"""How long the program runs, or holds the memory, once the node has given way."""

PROGRAM = f"intruder-{os.getpid()}"
"""Its name: another one for each run, which may be beside another."""

MOST_S = {"paused": 5.0, "freed": 5.0, "back": 60.0}
"""What is allowed."""

TRAINS = ("training", "exchanging")


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Of one interruption, in seconds."""

    paused: float
    freed: float
    back: float


def until(what: str, event: Callable[[], bool]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not event():
        if time.monotonic() - began > LIMIT_S:
            raise SystemExit(f"no {what} within {LIMIT_S:.0f} s")
        time.sleep(POLL_S)  # another process, and says when asked only
    return time.monotonic() - began


@contextmanager
def program(folder: Path) -> Iterator[None]:
    """The listed program runs."""
    with subprocess.Popen([folder / PROGRAM], stdin=subprocess.PIPE) as process:
        yield
        process.kill()


@contextmanager
def gpu(folder: Path) -> Iterator[None]:
    """Another process has 1 GiB of the GPU."""
    write_readings(folder, [{"pid": 4_000_000, "bytes": 1 << 30, "name": "intruder"}])
    yield
    write_readings(folder, [])


def write_readings(folder: Path, processes: list[Json]) -> None:
    """At once, as a program would that writes them again and again."""
    new = folder / "gpus.new"
    new.write_text(json.dumps([{"index": 0, "processes": processes}]))
    new.replace(folder / "gpus.json")


KINDS = {"program": (program, "exclusive_app"), "gpu": (gpu, "other_gpu_use")}


def interrupt(node: DemoNode, folder: Path, kind: str) -> Times:
    """Once, from training to training."""
    begin, reason = KINDS[kind]

    def status() -> Json:
        return node.poll() or {}

    def trains() -> bool:
        now = status()
        return now.get("state") in TRAINS and now.get("trainer") == "training"

    until("training", trains)
    trainer = status()["trainer_pid"]
    began = time.monotonic()
    with begin(folder):
        until("pause", lambda: (status().get("state"), status().get("reason")) == ("paused", reason))
        paused = time.monotonic() - began
        until("end of the trainer", lambda: not alive(trainer))
        freed = time.monotonic() - began
        time.sleep(BUSY_S)  # the other program runs for so long
    times = Times(paused=paused, freed=freed, back=until("return", trains))
    print(f"{kind:8} {times}", flush=True)
    return times


def alive(pid: int) -> bool:
    """Whether that process still holds memory."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def report(kind: str, times: list[Times]) -> bool:
    """Print one line for each figure; whether all are as they should be."""
    well = True
    for name, most in MOST_S.items():
        figures = [getattr(one, name) for one in times]
        kept = sum(figure <= most for figure in figures)
        well &= kept == len(figures)
        print(
            f"{kind:8} {name:7} median {statistics.median(figures):5.2f} s, most {max(figures):5.2f} s, "
            f"{kept} of {len(figures)} within {most:.0f} s",
            flush=True,
        )
    return well


def cost(looks: int = 100) -> None:
    """Print what looking takes of one core."""
    machine, settings = Machine(), GuestSettings(programs=(PROGRAM,))
    machine.look(settings, "cpu", slow=True)
    began = time.process_time()
    for number in range(looks):
        machine.look(settings, "cpu", slow=number % SLOW_POLLS == 0)
    each_s = (time.process_time() - began) / looks
    share = each_s / POLL_EACH_S
    print(f"{1000 * each_s:.1f} ms a look at {len(psutil.pids())} processes: {share:.2%} of a core")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--quiet-s", type=float, default=20.0)
    parser.add_argument("--preset", default="numpy-test")
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--cost", action="store_true", help="Only the CPU time of looking.")
    options = parser.parse_args()
    if options.cost:
        return cost()
    with tempfile.TemporaryDirectory(prefix="talkoot-yielding-") as name:
        sys.exit(not measure(options, Path(name)))


def measure(options: argparse.Namespace, folder: Path) -> bool:
    """Whether all was as it should be."""
    shutil.copy(shutil.which("cat") or "/bin/cat", folder / PROGRAM)
    write_readings(folder, [])
    made = presets.make(options.preset, name="yielding")
    made = replace(made, swarm=replace(made.swarm, start_peers=1))
    manifest_file.save(made, folder / manifest_file.FILE_NAME)
    node = DemoNode("guest", folder, TALKOOT)
    settings = {
        "yield.programs": PROGRAM, "yield.gpu_users": "256MiB", "yield.quiet": f"{options.quiet_s:g}",
    }  # fmt: skip
    node.start(
        [
            *("--profile", "test", "--gpu-readings", str(folder / "gpus.json")),
            *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
            str(folder / manifest_file.FILE_NAME),
        ]
    )
    try:
        well = True
        for kind in options.only.split(","):
            well &= report(kind, [interrupt(node, folder, kind) for _ in range(options.times)])
        return well
    finally:
        stop_all([node], polite_s=20.0, firm_s=5.0)


if __name__ == "__main__":
    main()
