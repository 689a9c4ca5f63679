"""`talkoot bench aggregate`: what a reducer's robust rules cost beside the plain mean, time and memory.

One reducer aggregates the whole vector from encoded contributions, as it does its part of a round. Measured
in processes of their own with one thread, as `talkoot bench codec` does: one for time, one for memory.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from talkoot.averaging.robustness import Robustness, sparse_problem
from talkoot.dht.errors import ConfigError
from talkoot.peer.bench_codec import GIVE_BACK, ONE_THREAD, WorkerError

Row = dict[str, Any]

PEERS = range(1, 65)
NUMEL = range(1, 2**28 + 1)
REPETITIONS = range(1, 101)

BASELINE = "mean"

RULES: dict[str, Robustness] = {
    BASELINE: Robustness(norm_cap="none"),
    "norm cap": Robustness(),
    "norm cap by part": Robustness(norm_cap="part"),
    "norm cap by chunk": Robustness(norm_cap="chunk"),
    "coordinate_median": Robustness(rule="coordinate_median"),
    "trimmed_mean": Robustness(rule="trimmed_mean"),
    "trimmed_mean where it is far from the mean": Robustness(
        rule="trimmed_mean", norm_cap="part", arms_at=0.25
    ),
    "geometric_median": Robustness(rule="geometric_median"),
    "krum": Robustness(rule="krum"),
    "centered_clip": Robustness(rule="centered_clip", norm_cap="part"),
    "centered_clip from the median": Robustness(
        rule="centered_clip", norm_cap="part", clip_center="coordinate_median"
    ),
    "nearest_neighbors, trimmed_mean": Robustness(rule="trimmed_mean", before="nearest_neighbors"),
    "buckets, geometric_median": Robustness(rule="geometric_median", before="buckets"),
}
"""What is measured. The first is what all others are compared with."""


def check(*, peers: int, numel: int, codec: str, repetitions: int, chosen: Sequence[str]) -> None:
    """Raises ConfigError, in one line, for what cannot be measured."""
    from talkoot.compression import codec as codecs

    for name, value, allowed in (
        ("--peers", peers, PEERS),
        ("--numel", numel, NUMEL),
        ("--repetitions", repetitions, REPETITIONS),
    ):
        if value not in allowed:
            raise ConfigError(f"{name} must be {allowed.start} to {allowed.stop - 1}, got {value}")
    try:
        codecs.get(codec)
    except codecs.CodecError as error:
        raise ConfigError(f"--codec {codec}: {error}") from error
    for name in chosen:
        if name not in RULES:
            near = get_close_matches(name, RULES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "known: " + "; ".join(RULES)
            raise ConfigError(f"--rule {name}: unknown; {hint}")


def measure(*, peers: int, numel: int, codec: str, repetitions: int, chosen: Sequence[str]) -> list[Row]:
    """A row for each rule, the baseline first: seconds, and the peak of memory where the system tells it.

    That is Linux. Raises ConfigError, WorkerError.
    """
    check(peers=peers, numel=numel, codec=codec, repetitions=repetitions, chosen=chosen)
    usable = [
        name
        for name, how in RULES.items()
        if (name in chosen or name == BASELINE or not chosen)
        and sparse_problem(how, exchange="dense", codec=codec) is None
    ]
    request = {
        "peers": peers, "numel": numel, "codec": codec, "rules": usable, "repetitions": repetitions
    }  # fmt: skip
    seconds = _work(request | {"kind": "time"}, ONE_THREAD)
    peaks: Row = {}
    if sys.platform == "linux":
        peaks = _work(request | {"kind": "memory"}, ONE_THREAD | GIVE_BACK)
    return [_row(name, request, seconds, peaks) for name in usable]


def _row(name: str, request: Row, seconds: Row, peaks: Row) -> Row:
    row: Row = {
        "rule": name,
        "peers": request["peers"],
        "numel": request["numel"],
        "codec": request["codec"],
        "seconds": round(seconds[name], 4),
        "time_ratio": round(seconds[name] / seconds[BASELINE], 3),
    }
    if peaks:
        more = peaks[name] - peaks[BASELINE]
        row["peak_mb"] = round(peaks[name] / 1e6, 1)
        row["extra_vectors"] = round(max(0, more) / (4 * request["numel"]), 3)
    return row


def _work(request: Row, environment: dict[str, str]) -> Row:
    """The answer of one worker."""
    command = [sys.executable, "-m", "talkoot.peer.bench_aggregate_worker"]
    done = subprocess.run(  # noqa: S603 - ourselves
        command, input=json.dumps(request), stdout=subprocess.PIPE, text=True, env=os.environ | environment,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise WorkerError(f"a process of the benchmark ended with exit code {done.returncode}")
    answer: Row = json.loads(done.stdout)
    return answer
