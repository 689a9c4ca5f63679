"""The trainer against a plain torch loop: tokens a second with the same model and batch.

    python benchmarks/trainer_gpu.py [--preset lan] [--seconds 30] [--repeats 3]       needs CUDA
    python benchmarks/trainer_gpu.py --device cpu --preset tiny --threads 1

On CUDA also: memory given back after a stop, and rounds between a GPU peer and a CPU peer. Prints one JSON
object; `missed` lists the targets that were not reached. Without a CUDA device it says so and ends with 0.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from plain_loop import plain_loop

from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.peer import manifest_file, presets
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer.layout import describe, initial_weights
from talkoot.peer.trainer.process import TrainerProcess
from talkoot.peer.trainer.protocol import Crashed, Failed, Progress, Ready, TrainerEvent, TrainerSpec

MIN_RATIO = 0.97
MAX_RELEASE_S = 5.0
RELEASED_WITHIN_MIB = 64
WARM_UP_S = 5.0
MEMORY_POLL_S = 0.1
"""Pause between two questions to the driver, which tells of no change by itself."""
POLL_S = 0.2
"""Pause between two questions to daemons, which are processes of their own."""
SWARM_ROUNDS = 5
SWARM_LIMIT_S = 300.0

Figures = dict[str, Any]


# -- our trainer -------------------------------------------------------------------------------------


class Run:
    """One supervised trainer; keeps what it reports with the time at which it did."""

    def __init__(self, spec: TrainerSpec) -> None:
        self.progress: list[tuple[float, Progress]] = []
        self.ready: Ready | None = None
        self._changed = asyncio.Event()
        self._problem = ""
        self.process = TrainerProcess(spec, self._hear)

    def _hear(self, event: TrainerEvent) -> None:
        match event:
            case Ready():
                self.ready = event
            case Progress():
                self.progress.append((time.monotonic(), event))
            case Crashed(reason=reason) | Failed(reason=reason):
                self._problem = reason
        self._changed.set()

    async def until(self, seconds: float) -> None:
        """Wait until `seconds` after the first report. Raises SystemExit when the trainer fails."""
        while not self.progress or time.monotonic() < self.progress[0][0] + seconds:
            await self._next()

    async def until_ready(self) -> None:
        """Wait until it can adopt."""
        while self.ready is None:
            await self._next()

    async def _next(self) -> None:
        self._changed.clear()
        await self._changed.wait()
        if self._problem:
            raise SystemExit(f"the trainer failed: {self._problem}")


async def our_trainer(manifest: Manifest, spec: TrainerSpec, seconds: float) -> Figures:
    """Tokens a second of the real trainer process, and how its memory goes."""
    run = Run(spec)
    before = device_memory_mib() if spec.device != "cpu" else 0
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run.process.run())
        await run.until_ready()
        outer = spec.state_dir / "outer.bin"
        await run.process.adopt(outer, round=0, digest="00", global_step=0, mode="start")
        await run.until(WARM_UP_S)
        first_s, first = run.progress[-1]
        await run.until(WARM_UP_S + seconds)
        last_s, last = run.progress[-1]
        used = device_memory_mib() - before if spec.device != "cpu" else 0
        stopped = time.monotonic()
        await run.process.stop(save=True, timeout_s=60)
        release_s = released_after(before, stopped) if spec.device != "cpu" else None
        running.cancel()
    return {
        "tokens_per_s": (last.tokens_total - first.tokens_total) / (last_s - first_s),
        "steps": last.steps_total - first.steps_total,
        "micro_batch": last.micro_batch,
        "loss": last.loss,
        "device_memory_mib": used,
        "released_after_s": release_s,
    }


def device_memory_mib() -> int:
    """Memory in use on the first GPU, by everybody."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


def released_after(before_mib: int, stopped: float) -> float | None:
    """Seconds from the request to stop until the memory is free; None after a minute."""
    while time.monotonic() < stopped + 60:
        if device_memory_mib() <= before_mib + RELEASED_WITHIN_MIB:
            return round(time.monotonic() - stopped, 2)
        time.sleep(MEMORY_POLL_S)  # between two samples
    return None


# -- the comparison ----------------------------------------------------------------------------------


def throughput(manifest: Manifest, folder: Path, options: argparse.Namespace) -> Figures:
    """Both in turn, so that a machine that changes its speed changes it for both."""
    spec = spec_of(manifest, folder, options)
    ours, plain = [], []
    for _ in range(options.repeats):
        ours.append(asyncio.run(our_trainer(manifest, spec, options.seconds)))
        plain.append(run_plain(spec, ours[-1]["micro_batch"], options.seconds))
    our_rate = median(each["tokens_per_s"] for each in ours)
    plain_rate = median(each["tokens_per_s"] for each in plain)
    releases = [each["released_after_s"] for each in ours if each["released_after_s"] is not None]
    return {
        "numel": manifest.model.numel,
        "batch": f"{manifest.inner.batch_size} x {manifest.data.sequence_length}",
        "micro_batch": ours[-1]["micro_batch"],
        "ours_tokens_per_s": round(our_rate),
        "plain_tokens_per_s": round(plain_rate),
        "ratio": round(our_rate / plain_rate, 4),
        "ratios": [round(a["tokens_per_s"] / b["tokens_per_s"], 4) for a, b in zip(ours, plain, strict=True)],
        "device_memory_mib": ours[-1]["device_memory_mib"],
        "released_after_s": max(releases) if len(releases) == len(ours) else None,
    }


