"""What the daemon costs beside its trainer: memory, idle CPU, busy callbacks, import and start-up time.

    python benchmarks/daemon.py [--seconds 30] [--only import,idle,numpy,5m] > daemon.json

Prints one JSON object; `missed` lists the targets that were not reached. Nothing else should run meanwhile.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.peer import manifest_file, presets
from talkoot.peer.manifest import Manifest

MAX_RESIDENT_MB = 450
MAX_IDLE_SHARE = 0.02
MAX_CALLBACK_S = 0.05
MAX_IMPORT_S = 0.3

START_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0
SETTLE_S = 5.0
"""What a start leaves to do is not counted as idling."""
POLL_S = 0.05
"""Pause between two questions to a daemon, which is a process of its own: what start-up times resolve."""
SAMPLE_S = 0.2
"""Pause between two samples of the memory."""
CALLBACK = "talkoot_event_loop_callback_cpu_seconds"
LAG = "talkoot_event_loop_lag_seconds"

Figures = dict[str, Any]


# -- manifests ---------------------------------------------------------------------------------------


def numpy_swarm(peers: int) -> Manifest:
    """The smallest model: rounds as often as they can be."""
    manifest = presets.make("numpy-test", name="benchmark")
    return replace(manifest, swarm=replace(manifest.swarm, start_peers=peers))


def tiny_swarm(peers: int) -> Manifest:
    """What a user of the preset `tiny` has."""
    manifest = presets.make("tiny", name="benchmark")
    return replace(manifest, swarm=replace(manifest.swarm, start_peers=peers))


def llama_swarm(peers: int, *, hidden: int, intermediate: int, layers: int, inner_steps: int) -> Manifest:
    """The tiny preset with more parameters, and steps that a shared core makes in less than a second."""
    manifest = tiny_swarm(peers)
    config = manifest.model.config | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
    }
    return replace(
        manifest,
        model=replace(manifest.model, config=config),
        data=replace(manifest.data, sequence_length=64),
        inner=replace(manifest.inner, batch_size=1),
        outer=replace(manifest.outer, inner_steps=inner_steps),
    )


# -- measurements ------------------------------------------------------------------------------------


def import_time() -> Figures:
    """Import of the command line's module, and a whole `talkoot --version`; the least of five."""
    code = "import time; t = time.perf_counter(); import talkoot.cli.main; print(time.perf_counter() - t)"
    imports = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(5)
    ]
    return {"import_s": round(min(imports), 3), "version_command_s": round(min(_command_times()), 3)}


