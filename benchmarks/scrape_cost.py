"""What it costs a training node that Prometheus scrapes it every two seconds.

    python benchmarks/scrape_cost.py [--seconds 180] [--block 2] [--rate 10] [--hidden 256]

One node trains alone on a CPU, without a round in between. Short blocks with and without scrapes follow each
other in pairs of random order, for as long as `--seconds` says. What a scrape takes away does not depend on
the one before, so the blocks have `--rate` a second, twenty times what is asked about, and what is found is
divided by that: a busy machine, where two blocks differ by far more than half a per cent, tells it all the
same. A block begins and ends with a report of the trainer.

What is found, each with the 95 % interval of its mean (bootstrap over the pairs), for one scrape every two
seconds: the change of steps per second; of the processor time that the trainer takes for a step; of the share
of a core that the trainer gets, which is what counts where others leave it little (of a tenth of a core a
scrape takes ten times the share that it takes of a whole one); and the share of a core that the daemon uses
for scrapes, which is what a trainer loses at most that has to share one core with it and with nobody else.
Prints one JSON object; `missed` lists the targets that were not reached, `unresolved` those that lie within
an interval.
"""

import argparse
import http.client
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import psutil

from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.peer import manifest_file, presets
from talkoot.peer.manifest import Manifest

EVERY_S = 2.0
"""Pause between two scrapes that is asked about: shorter than anybody is told to take."""
MAX_P99_S = 0.05
MAX_CHANGE = 0.005
START_LIMIT_S = 120.0
REPORT_LIMIT_S = 30.0
LOOK_S = 0.02
"""Pause between two looks at the counter of steps, at the edges of a block."""
RESAMPLES = 4000


