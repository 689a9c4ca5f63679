"""A process of its own that tries the swarm's model on this machine's device: JSON, a line for each finding.

`python -m talkoot.peer.doctor.steps --manifest FILE --seconds N`. A crash or a lack of memory is this
process's; the device is free again when it is gone.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from talkoot.dht.errors import ConfigError
from talkoot.peer.doctor.memory import free_bytes
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer import workplace
from talkoot.peer.trainer.engine import Engine, NoMemory, learning_rate

MAX_STEPS = 6
"""Steps that are made at most; the first one is not timed."""

DEVICE_BYTES = 16
"""Of the device's memory for each parameter: itself, its gradient and two moments, in float32."""

HOST_BYTES = 8
"""Of the main memory, besides, where the device is another one: two copies on the way."""


class _Over(Exception):  # noqa: N818 - ends a step whose time is over
    pass


def say(**finding: Any) -> None:
    """One line."""
    sys.stdout.write(msgspec.json.encode(finding).decode() + "\n")
    sys.stdout.flush()


def look_at_torch() -> None:
    """What torch is, and which GPUs it sees."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            gpus.append({"name": torch.cuda.get_device_name(index), "free": free, "total": total})
    mps = torch.backends.mps.is_available()
    say(finding="torch", version=str(torch.__version__), cuda=torch.version.cuda, gpus=gpus, mps=mps)


def require_room(manifest: Manifest, device: str, limit_bytes: int) -> None:
    """Raises NoMemory where it is known before anything is tried."""
    from talkoot.peer.trainer.torch_engine import choose_device

    numel = manifest.model.numel
    chosen = choose_device(device)
    if chosen.type == "cuda":
        import torch

        there = torch.cuda.mem_get_info(chosen)[0]
        host = HOST_BYTES * numel
    else:
        there, host = free_bytes(), 0
    if limit_bytes:
        there = min(there, limit_bytes)
    if DEVICE_BYTES * numel > there:
        raise NoMemory(
            f"{numel / 1e6:,.1f}M parameters need {DEVICE_BYTES * numel / 1e9:.1f} GB on {chosen.type}, "
            f"{there / 1e9:.1f} GB are free"
        )
    if host > free_bytes():
        raise NoMemory(f"{host / 1e9:.1f} GB of main memory are needed, {free_bytes() / 1e9:.1f} GB are free")


def try_steps(engine: Engine, manifest: Manifest, seconds: float) -> None:
    """Real steps on random tokens, until the time is over; a step that takes longer is extrapolated."""
    import numpy as np

    tokens = np.random.default_rng(0).integers(
        0, engine.vocab_size, (manifest.inner.batch_size, manifest.data.sequence_length + 1), dtype=np.int64
    )
    began = time.monotonic()
    micro_done = 0

    def pulse() -> None:
        nonlocal micro_done
        micro_done += 1
        if time.monotonic() - began > seconds:
            raise _Over

    engine.pulse = pulse
    taken: list[float] = []
    try:
        for step in range(MAX_STEPS):
            micro_done, at = 0, time.monotonic()
            engine.step(tokens, learning_rate(manifest, step, None))
            engine.read()  # waits for the device
            taken.append(time.monotonic() - at)
            if time.monotonic() - began > seconds:
                break
    except _Over:
        part = min(1.0, micro_done * engine.micro.size / manifest.inner.batch_size)
        if not taken:
            taken.append((time.monotonic() - at) / part)
    timed = sorted(taken[1:] or taken)
    say(
        finding="steps",
        step_s=timed[len(timed) // 2],
        steps=len(taken),
        memory_bytes=engine.memory_bytes(),
    )


def main(arguments: list[str]) -> int:
    """Entry point. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m talkoot.peer.doctor.steps", description=__doc__)
    parser.add_argument("--manifest", type=Path, help="the sealed manifest; none: look at torch only")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--memory-limit", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args(arguments)
    look_at_torch()
    if options.manifest is None:
        return 0
    try:
        manifest = workplace.load_manifest(options.manifest)
        if manifest.model.kind != "numpy":
            require_room(manifest, options.device, options.memory_limit)
        engine = workplace.make_engine(
            manifest,
            device=options.device,
            threads=options.threads,
            memory_limit_bytes=options.memory_limit,
        )
        engine.probe(manifest.data.sequence_length)
        say(finding="fit", device=engine.device, micro_batch=engine.micro.size, numel=engine.layout.numel)
        try_steps(engine, manifest, options.seconds)
    except NoMemory as error:
        say(finding="no_memory", words=str(error))
    except ConfigError as error:
        say(finding="wrong", words=str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
