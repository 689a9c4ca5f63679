"""Measures codecs on one core for `talkoot.peer.bench_codec`: a request comes in, rows go out, as JSON.

Two kinds of request, each in a process of its own: `speed` (bits, error, MB/s), and `memory`, for which the
allocator is told by the environment to give back what is freed, so that the peak means something.
"""

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from talkoot.compression.codec import Codec, CodecError, get
from talkoot.compression.limits import best_scalar, shannon
from talkoot.dht import hivemind_codecs
from talkoot.dht.errors import ConfigError
from talkoot.peer.bench_codec_data import DISTRIBUTIONS, vector

REPETITIONS = range(3, 10)
"""Fewest and most repetitions of one timing, after one that warms up."""

ENOUGH_S = 0.4
"""No further repetition beyond the fewest after this much processor time."""

ERROR_PIECE = 2**20


class Subject(ABC):
    """A codec at work on one vector; `encode` comes before `decode`."""

    def __init__(self, values_P: torch.Tensor) -> None:
        self.values_P = values_P
        self.decoded_P = torch.empty_like(values_P)

    @abstractmethod
    def encode(self) -> None:
        """Encode the vector; keeps the result."""

    @abstractmethod
    def decode(self) -> None:
        """Decode what was encoded into `decoded_P`."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Of what was encoded."""

    @property
    @abstractmethod
    def new_bytes(self) -> int:
        """Of them, those that every call of `encode` allocates anew."""


class Ours(Subject):
    """Into a buffer that is there already, as rounds do it."""

    new_bytes = 0

    def __init__(self, codec: Codec, values_P: torch.Tensor) -> None:
        super().__init__(values_P)
        self._codec = codec
        self._out = bytearray(codec.encoded_size(values_P.numel()))

    def encode(self) -> None:
        self._codec.encode_into(self.values_P, self._out)

    def decode(self) -> None:
        self._codec.decode_into(self._out, self.decoded_P)

    @property
    def num_bytes(self) -> int:
        return len(self._out)


class Hivemind(Subject):
    """Into new messages: it has no other way."""

    def __init__(self, name: str, values_P: torch.Tensor) -> None:
        super().__init__(values_P)
        self._codec = hivemind_codecs.HivemindCodec(name)
        self._parts: list[Any] = []

    def encode(self) -> None:
        self._parts = self._codec.encode(self.values_P)

    def decode(self) -> None:
        self._codec.decode_into(self._parts, self.decoded_P)

    @property
    def num_bytes(self) -> int:
        return self._codec.num_bytes(self._parts)

    @property
    def new_bytes(self) -> int:
        return self.num_bytes


def subject(name: str, values_P: torch.Tensor) -> Subject:
    """The codec called `name`. Raises CodecError for an unknown one."""
    if name in hivemind_codecs.NAMES:
        return Hivemind(name, values_P)
    return Ours(get(name), values_P)


def mb_per_s(work: Callable[[], None], numel: int) -> float:
    """Megabytes of float32 in a second of processor time: the median over the repetitions.

    Processor time of all threads, so that neither a second thread nor other work on the machine shows.
    """
    work()
    seconds: list[float] = []
    while len(seconds) < REPETITIONS.start or (sum(seconds) < ENOUGH_S and len(seconds) < REPETITIONS.stop):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return 4e-6 * numel / max(median(seconds), 1e-9)


def errors(name: str, values_P: torch.Tensor, decoded_P: torch.Tensor) -> dict[str, float]:
    """`nmse`: squared error over energy; for top-k also of the kept values alone, and how much those hold."""
    energy = error = kept = kept_error = 0.0
    for start in range(0, values_P.numel(), ERROR_PIECE):
        values = values_P[start : start + ERROR_PIECE].double()
        decoded = decoded_P[start : start + ERROR_PIECE].double()
        lost = (values - decoded).square()
        chosen = decoded != 0
        energy += float(values.square().sum())
        error += float(lost.sum())
        kept += float(values[chosen].square().sum())
        kept_error += float(lost[chosen].sum())
    if not name.startswith("topk"):
        return {"nmse": error / energy}
    return {
        "nmse": error / energy,
        "value_error": kept_error / kept if kept else 0.0,
        "kept_energy": kept / energy,
    }


def speed_rows(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each distribution and codec."""
    numel = int(request["numel"])
    recorded = Path(request["recorded"]) if request["recorded"] else None
    for distribution in DISTRIBUTIONS:
        values_P = vector(distribution, numel, recorded)
        for name in request["codecs"]:
            it = subject(name, values_P)
            rates = {f"{do.__name__}_mb_s": round(mb_per_s(do, numel), 1) for do in (it.encode, it.decode)}
            bits = 8 * it.num_bytes / numel
            found = errors(name, values_P, it.decoded_P)
            yield {
                "codec": name,
                "distribution": distribution,
                "bits_per_param": bits,
                "shannon_ratio": found["nmse"] / shannon(bits),
                "scalar_ratio": found["nmse"] / best_scalar(bits),
                **found,
                **rates,
            }


def memory_rows(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each codec: peaks beyond input and result, as a share of the float32 vector."""
    values_P = vector("gaussian", int(request["numel"]), None)
    for name in request["codecs"]:
        it = subject(name, values_P)
        it.encode()
        it.decode()
        encode = peak_bytes(it.encode) - it.new_bytes
        decode = peak_bytes(it.decode)
        yield {
            "codec": name,
            "encode_peak_extra": round(max(0, encode) / values_P.nbytes, 4),
            "decode_peak_extra": round(max(0, decode) / values_P.nbytes, 4),
        }


def peak_bytes(work: Callable[[], None]) -> int:
    """How far resident memory rose above what it was. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = _status_bytes("VmRSS")
    work()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def main() -> None:
    """Answer one request; an error of the operator's is a last line with `error`."""
    torch.set_num_threads(1)
    request = json.loads(sys.stdin.readline())
    rows = memory_rows if request["kind"] == "memory" else speed_rows
    try:
        for row in rows(request):
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
    except (ConfigError, CodecError) as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")


if __name__ == "__main__":
    main()
