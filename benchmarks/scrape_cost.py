"""What it costs a training node that Prometheus scrapes it every two seconds.

    python benchmarks/scrape_cost.py [--pairs 10] [--window 6] [--burst 200] [--hidden 256]

One node trains alone on a CPU, without a round in between. Windows with and without scrapes follow each
other in pairs, in alternating order; a window begins and ends with a step that was just reported. Afterwards
a burst of scrapes, ten a second, gives the quantiles of their time and the processor time of the daemon for
each, that of an equally long time without scrapes taken off. Prints one JSON object; `missed` lists the
targets that were not reached, `unresolved` those of which a busy machine does not tell.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any
from urllib.request import urlopen

import psutil

from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.peer import manifest_file, presets
from talkoot.peer.manifest import Manifest

EVERY_S = 2.0
"""Pause between two scrapes, as in docker/prometheus/prometheus.yml at its shortest."""
MAX_P99_S = 0.05
MAX_CHANGE = 0.005
START_LIMIT_S = 300.0
EDGE_S = 0.01
"""Pause between two looks at the counter of steps, at the edges of a window."""
BURST_PAUSE_S = 0.1
RESAMPLES = 2000


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


class Subject:
    """A node that trains."""

    def __init__(self, node: DemoNode) -> None:
        self.node = node
        self.port = self._wait(lambda status: status["steps_total"] > 0)["http_port"]
        pid = json.loads((node.state_dir / "api.json").read_bytes())["pid"]
        self._daemon = psutil.Process(pid)

    def _wait(self, event: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        until = time.monotonic() + START_LIMIT_S
        while time.monotonic() < until and self.node.running:
            status = self.node.poll()
            if status is not None and event(status):
                return status
            time.sleep(EDGE_S)
        raise SystemExit(f"the node did not get there: {self.node.last_words()}")

    def next_report(self) -> tuple[int, float]:
        """The steps of the next report, and when it came."""
        before = self._wait(lambda _status: True)["steps_total"]
        steps = self._wait(lambda status: status["steps_total"] != before)["steps_total"]
        return steps, time.monotonic()

    def scrape(self) -> tuple[float, int]:
        """Seconds that one takes, and its series."""
        began = time.monotonic()
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            text = answer.read()
        took_s = time.monotonic() - began
        return took_s, sum(1 for line in text.splitlines() if line and not line.startswith(b"#"))

    def steps_per_second(self, window_s: float, *, scrapes: list[float] | None) -> float:
        """Over one window; with scrapes if there is a list for their times."""
        steps, began = self.next_report()
        due = began
        while (left_s := began + window_s - time.monotonic()) > 0:
            if scrapes is not None and time.monotonic() >= due:
                scrapes.append(self.scrape()[0])
                due += EVERY_S
            else:
                time.sleep(min(left_s, EVERY_S if scrapes is None else max(0.0, due - time.monotonic())))
        last, ended = self.next_report()
        return (last - steps) / (ended - began)

    def processor_s(self) -> float:
        """Processor time of the daemon so far."""
        times = self._daemon.cpu_times()
        return float(times.user + times.system)


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of the means of samples drawn from these values, with a fixed seed."""
    draw = random.Random(0)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[RESAMPLES // 40], means[-RESAMPLES // 40]


def measure(subject: Subject, *, pairs: int, window_s: float, burst: int) -> dict[str, Any]:
    """All figures."""
    changes, times, rates = [], [], []
    for number in range(pairs):
        speed = {}
        for scraped in (True, False) if number % 2 else (False, True):
            speed[scraped] = subject.steps_per_second(window_s, scrapes=times if scraped else None)
        changes.append(speed[True] / speed[False] - 1)
        rates.append(speed[False])
    before, began = subject.processor_s(), time.monotonic()
    found = []
    for _ in range(burst):
        found.append(subject.scrape())
        time.sleep(BURST_PAUSE_S)
    used_s, took_s = subject.processor_s() - before, time.monotonic() - began
    before = subject.processor_s()
    time.sleep(took_s)  # what it uses without
    used_s -= subject.processor_s() - before
    seconds = sorted(each for each, _ in found)
    low, high = interval(changes)
    return {
        "pairs": pairs,
        "window_s": window_s,
        "steps_per_second": round(median(rates), 2),
        "change_of_steps": round(mean(changes), 4),
        "change_of_steps_95": [round(low, 4), round(high, 4)],
        "every_2_s_max_ms": round(1e3 * max(times), 1),
        "scrapes": len(seconds),
        "p50_ms": round(1e3 * median(seconds), 1),
        "p99_ms": round(1e3 * quantiles(seconds, n=100)[98], 1),
        "daemon_cpu_ms_a_scrape": round(1e3 * used_s / len(found), 2),
        "cpu_share_at_every_2_s": round(used_s / len(found) / EVERY_S, 5),
        "series": max(series for _, series in found),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--window", type=float, default=6.0)
    parser.add_argument("--burst", type=int, default=200)
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
            subject = Subject(node)
            figures = measure(subject, pairs=options.pairs, window_s=options.window, burst=options.burst)
        finally:
            stop_all([node])
    low, high = figures["change_of_steps_95"]
    missed = ["p99_ms"] * (figures["p99_ms"] > 1e3 * MAX_P99_S)
    missed += ["change_of_steps"] * (high < -MAX_CHANGE)
    unresolved = ["change_of_steps"] * (low < -MAX_CHANGE <= high)
    print(json.dumps(figures | {"missed": missed, "unresolved": unresolved}, indent=2))


if __name__ == "__main__":
    main()
