"""torch, driver, GPU, memory and speed: what the process that tries the model says, put into checks."""

import asyncio
import ctypes
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from talkoot.dht.child import child
from talkoot.peer.doctor.memory import free_bytes
from talkoot.peer.doctor.report import Check
from talkoot.peer.manifest import Manifest

START_S = 12.0
"""How long torch and the model may take to load, beside the steps."""

MAX_LINE = 64 * 1024

_PCI = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What `talkoot run` would be told of the device."""

    device: str = "auto"
    threads: int = 0
    memory_limit_bytes: int = 0


@dataclass(slots=True)
class Speed:
    """What was found of the model on this device; None: not measured."""

    numel: int | None = None
    micro_batch: int | None = None
    step_s: float | None = None


def nvidia_is_there() -> bool:
    """Whether the machine has a graphics processor of NVIDIA's, with a driver or without one."""
    for device in _PCI.glob("*"):
        with suppress(OSError):
            vendor = (device / "vendor").read_text().strip()
            if vendor == _NVIDIA and (device / "class").read_text().startswith("0x03"):
                return True
    return False


def driver_is_there() -> bool:
    """Whether NVIDIA's driver can be called."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


async def try_model(
    manifest: Manifest | None, device: Device, speed: Speed, *, seconds: float
) -> AsyncIterator[Check]:
    """Checks in the order in which they are known: torch, gpu, memory, model, steps. Fills `speed`."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="talkoot-doctor-") as folder:
        arguments = [f"--seconds={seconds}"]
        if manifest is not None:
            path = Path(folder) / "manifest.bin"
            path.write_bytes(manifest.canonical())
            arguments += [
                f"--manifest={path}",
                f"--device={device.device}",
                f"--threads={device.threads}",
                f"--memory-limit={device.memory_limit_bytes}",
            ]
        async for finding in _findings(arguments, START_S + seconds):
            name = str(finding.get("finding"))
            found[name] = finding
            if name == "torch":
                yield _torch(finding)
                yield _gpu(finding, device.device)
                yield _memory(finding, device)
            elif name == "fit":
                speed.numel, speed.micro_batch = int(finding["numel"]), int(finding["micro_batch"])
                yield _fits(finding, manifest)
            elif name == "steps":
                speed.step_s = float(finding["step_s"])
    if "torch" not in found and found.get("end", {}).get("late"):
        words = f"torch did not load in time ({found['end']['words']}): is this machine busy?"
        yield Check(name="torch", answer="unknown", words=words)
    elif "torch" not in found:
        words = "torch does not load: " + str(found.get("end", {}).get("words", "no answer in time"))
        yield Check(
            name="torch", answer="no", words=words, fix="python -m pip install --force-reinstall torch"
        )
    elif manifest is not None and "fit" not in found:
        yield _does_not_fit(found, device)


def _torch(finding: dict[str, Any]) -> Check:
    build = f"CUDA {finding['cuda']}" if finding["cuda"] else "no CUDA"
    return Check(name="torch", answer="yes", words=f"torch {finding['version']}, {build}")


def _gpu(finding: dict[str, Any], device: str) -> Check:
    gpus = finding["gpus"]
    if gpus:
        words = ", ".join(f"{gpu['name']}, {gpu['free'] / 1e9:.1f} GB free" for gpu in gpus)
        return Check(name="gpu", answer="yes", words=words, measured={"gpus": gpus})
    if finding["mps"]:
        return Check(name="gpu", answer="yes", words="Apple GPU")
    wanted = device.startswith("cuda")
    if not (wanted or nvidia_is_there()) or device == "cpu":
        return Check(name="gpu", answer="no", words="none; the CPU trains", weight="note")
    weight = "stop" if wanted else "warn"
    if not driver_is_there():
        return Check(
            name="gpu",
            answer="no",
            words="there is no NVIDIA driver, so no GPU can be used",
            fix="sudo ubuntu-drivers install && sudo reboot    # or your system's package of NVIDIA's driver",
            weight=weight,  # type: ignore[arg-type]  # one of two words of `Weight`
            cause="no_gpu_driver",
        )
    if finding["cuda"] is None:
        words, cause = "torch was built without CUDA, so the GPU cannot be used", "torch_without_cuda"
        fix = "python -m pip install --force-reinstall torch    # from the index for CUDA"
    else:
        words, cause = "the driver is there, but torch sees no GPU", "no_gpu"
        fix = "nvidia-smi    # says whether the driver is too old, or the GPU hidden from this user"
    return Check(name="gpu", answer="no", words=words, fix=fix, weight=weight, cause=cause)  # type: ignore[arg-type]


def _memory(finding: dict[str, Any], device: Device) -> Check:
    free = free_bytes()
    gpu = max((gpu["free"] for gpu in finding["gpus"]), default=None)
    words = f"{free / 1e9:.1f} GB of main memory free"
    if device.memory_limit_bytes:
        words += f", {device.memory_limit_bytes / 1e9:.1f} GB allowed for training"
    measured = {"free_bytes": free, "gpu_free_bytes": gpu}
    return Check(name="memory", answer="yes", words=words, measured=measured)


def _fits(finding: dict[str, Any], manifest: Manifest | None) -> Check:
    assert manifest is not None
    return Check(
        name="model",
        answer="yes",
        words=f"{finding['numel'] / 1e6:.2f}M parameters fit on {finding['device']}, "
        f"{finding['micro_batch']} of {manifest.inner.batch_size} sequences at once",
        measured={key: finding[key] for key in ("device", "micro_batch", "numel")},
    )


def _does_not_fit(found: dict[str, dict[str, Any]], device: Device) -> Check:
    if "no_memory" in found:
        limited = ", or a larger --memory-limit" if device.memory_limit_bytes else ""
        return Check(
            name="model",
            answer="no",
            words=f"the model does not fit: {found['no_memory']['words']}",
            fix=f"end other programs, take a machine with more memory{limited}, or join a swarm with a "
            "smaller model",
            cause="no_memory",
        )
    if "wrong" in found:
        return Check(name="model", answer="no", words=str(found["wrong"]["words"]), fix="talkoot run --help")
    words = str(found.get("end", {}).get("words", "it did not load in time"))
    if found.get("end", {}).get("killed"):
        fix = "end other programs, or join a swarm with a smaller model"
        return Check(name="model", answer="no", words=words, fix=fix, cause="no_memory")
    return Check(name="model", answer="unknown", words=words)


async def _findings(arguments: list[str], limit_s: float) -> AsyncIterator[dict[str, Any]]:
    """What the process says, then `end` with how it ended unless that was well."""
    starting = child(
        sys.executable,
        "-m",
        "talkoot.peer.doctor.steps",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=MAX_LINE,
        start_new_session=True,
    )
    errors = b""
    try:
        async with starting as process, asyncio.timeout(limit_s):
            assert process.stdout is not None
            assert process.stderr is not None
            while line := await process.stdout.readline():
                yield msgspec.json.decode(line, type=dict[str, Any])
            errors = await process.stderr.read(MAX_LINE)
            status = await process.wait()
    except TimeoutError:
        yield {"finding": "end", "words": f"it took longer than {limit_s:.0f} s", "late": True}
        return
    if status:
        last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
        words = f"the trial ended by signal {-status}" if status < 0 else last
        yield {"finding": "end", "words": words, "killed": status == -signal.SIGKILL}