def spec_of(manifest: Manifest, folder: Path, options: argparse.Namespace) -> TrainerSpec:
    """Manifest and initial weights on the disk, where the trainer looks for them."""
    path, state = folder / "manifest.bin", folder / "trainer"
    path.write_bytes(manifest.canonical())
    state.mkdir()
    initial_weights(manifest).tofile(state / "outer.bin")
    return TrainerSpec(
        manifest_path=path,
        state_dir=state,
        peer=bytes(32),
        device=options.device,
        threads=options.threads,
    )


def run_plain(spec: TrainerSpec, micro_batch: int, seconds: float) -> Figures:
    """The plain loop in a process of its own."""
    command = [sys.executable, __file__, "--plain", str(spec.manifest_path), "--device", spec.device]
    command += ["--micro-batch", str(micro_batch), "--seconds", str(seconds), "--threads", str(spec.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the plain loop failed: {done.stderr.strip().splitlines()[-1:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


# -- a swarm of two devices --------------------------------------------------------------------------


def mixed_swarm(folder: Path) -> Figures:
    """A peer on the GPU and one on the CPU: rounds that count both, and whether they agree."""
    manifest = presets.make("tiny", name="mixed")
    manifest_file.save(
        replace(manifest, swarm=replace(manifest.swarm, start_peers=2)), folder / manifest_file.FILE_NAME
    )
    nodes = [DemoNode(name, folder, TALKOOT) for name in ("gpu", "cpu")]
    deadline = time.monotonic() + SWARM_LIMIT_S
    try:
        nodes[0].start([str(folder / manifest_file.FILE_NAME), "--profile", "test", "--device", "cuda"])
        while (invite := nodes[0].invite() if nodes[0].poll() else None) is None:
            _pause(nodes, deadline)
        nodes[1].start(["--join", invite, "--profile", "test", "--device", "cpu"])
        while len(both := _common_rounds(nodes)) < SWARM_ROUNDS:
            _pause(nodes, deadline)
        return {
            "devices": [(node.poll() or {}).get("device") for node in nodes],
            "steps_per_second": [(node.poll() or {}).get("steps_per_second") for node in nodes],
            "rounds": len(both),
            "digests_equal": all(len(digests) == 1 for digests in both.values()),
        }
    finally:
        stop_all(nodes)


def _pause(nodes: list[DemoNode], deadline: float) -> None:
    ended = [node for node in nodes if node.exit_code is not None]
    if ended or time.monotonic() > deadline:
        raise SystemExit(f"the mixed swarm does not train: {[node.last_words() for node in nodes]}")
    time.sleep(POLL_S)  # other processes, which say when asked only


def _common_rounds(nodes: list[DemoNode]) -> dict[int, set[str]]:
    """Rounds that counted two peers and that both know, with their digests."""
    views = [{e["round"]: e["digest"] for e in node.rounds() if len(e["counted"]) == 2} for node in nodes]
    return {number: {view[number] for view in views} for number in views[0].keys() & views[1].keys()}


# -- all of it ---------------------------------------------------------------------------------------


def missed(figures: Figures) -> list[str]:
    """The targets that were not reached, in words."""
    checks = [("tokens per second", figures["throughput"]["ratio"] >= MIN_RATIO)]
    if "mixed_swarm" in figures:
        released = figures["throughput"]["released_after_s"]
        checks.append(("memory given back", released is not None and released <= MAX_RELEASE_S))
        checks.append(("digests of the mixed swarm", figures["mixed_swarm"]["digests_equal"]))
    return [name for name, good in checks if not good]


def main() -> int:
    """Measure, print; returns 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--preset", default="lan")
    parser.add_argument("--batch", type=int, default=0, help="sequences in a step; 0: the preset's")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: one a core")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--micro-batch", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain is not None:
        print(json.dumps(plain_loop(options)))
        return 0
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.stderr.write("\n*** skipped: no CUDA device ***\n\n")
        print(json.dumps({"skipped": "no CUDA device"}))
        return 0
    figures: Figures = {"device": torch.cuda.get_device_name() if options.device != "cpu" else "cpu"}
    with tempfile.TemporaryDirectory(prefix="talkoot-benchmark-") as folder:
        figures["throughput"] = throughput(_manifest(options), Path(folder), options)
    if options.device == "cpu":
        sys.stderr.write("skipped: memory given back and the mixed swarm need CUDA\n")
    else:
        with tempfile.TemporaryDirectory(prefix="talkoot-benchmark-") as folder:
            figures["mixed_swarm"] = mixed_swarm(Path(folder))
    figures["missed"] = missed(figures)
    print(json.dumps(figures, indent=2))
    return 1 if figures["missed"] else 0


def _manifest(options: argparse.Namespace) -> Manifest:
    manifest = presets.make(options.preset, name="benchmark")
    inner = replace(manifest.inner, batch_size=options.batch or manifest.inner.batch_size)
    layout, numel = describe(manifest)
    return replace(
        manifest,
        swarm=replace(manifest.swarm, founders=("nobody",)),
        model=replace(manifest.model, layout=layout, numel=numel),
        inner=inner,
    )


if __name__ == "__main__":
    sys.exit(main())
