"""What it costs a Prometheus to watch a swarm through one node: fifty nodes, asked every two seconds.

    nice python benchmarks/scrape_many.py [--nodes 50] [--seconds 120] [--share all] [--peers 500]

One process stands for the node: the real local API with the real list, and for each peer a report as it would
come from it, with numbers that change, checked and written out as in a node. The Prometheus is Debian's with
the shipped configuration, but for the interval. Prints one JSON object: its memory (resident, largest), its
processor time and that of the API's process as shares of one core, series of each target, targets that were
down at any time; and how many series a node has itself that knows `--peers` others instead of three.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from prometheus_rig import Prometheus, shipped

from talkoot.dht.identity import Identity, peer_id_of
from talkoot.dht.records import PeerRecord
from talkoot.peer.api import ApiServer, NodeView
from talkoot.peer.measuring import Measuring
from talkoot.peer.metrics import Metrics
from talkoot.peer.node import Node
from talkoot.peer.observing.observer import Listed, targets
from talkoot.peer.observing.report import exposition, take
from talkoot.peer.options import Share

LOOK_S = 1.0
MAX_RSS_BYTES = 100e6


class Swarm:
    """A node as the local API sees it, and the peers that it lists."""

    def __init__(self, nodes: int, share: Share) -> None:
        keys = [Identity.from_seed(number.to_bytes(32, "big")).key for number in range(nodes)]
        self.own, *others = [Listed(peer_id_of(key), "full") for key in keys]
        self.listed = others
        self.keys = {listed.peer_id: key for listed, key in zip(others, keys[1:], strict=True)}
        self.share = share
        self.port = 0
        self.metrics = Metrics()
        self.metrics.build(backend="cpu", protocol=1)
        self.metrics.node(swarm_name="benchmark")

    def targets(self) -> list[dict[str, Any]]:
        return targets(self.listed, self.own, swarm="benchmark", address=f"127.0.0.1:{self.port}")

    async def peer_metrics(self, peer_id: str) -> bytes:
        self.metrics.inner_steps.inc(7)
        self.metrics.round_duration.observe(12.0)
        return await asyncio.to_thread(self._report, self.keys[peer_id])

    def _report(self, key: bytes) -> bytes:
        data = take(self.metrics.registry, self.share)
        return exposition(data, peer=key, run="benchmark", role="full")


@contextmanager
def served(swarm: Swarm) -> Iterator[None]:
    """The local API in a thread."""
    ready, ends = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        def listening(port: int) -> None:
            swarm.port = port
            ready.set()

        async with asyncio.TaskGroup() as tasks:
            api = ApiServer(cast(NodeView, swarm), port=0, token="t")
            task = tasks.create_task(api.run(started=listening))
            await ends.wait()
            task.cancel()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ends.set)
        thread.join()
        loop.close()


def measured(live: Prometheus, seconds: float, nodes: int) -> dict[str, Any]:
    """Watch it for so long, once it has scraped all of them."""
    pause, process, own = threading.Event(), psutil.Process(live.pid), psutil.Process()
    while len(live.query("up")) < nodes:
        pause.wait(LOOK_S)
    before, own_before, most = process.cpu_times(), own.cpu_times(), 0
    for _ in range(round(seconds / LOOK_S)):
        pause.wait(LOOK_S)
        most = max(most, process.memory_info().rss)
    after, own_after = process.cpu_times(), own.cpu_times()
    series = [value for _, value in live.query('count by (instance) ({__name__=~"talkoot_.+|process_.+"})')]
    return {
        "prometheus_rss_bytes": most,
        "prometheus_core_share": round((sum(after[:2]) - sum(before[:2])) / seconds, 4),
        "api_core_share": round((sum(own_after[:2]) - sum(own_before[:2])) / seconds, 4),
        "series_of_each": [min(series), max(series)],
        "slowest_scrape_s": max(
            value for _, value in live.query("max_over_time(scrape_duration_seconds[5m])")
        ),
        "ever_down": [labels["instance"] for labels, _ in live.query("min_over_time(up[5m]) == 0")],
    }


def series_knowing(peers: int) -> int:
    """Series of an observer that has heard of so many others."""
    node = cast(Any, SimpleNamespace())
    node.metrics = metrics = Metrics("observer")
    records = {key: record(key) for key in (number.to_bytes(32, "big") for number in range(1, peers + 1))}
    node.swarming = SimpleNamespace(ledger=SimpleNamespace(round=3, tokens=9))
    node.options = SimpleNamespace(observes=True)
    node.conduct = SimpleNamespace(bands=lambda others: ["good"] * len(others))
    node.links = SimpleNamespace(outbound=set(), connected=set(records))
    node.network = SimpleNamespace(company=SimpleNamespace(relayed=set()))
    measuring = Measuring(cast(Node, node))
    measuring._connected()
    measuring._swarm(records)
    return sum(len(metric.samples) for metric in metrics.registry.collect())


def record(key: bytes) -> PeerRecord:
    """An announcement; what peers say of themselves is as different as it can be."""
    number = int.from_bytes(key, "big")
    return PeerRecord(
        swarm=bytes(32), key=key, protocol=1, version=f"{number % 9}.{number}", addresses=(), role="full",
        round=number, digest=bytes(32), steps=number, tokens=number, speed=1.0, upload=0.0, download=0.0,
        corpus=b"", loss=2.0, state=("training", "exchanging", "paused", f"odd {number}")[number % 4],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--share", choices=get_args(Share)[1:], default="all")
    parser.add_argument("--peers", type=int, default=500)
    options = parser.parse_args()
    swarm = Swarm(options.nodes, options.share)
    with tempfile.TemporaryDirectory() as name, served(swarm):
        folder = Path(name)
        with shipped(folder, swarm.port, interval="2s", timeout="1900ms") as live:
            found = measured(live, options.seconds, options.nodes)
    found["series_knowing"] = {peers: series_knowing(peers) for peers in (3, options.peers)}
    found["missed"] = [] if found["prometheus_rss_bytes"] < MAX_RSS_BYTES else ["prometheus_rss_bytes"]
    if len(set(found["series_knowing"].values())) > 1:
        found["missed"].append("series_knowing")
    print(json.dumps(vars(options) | found, indent=1))


if __name__ == "__main__":
    main()
