"""`talkoot bench codec`: every codec, and hivemind's, on four kinds of vectors: bits, error, speed, memory.

Measured in processes of their own with one thread. `recorded` is a real pseudo-gradient, repeated to the
number of elements that is asked for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from talkoot.compression import codec as codecs
from talkoot.dht import hivemind_codecs
from talkoot.dht.errors import ConfigError
from talkoot.peer.bench_codec_data import load

NUMEL = range(256, 2**28 + 1)
"""Elements that can be measured."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "QUANTIZATION_THREADS": "1"}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc returns what is freed to the system at once: resident memory is then what is in use."""

Row = dict[str, Any]


class WorkerError(Exception):
    """A process of the benchmark died."""


def names() -> tuple[str, ...]:
    """All codecs that are measured when none is named: ours, then hivemind's."""
    return codecs.NAMES + hivemind_codecs.NAMES


def check(numel: int, chosen: Sequence[str], recorded: Path | None) -> None:
    """Raises ConfigError, in one line, for what cannot be measured."""
    if numel not in NUMEL:
        raise ConfigError(f"--numel must be {NUMEL.start} to {NUMEL.stop - 1}, got {numel}")
    for name in chosen:
        if name in hivemind_codecs.NAMES:
            continue
        try:
            codecs.get(name)
        except codecs.CodecError as error:
            raise ConfigError(
                f"--codec {name}: {error}; or one of {', '.join(hivemind_codecs.NAMES)}"
            ) from error
    if recorded is not None:
        load(recorded)


def measure(numel: int, chosen: Sequence[str], recorded: Path | None) -> Iterator[Row]:
    """A row for each distribution and codec, as it is measured.

    The Gaussian rows have the peaks of memory, where the system tells them (Linux). Raises ConfigError,
    WorkerError.
    """
    request = {"numel": numel, "codecs": list(chosen), "recorded": recorded and str(recorded.absolute())}
    peaks: dict[str, Row] = {}
    if sys.platform == "linux":
        peaks = {row["codec"]: row for row in _work(request | {"kind": "memory"}, ONE_THREAD | GIVE_BACK)}
    for row in _work(request | {"kind": "speed"}, ONE_THREAD):
        yield row | peaks.get(row["codec"], {}) if row["distribution"] == "gaussian" else row


def _work(request: Row, environment: dict[str, str]) -> Iterator[Row]:
    """The rows of one worker."""
    command = [sys.executable, "-m", "talkoot.peer.bench_codec_worker"]
    with subprocess.Popen(  # noqa: S603 - ourselves
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        with ExitStack() as until_done:
            until_done.callback(worker.kill)
            with suppress(BrokenPipeError), worker.stdin:
                worker.stdin.write(json.dumps(request) + "\n")
            for line in worker.stdout:
                row: Row = json.loads(line)
                if "error" in row:
                    raise ConfigError(row["error"])
                yield row
            until_done.pop_all()
        if worker.wait():
            raise WorkerError(f"a process of the benchmark ended with exit code {worker.returncode}")