def swarm(hidden: int) -> Manifest:
    """One peer that is not to come to the end of a round while it is measured; its steps are numpy's, which
    keeps a core busy as any trainer on a CPU does, and starts in a second."""
    manifest = presets.make("numpy-test", name="benchmark")
    return replace(
        manifest,
        swarm=replace(manifest.swarm, start_peers=1),
        model=replace(manifest.model, config={"hidden": hidden}),
        outer=replace(manifest.outer, inner_steps=1_000_000),
        round=replace(manifest.round, min_interval_s=3600.0, max_interval_s=7200.0),
    )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Totals at a report of the trainer."""

    at: float
    steps: int
    daemon_s: float
    trainer_s: float


@dataclass(frozen=True, kw_only=True)
class Block:
    """What happened between two readings."""

    seconds: float
    steps: int
    daemon_s: float
    trainer_s: float
    scrapes: int

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds

    @property
    def trainer_s_a_step(self) -> float:
        return self.trainer_s / self.steps

    @property
    def trainer_share(self) -> float:
        return self.trainer_s / self.seconds


class Subject:
    """A node that trains, with a connection to its API."""

    def __init__(self, node: DemoNode) -> None:
        self._node = node
        until = time.monotonic() + START_LIMIT_S
        while (status := node.poll()) is None or status["steps_total"] == 0:
            if time.monotonic() > until or not node.running:
                raise SystemExit(f"the node does not train: {node.last_words()}")
            time.sleep(LOOK_S)  # another process, and says when asked only
        self._api = http.client.HTTPConnection("127.0.0.1", status["http_port"], timeout=REPORT_LIMIT_S)
        self._daemon = psutil.Process(json.loads((node.state_dir / "api.json").read_bytes())["pid"])
        self._trainer = max(self._daemon.children(recursive=True), key=processor_s)
        """Whose processor time grows as the steps do: p2pd has nothing to do."""
        self.times_s: list[float] = []
        self.series = 0

    def close(self) -> None:
        self._api.close()

    def _get(self, path: str) -> bytes:
        self._api.request("GET", path)
        return self._api.getresponse().read()

    def _steps(self) -> int:
        return int(json.loads(self._get("/api/v1/status"))["steps_total"])

    def reading(self) -> Reading:
        """At the next report."""
        before, until = self._steps(), time.monotonic() + REPORT_LIMIT_S
        while (steps := self._steps()) == before:
            if time.monotonic() > until:
                raise SystemExit(f"no report for {REPORT_LIMIT_S:.0f} s: {self._node.last_words()}")
            time.sleep(LOOK_S)  # another process, and says when asked only
        daemon_s, trainer_s = processor_s(self._daemon), processor_s(self._trainer)
        return Reading(at=time.monotonic(), steps=steps, daemon_s=daemon_s, trainer_s=trainer_s)

    def scrape(self) -> None:
        """As Prometheus does it, over a connection that stays."""
        began = time.monotonic()
        text = self._get("/metrics")
        self.times_s.append(time.monotonic() - began)
        self.series = sum(1 for line in text.splitlines() if line and not line.startswith(b"#"))

    def block(self, seconds: float, *, rate: float) -> Block:
        """Some seconds with so many scrapes in each."""
        first, scrapes = self.reading(), 0
        while (now := time.monotonic()) < first.at + seconds:
            if rate > 0 and now >= first.at + scrapes / rate:
                self.scrape()
                scrapes += 1
            due = first.at + min(seconds, scrapes / rate if rate > 0 else seconds)
            time.sleep(max(0.0, due - time.monotonic()))
        last = self.reading()
        return Block(
            seconds=last.at - first.at,
            steps=last.steps - first.steps,
            daemon_s=last.daemon_s - first.daemon_s,
            trainer_s=last.trainer_s - first.trainer_s,
            scrapes=scrapes,
        )


def processor_s(process: psutil.Process) -> float:
    """Processor time of all its threads so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A block with scrapes and one without, one after the other."""

    scraped: Block
    quiet: Block

    @property
    def scrapes_a_second(self) -> float:
        return self.scraped.scrapes / self.scraped.seconds

    def change(self, of: Callable[[Block], float]) -> float:
        """Of a figure, by one scrape every EVERY_S: a share."""
        return math.log(of(self.scraped) / of(self.quiet)) / self.scrapes_a_second / EVERY_S

    @property
    def core_share_lost(self) -> float:
        """By the trainer, by one scrape every EVERY_S: a share of a core."""
        less = self.quiet.trainer_share - self.scraped.trainer_share
        return less / self.scrapes_a_second / EVERY_S

    @property
    def daemon_s_a_scrape(self) -> float:
        busier = self.scraped.daemon_s / self.scraped.seconds - self.quiet.daemon_s / self.quiet.seconds
        return busier / self.scrapes_a_second


def measure(subject: Subject, *, seconds: float, block_s: float, rate: float) -> list[Pair]:
    """Pairs of blocks, as many as there is time for."""
    pairs, rng, until = list[Pair](), random.Random(0), time.monotonic() + seconds
    while time.monotonic() < until:
        if rng.random() < 0.5:
            scraped, quiet = subject.block(block_s, rate=rate), subject.block(block_s, rate=0)
        else:
            quiet, scraped = subject.block(block_s, rate=0), subject.block(block_s, rate=rate)
        pairs.append(Pair(scraped=scraped, quiet=quiet))
    return pairs


def interval(values: list[float]) -> list[float]:
    """Mean, and 95 % of the means of samples drawn from these values with a fixed seed."""
    draw = random.Random(0)
    means = sorted(fmean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return [fmean(values), means[RESAMPLES // 40], means[-RESAMPLES // 40]]


def figures(pairs: list[Pair], subject: Subject) -> dict[str, Any]:
    """All that is printed."""
    steps = interval([pair.change(lambda block: block.steps_per_second) for pair in pairs])
    effort = interval([pair.change(lambda block: block.trainer_s_a_step) for pair in pairs])
    daemon = interval([pair.daemon_s_a_scrape for pair in pairs])
    lost = interval([pair.core_share_lost for pair in pairs])
    p99_s = quantiles(subject.times_s, n=100)[98]
    missed = ["p99_ms"] * (p99_s > MAX_P99_S)
    missed += ["core_share_lost"] * (lost[1] > MAX_CHANGE)
    missed += ["daemon_core_share"] * (daemon[2] / EVERY_S > MAX_CHANGE)
    return {
        "pairs": len(pairs),
        "scrapes_a_second_in_blocks": round(median(pair.scrapes_a_second for pair in pairs), 2),
        "steps_per_second": round(median(pair.quiet.steps_per_second for pair in pairs), 2),
        "trainer_core_share": round(median(pair.quiet.trainer_share for pair in pairs), 3),
        "at_one_scrape_every_s": EVERY_S,
        "change_of_steps_per_second_percent": [round(1e2 * value, 3) for value in steps],
        "change_of_trainer_cpu_a_step_percent": [round(1e2 * value, 3) for value in effort],
        "trainer_core_share_lost_percent": [round(1e2 * value, 3) for value in lost],
        "daemon_cpu_ms_a_scrape": [round(1e3 * value, 2) for value in daemon],
        "daemon_core_share_percent": [round(1e2 * value / EVERY_S, 3) for value in daemon],
        "trainer_cpu_ms_a_step": round(1e3 * median(pair.quiet.trainer_s_a_step for pair in pairs), 2),
        "scrapes": len(subject.times_s),
        "p50_ms": round(1e3 * median(subject.times_s), 1),
        "p99_ms": round(1e3 * p99_s, 1),
        "max_ms": round(1e3 * max(subject.times_s), 1),
        "series": subject.series,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "missed": missed,
        "unresolved": ["core_share_lost"] * (lost[1] <= MAX_CHANGE < lost[2]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--block", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--hidden", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="talkoot-") as name:
        folder = Path(name)
        node = DemoNode("peer-0", folder, TALKOOT)
        manifest_file.save(swarm(options.hidden), folder / manifest_file.FILE_NAME)
        node.start(
            [str(folder / manifest_file.FILE_NAME), "--profile", "test", "--device", "cpu", "--threads", "1"]
        )
        try:
            with closing(Subject(node)) as subject:
                pairs = measure(subject, seconds=options.seconds, block_s=options.block, rate=options.rate)
                found = figures(pairs, subject)
        finally:
            stop_all([node])
    print(json.dumps(vars(options) | found, indent=1))


if __name__ == "__main__":
    main()
