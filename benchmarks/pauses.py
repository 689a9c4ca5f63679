"""Pause a training node at random moments, again and again: what is lost, and when the memory is back.

    python benchmarks/pauses.py [--pauses 20] [--minutes 60] [--preset tiny] [--peers 2] [--seed 0]
    python benchmarks/pauses.py --minutes 5 --preset numpy-test --step-ms 500

Real daemons on loopback; the guest's trainer is a process that trains the model of the preset. Pauses begin
at random moments of so many minutes of training, each of which is as likely as any other, and end after a
few seconds.

* *memory back*: from the order until the trainer's process is gone, as the operating system sees it.
* *given up*: of that, the time which went into a step that was not finished. It is at most the whole of it.
* *steps lost*: what the guest's trainers reported less what its contributions in certificates hold, and the
  contribution that it would make now.
* *contributions lost*: rounds with a contribution of the guest that did not count it.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import psutil

from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.cli.local_api import LocalApi
from talkoot.peer import manifest_file, presets

Json = dict[str, Any]
T = TypeVar("T")

LIMIT_S = 600.0
"""Longest wait for any one event."""


@dataclass
class Figures:
    """Of all pauses."""

    gone_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    """From `resume` until it trains."""
    paused_s: float = 0.0


def until(event: Callable[[], T | None], what: str) -> T:
    """The first value that is something."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        value = event()
        if value is not None and value is not False:
            return value
        time.sleep(0.02)  # between two looks at a daemon, which is a process of its own
    raise SystemExit(f"no {what} within {LIMIT_S:.0f} s")


def trains(node: DemoNode) -> bool:
    """Whether steps are made."""
    now = node.poll() or {}
    return now.get("state") in ("training", "exchanging") and bool(now.get("steps_per_second"))


def pause_once(node: DemoNode, after_s: float, rng: random.Random, figures: Figures) -> None:
    """Let it train for a while, pause it, and let it go on."""
    time.sleep(after_s)  # it trains
    trainer = psutil.Process(until(lambda: (node.poll() or {}).get("trainer_pid"), "trainer"))
    figures.rss_bytes.append(trainer.memory_info().rss)
    api, began = LocalApi(node.state_dir), time.monotonic()
    api.order("pause")
    while alive(trainer):
        time.sleep(0.005)
        if time.monotonic() - began > LIMIT_S:
            raise SystemExit("the trainer does not end")
    figures.gone_s.append(time.monotonic() - began)
    status = node.poll() or {}
    if (status.get("state"), status.get("reason")) != ("paused", "user"):
        raise SystemExit(f"paused, but it says {status.get('state')}: {status.get('reason')}")
    time.sleep(rng.uniform(0.5, 5.0))  # the pause
    figures.paused_s += time.monotonic() - began
    resumed = time.monotonic()
    api.order("resume")
    until(lambda: trains(node), "training")
    figures.back_s.append(time.monotonic() - resumed)


def alive(process: psutil.Process) -> bool:
    """Whether it still has its memory."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def receipts(node: DemoNode) -> Json:
    """What certificates prove of its work."""
    command = [*TALKOOT, "receipts", "--json", "--state-dir", str(node.state_dir)]
    answer = subprocess.run(command, capture_output=True, check=True)
    found: Json = json.loads(answer.stdout)
    return found


def told(node: DemoNode, figures: Figures, began: float) -> int:
    """Print what came of it; the number of contributions that were lost."""
    until(lambda: (LocalApi(node.state_dir).status().get("reason") == "user") or None, "end")
    until(lambda: (node.poll() or {}).get("trainer_pid") is None or None, "end of the trainer")
    status, found = node.poll() or {}, receipts(node)
    contributed = sum(item["steps"] for item in found["receipts"])
    ours = [entry["own"] for entry in node.rounds() if entry["own"] is not None]
    made, still = status["steps_total"], open_steps(node)
    took_s = time.monotonic() - began - figures.paused_s
    print(f"pauses                 {len(figures.gone_s)} in {took_s / 60:.1f} min of training")
    print(f"memory back            {spread(figures.gone_s)} s; {max(figures.rss_bytes) / 2**20:.0f} MiB")
    print(f"given up, all at most  {sum(figures.gone_s):.1f} s")
    print(f"trains again           {spread(figures.back_s)} s after resume")
    print(f"steps                  {made} made, {contributed} in certificates, {still} not yet contributed")
    print(f"steps lost             {made - contributed - still}")
    print(f"contributions          {len(ours)} made, {ours.count(False)} not counted")
    return ours.count(False)


def open_steps(node: DemoNode) -> int:
    """Steps since the last contribution, as the trainer has saved them."""
    from safetensors import safe_open

    path = node.state_dir / "trainer" / "local.safetensors"
    with safe_open(path, framework="numpy") as file:
        return int(json.loads((file.metadata() or {})["work"])["steps"])


def spread(values: list[float]) -> str:
    """Median and most."""
    return f"{statistics.median(values):.2f} (at most {max(values):.2f})"


def main() -> int:
    """Found the swarm, disturb it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pauses", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, in which they are")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="inner steps of a round")
    parser.add_argument("--step-ms", type=float, default=0.0, help="least time of a step, numpy-test only")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, figures = random.Random(given.seed), Figures()
    with tempfile.TemporaryDirectory() as folder:
        nodes = begin(Path(folder), given)
        try:
            guest = nodes[-1]
            until(lambda: trains(guest), "training")
            began = time.monotonic()
            moments = sorted(rng.uniform(0.0, 60.0 * given.minutes) for _ in range(given.pauses))
            for number, (before, moment) in enumerate(pairwise([0.0, *moments])):
                pause_once(guest, moment - before, rng, figures)
                print(f"{number + 1}: gone after {figures.gone_s[-1]:.2f} s", file=sys.stderr)
            time.sleep(60.0 * given.minutes - moments[-1])  # it trains on to the end of the time
            LocalApi(guest.state_dir).order("finish")
            return 1 if told(guest, figures, began) else 0
        finally:
            stop_all(nodes, polite_s=20.0, firm_s=5.0)


def begin(folder: Path, given: argparse.Namespace) -> list[DemoNode]:
    """The swarm."""
    manifest = presets.make(given.preset, name="pauses")
    manifest = replace(
        manifest,
        swarm=replace(manifest.swarm, start_peers=given.peers),
        outer=replace(manifest.outer, inner_steps=given.steps),
    )
    if given.step_ms:
        config = {**manifest.model.config, "step_ms": given.step_ms}
        manifest = replace(manifest, model=replace(manifest.model, config=config))
    path = folder / manifest_file.FILE_NAME
    manifest_file.save(manifest, path)
    nodes = [DemoNode(f"peer-{number}", folder, TALKOOT) for number in range(given.peers)]
    options = ("--profile", "test", "--device", "cpu", "--threads", "1")
    nodes[0].start([str(path), *options])
    for node in nodes[1:]:
        invite = until(lambda: nodes[0].invite() if nodes[0].poll() else None, "invite")
        node.start(["--join", invite, *options])
    return nodes


if __name__ == "__main__":
    sys.exit(main())