def _command_times() -> list[float]:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([*TALKOOT, "--version"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return times


def idle(folder: Path, seconds: float) -> Figures:
    """A founder that waits for a second peer: start-up, memory, CPU."""
    node = found(folder, tiny_swarm(2))
    try:
        api_s = wait(node, lambda status: True)
        ready_s = wait(node, lambda status: status["state"] == "paused") + api_s
        time.sleep(SETTLE_S)  # what a start leaves to do is no idling
        processes = parts(node)
        before, began = cpu(processes), time.monotonic()
        time.sleep(seconds)  # what is measured: nothing happens
        elapsed = time.monotonic() - began
        share = {name: (used - before[name]) / elapsed for name, used in cpu(processes).items()}
        return {
            "seconds": round(elapsed, 1),
            "founding_to_api_s": round(api_s, 2),
            "founding_to_ready_s": round(ready_s, 2),
            "resident_mb": {
                name: round(process.memory_info().rss / 1e6) for name, process in processes.items()
            },
            "cpu_share": {name: round(value, 4) for name, value in share.items()},
            "cpu_share_daemon_and_p2pd": round(share["daemon"] + share["p2pd"], 4),
            **histograms(node),
        }
    finally:
        stop_all([node])


def restart(folder: Path) -> Figures:
    """From the start of the process to training again, for a peer that holds its state already."""
    node = found(folder, tiny_swarm(1))
    try:
        wait(node, lambda status: status["rounds_committed"] > 0)
        node.interrupt()
        if not node.wait(STOP_LIMIT_S):
            raise SystemExit(f"{node.name} did not stop: {node.last_words()}")
        node.start()
        api_s = wait(node, lambda status: True)
        return {
            "restart_to_api_s": round(api_s, 2),
            "restart_to_training_s": round(
                wait(node, lambda status: status["state"] == "training") + api_s, 2
            ),
        }
    finally:
        stop_all([node])


def rounds(folder: Path, manifest: Manifest, seconds: float) -> Figures:
    """Peers that train and exchange: memory and callbacks of each daemon."""
    nodes = [found(folder, manifest)]
    try:
        wait(nodes[0], lambda status: status["digest"] is not None)
        for number in range(1, manifest.swarm.start_peers):
            invite = nodes[0].invite()
            assert invite is not None
            nodes.append(start(folder, number, "--join", invite))
        for node in nodes:
            wait(node, lambda status: status["rounds_committed"] > 0)
        processes = [parts(node) for node in nodes]
        before, began = [cpu(each) for each in processes], time.monotonic()
        peaks: list[dict[str, int]] = []
        while (elapsed := time.monotonic() - began) < seconds:
            peaks += [resident(each["daemon"]) for each in processes]
            time.sleep(SAMPLE_S)  # between two samples
        used = [cpu(each)["daemon"] for each in processes]
        statuses = [node.poll() or {} for node in nodes]
        return {
            "peers": len(nodes),
            "numel": statuses[0]["numel"],
            "rounds_committed": min(status["rounds_committed"] for status in statuses),
            "digests_equal": digests_equal(nodes),
            "seconds": round(elapsed, 1),
            "resident_mb_max": max(peaks, key=lambda each: each["total"]),
            "traffic_mb_daemon": round(max(status["bytes_sent"] for status in statuses) / 1e6, 1),
            "cpu_share_daemon": round(
                max((now - old["daemon"]) / elapsed for now, old in zip(used, before, strict=True)), 4
            ),
            **worst([histograms(node) for node in nodes]),
        }
    finally:
        stop_all(nodes)


# -- one daemon --------------------------------------------------------------------------------------


def found(folder: Path, manifest: Manifest) -> DemoNode:
    """Start the founder."""
    manifest_file.save(manifest, folder / manifest_file.FILE_NAME)
    return start(folder, 0, str(folder / manifest_file.FILE_NAME))


def start(folder: Path, number: int, *arguments: str) -> DemoNode:
    """Start one daemon on loopback."""
    node = DemoNode(f"peer-{number}", folder, TALKOOT)
    node.start([*arguments, "--profile", "test", "--device", "cpu", "--threads", "1"])
    return node


def wait(node: DemoNode, event: Callable[[Figures], bool]) -> float:
    """Seconds until the node's status is so."""
    began = time.monotonic()
    while time.monotonic() - began < START_LIMIT_S and node.running:
        status = node.poll()
        if status is not None and event(status):
            return time.monotonic() - began
        time.sleep(POLL_S)  # another process, and says when asked only
    raise SystemExit(f"{node.name} did not get there: {node.last_words()}")


def parts(node: DemoNode) -> dict[str, psutil.Process]:
    """The daemon and its two children."""
    pid = json.loads((node.state_dir / "api.json").read_bytes())["pid"]
    found = {"daemon": psutil.Process(pid)}
    for child in found["daemon"].children():
        with suppress(psutil.NoSuchProcess):
            line = " ".join(child.cmdline())
            found |= {name: child for name in ("p2pd", "trainer") if name in line}
    return found


def resident(process: psutil.Process) -> dict[str, int]:
    """Resident MB: in all, the process's own, and pages of files (libraries, the outer state), where told."""
    found = {"total": round(process.memory_info().rss / 1e6)}
    with suppress(OSError):
        text = Path(f"/proc/{process.pid}/status").read_text()
        for name, key in (("own", "RssAnon"), ("files", "RssFile")):
            found[name] = round(int(re.findall(rf"{key}:\s+(\d+) kB", text)[0]) * 1024 / 1e6)
    return found


def cpu(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """CPU seconds so far."""
    return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}


def digests_equal(nodes: list[DemoNode]) -> bool:
    """Whether no two peers differ in a round."""
    seen: dict[int, set[str]] = {}
    for node in nodes:
        for entry in node.rounds():
            seen.setdefault(entry["round"], set()).add(entry["digest"])
    return bool(seen) and all(len(digests) == 1 for digests in seen.values())


def histograms(node: DemoNode) -> Figures:
    """Of the loop's callbacks and its lag, from /metrics; exact values of busy callbacks from the log."""
    assert node.status is not None
    address = f"http://127.0.0.1:{node.status['http_port']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    log = node.log_path.read_text(errors="replace")
    busy = [int(ms) for ms in re.findall(r'"cpu_ms":\s*(\d+)', log)]
    return {
        "callback_cpu_below_s": highest_bucket(text, CALLBACK),
        "callbacks_above_50_ms": above(text, CALLBACK, MAX_CALLBACK_S),
        "busy_callbacks_ms": sorted(busy, reverse=True)[:5],
        "lag_below_s": highest_bucket(text, LAG),
        "heartbeats": int(buckets(text, CALLBACK)[-1][1]),
    }


def buckets(text: str, name: str) -> list[tuple[float, float]]:
    """(upper bound, observations up to it), ascending."""
    lines = re.findall(rf'^{name}_bucket\{{le="([^"]+)"\}} (\S+)$', text, re.MULTILINE)
    return [(float(bound), float(count)) for bound, count in lines]


def highest_bucket(text: str, name: str) -> float:
    """Upper bound of the bucket that the largest observation fell into."""
    found = buckets(text, name)
    return next(bound for bound, count in found if count == found[-1][1])


def above(text: str, name: str, limit: float) -> int:
    """Observations above `limit`, which must be the bound of a bucket."""
    found = dict(buckets(text, name))
    return int(found[float("inf")] - found[limit])


def worst(figures: list[Figures]) -> Figures:
    """Over the nodes."""
    return {
        "callback_cpu_below_s": max(each["callback_cpu_below_s"] for each in figures),
        "callbacks_above_50_ms": sum(each["callbacks_above_50_ms"] for each in figures),
        "busy_callbacks_ms": sorted(chain(*(each["busy_callbacks_ms"] for each in figures)), reverse=True)[
            :5
        ],
        "lag_below_s": max(each["lag_below_s"] for each in figures),
        "heartbeats": sum(each["heartbeats"] for each in figures),
    }


# -- all of it ---------------------------------------------------------------------------------------


def missed(figures: Figures) -> list[str]:
    """The targets that were not reached, in words."""
    checks = []
    if "import" in figures:
        checks.append(("import", figures["import"]["import_s"] < MAX_IMPORT_S))
    if "idle" in figures:
        checks.append(("idle memory", figures["idle"]["resident_mb"]["daemon"] < MAX_RESIDENT_MB))
        checks.append(("idle CPU", figures["idle"]["cpu_share"]["daemon"] < MAX_IDLE_SHARE))
    if "numpy" in figures:  # with more parameters their vectors come on top
        checks.append(("memory in rounds", figures["numpy"]["resident_mb_max"]["total"] < MAX_RESIDENT_MB))
    for name in ("numpy", "5m", "25m"):
        if name in figures:
            checks.append((f"callbacks ({name})", figures[name]["callbacks_above_50_ms"] == 0))
            checks.append((f"digests ({name})", figures[name]["digests_equal"]))
    return [name for name, good in checks if not good]


def main() -> int:
    """Measure, print; returns 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement")
    parser.add_argument("--only", default="import,idle,restart,numpy,5m", help="also: 25m")
    options = parser.parse_args()
    wanted = options.only.split(",")
    measurements: dict[str, Callable[[Path], Figures]] = {
        "import": lambda folder: import_time(),
        "idle": lambda folder: idle(folder, options.seconds),
        "restart": restart,
        "numpy": lambda folder: rounds(folder, numpy_swarm(3), options.seconds),
        "5m": lambda folder: rounds(
            folder,
            llama_swarm(3, hidden=256, intermediate=704, layers=6, inner_steps=20),
            options.seconds,
        ),
        "25m": lambda folder: rounds(
            folder,
            llama_swarm(3, hidden=512, intermediate=1376, layers=8, inner_steps=10),
            options.seconds,
        ),
    }
    figures: Figures = {"machine": f"{platform.machine()}, {psutil.cpu_count()} CPUs"}
    for name, measure in measurements.items():
        if name in wanted:
            with tempfile.TemporaryDirectory(prefix="talkoot-benchmark-") as folder:
                figures[name] = measure(Path(folder))
    figures["missed"] = missed(figures)
    print(json.dumps(figures, indent=2))
    return 1 if figures["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
