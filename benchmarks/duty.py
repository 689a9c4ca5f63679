"""Whether a power level is the share of the time in which the trainer works, seen from outside of it.

`python benchmarks/duty.py --minutes 10 --json`

One trainer, as a node runs it, is told one level after the other while it trains. Of its process the kernel
says how long it ran (`cpu`, of all threads, over the number of threads) and how long its main thread ran or
waited for a processor that others had (`wanted`), which is the share that it took as its own where the
machine is busy otherwise. With `--device cuda` NVML says how long the GPU was busy. `own` is what the trainer
reports, and what `talkoot status` shows. `--batch` makes steps longer.
"""

import argparse
import asyncio
import importlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from talkoot.peer import presets
from talkoot.peer.guest.settings import LEVELS
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer.layout import describe, initial_weights
from talkoot.peer.trainer.process import TrainerProcess
from talkoot.peer.trainer.protocol import Progress, Ready, TrainerEvent, TrainerSpec, Tuning

SETTLE_S = 5.0
"""After a change, before the measurement begins."""

SAMPLE_S = 0.1
"""Pause between two looks."""

HEAD = "level   set    wanted     cpu     gpu     own  steps  s"


@dataclass(frozen=True, slots=True)
class Row:
    """One level; shares of the time."""

    level: str
    set_to: float
    wanted: float | None
    cpu: float
    gpu: float | None
    own: float
    steps: int
    seconds: float

    def __str__(self) -> str:
        shares = (
            f"{100 * share:6.1f}" if share is not None else "     -"
            for share in (self.set_to, self.wanted, self.cpu, self.gpu, self.own)
        )
        return f"{self.level:6}" + "  ".join(shares) + f"  {self.steps:5}  {self.seconds:.0f}"


class Outside:
    """What the kernel, and NVML, count of one process."""

    def __init__(self, pid: int, threads: int, gpu: Callable[[], float] | None) -> None:
        self._process = psutil.Process(pid)
        self._pid, self._threads, self._gpu = pid, threads, gpu
        self._readings: list[float] = []

    def cpu_s(self) -> float:
        """Of all threads, over their number."""
        times = self._process.cpu_times()
        return float(times.user + times.system) / self._threads

    def wanted_s(self) -> float | None:
        """Ran or waited to run, of the main thread."""
        with suppress(OSError):
            ran, waited, _ = Path(f"/proc/{self._pid}/schedstat").read_text(encoding="ascii").split()
            return (int(ran) + int(waited)) / 1e9
        return None

    def sample(self) -> None:
        """Look at the GPU, which says how busy it was in the last moment."""
        if self._gpu is not None:
            self._readings.append(self._gpu())

    def gpu(self) -> float | None:
        """Mean since the last call."""
        readings, self._readings = self._readings, []
        return sum(readings) / len(readings) if readings else None


def gpu_meter(device: str) -> Callable[[], float] | None:
    """Reads how busy the first GPU is; None without one."""
    if not device.startswith("cuda"):
        return None
    nvml = importlib.import_module("pynvml")
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    return lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100


def make_manifest(options: argparse.Namespace) -> Manifest:
    """A preset, with steps as long as they were asked for."""
    manifest = presets.make(options.preset, name="duty")
    inner = replace(manifest.inner, batch_size=options.batch or manifest.inner.batch_size)
    manifest = replace(manifest, inner=inner, swarm=replace(manifest.swarm, founders=("founder",)))
    layout, numel = describe(manifest)
    return replace(manifest, model=replace(manifest.model, layout=layout, numel=numel))


class Watched:
    """A trainer and what it said last."""

    def __init__(self, spec: TrainerSpec) -> None:
        self.ready = asyncio.Event()
        self.began = asyncio.Event()
        self.last: Progress | None = None
        self.trainer = TrainerProcess(spec, self._heard)

    def _heard(self, event: TrainerEvent) -> None:
        if isinstance(event, Ready):
            self.ready.set()
        elif isinstance(event, Progress):
            self.last = event
            self.began.set()

    def now(self) -> Progress:
        assert self.last is not None
        return self.last


async def measure(watched: Watched, outside: Outside, level: str, options: argparse.Namespace) -> Row:
    """Change to one level and watch it."""
    power = LEVELS.get(level) or float(level)
    watched.trainer.tune(Tuning(power=power, threads=options.threads))
    await asyncio.sleep(SETTLE_S)  # steps under way end at the level before
    outside.gpu()
    first, began = watched.now(), time.monotonic()
    cpu_s, wanted_s = outside.cpu_s(), outside.wanted_s()
    while (passed_s := time.monotonic() - began) < 60 * options.minutes:
        await asyncio.sleep(SAMPLE_S)  # what is measured goes on meanwhile
        outside.sample()
    last, wanted_now_s = watched.now(), outside.wanted_s()
    known = wanted_s is not None and wanted_now_s is not None
    return Row(
        level=level,
        set_to=power,
        wanted=((wanted_now_s or 0.0) - (wanted_s or 0.0)) / passed_s if known else None,
        cpu=(outside.cpu_s() - cpu_s) / passed_s,
        gpu=outside.gpu(),
        own=(last.busy_seconds - first.busy_seconds) / (last.total_seconds - first.total_seconds),
        steps=last.steps_total - first.steps_total,
        seconds=passed_s,
    )


async def run(options: argparse.Namespace) -> list[Row]:
    """All levels, one after the other."""
    manifest = make_manifest(options)
    rows: list[Row] = []
    with TemporaryDirectory(prefix="talkoot-duty-") as name:
        folder = Path(name)
        (folder / "manifest.bin").write_bytes(manifest.canonical())
        initial_weights(manifest).astype("<f4").tofile(folder / "outer")
        spec = TrainerSpec(
            manifest_path=folder / "manifest.bin",
            state_dir=folder / "trainer",
            peer=bytes(32),
            device=options.device,
            threads=options.threads,
        )
        watched = Watched(spec)
        async with asyncio.TaskGroup() as group:
            group.create_task(watched.trainer.run())
            await watched.ready.wait()
            await watched.trainer.adopt(folder / "outer", round=0, digest="aa", global_step=0, mode="start")
            await watched.began.wait()
            assert watched.trainer.pid is not None
            outside = Outside(watched.trainer.pid, options.threads, gpu_meter(options.device))
            for level in options.level or [*LEVELS]:
                rows.append(await measure(watched, outside, level, options))
                sys.stderr.write(f"{rows[-1]}\n")
            await watched.trainer.stop(save=False, timeout_s=10.0)
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for each level")
    parser.add_argument("--level", action="append", help="light, medium, full or a share; default: all three")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=0, help="sequences in a step; 0: as the preset has it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.stderr.write(HEAD + "\n")
    rows = asyncio.run(run(options))
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
