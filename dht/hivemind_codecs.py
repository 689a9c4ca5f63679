"""hivemind's codecs, to be measured beside ours; nothing of a swarm uses them.

A vector is cut as hivemind's averager cuts it: parts of 512 KiB after compression, each compressed by itself.
BLOCKWISE_8BIT is left out: it needs bitsandbytes.
"""

import warnings
from typing import Any

import torch

PART_BYTES = 2**19
"""`DEFAULT_PART_SIZE_BYTES` in hivemind/averaging/partition.py."""

_CLASSES = {
    "hivemind:none": "NoCompression",
    "hivemind:float16": "Float16Compression",
    "hivemind:meanstd16": "ScaledFloat16Compression",
    "hivemind:uniform8": "Uniform8BitQuantization",
    "hivemind:quantile8": "Quantile8BitQuantization",
}

NAMES = tuple(_CLASSES)


class HivemindCodec:
    """One of `NAMES`, for flat float32 vectors on the CPU.

    The environment variable QUANTIZATION_THREADS sets the size of hivemind's thread pool. Importing it takes
    seconds, and this class mends its module: it is for a process that ends soon.
    """

    def __init__(self, name: str) -> None:
        from hivemind import compression
        from hivemind.compression import quantization

        vars(quantization)["int"] = _int  # hivemind 1.1.12 fails to extract with numpy 2.4
        warnings.filterwarnings("ignore", message=".*quantized tensor creation", category=UserWarning)
        self._codec: Any = getattr(compression, _CLASSES[name])()
        self._info = compression.CompressionInfo

    def encode(self, values_P: torch.Tensor) -> list[Any]:
        """The protobuf messages of all parts, not serialised."""
        return [self._codec.compress(part, self._info.from_tensor(part)) for part in self._parts(values_P)]

    def decode_into(self, parts: list[Any], out_P: torch.Tensor) -> None:
        """Write the whole vector into `out_P`, part by part, as its averager does."""
        start = 0
        for part in parts:
            values = self._codec.extract(part)
            out_P[start : start + values.numel()].copy_(values)
            start += values.numel()

    def num_bytes(self, parts: list[Any]) -> int:
        """Bytes of the parts' content, without the messages' own fields."""
        return sum(len(part.buffer) for part in parts)

    def _parts(self, values_P: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ratio = self._codec.estimate_compression_ratio(self._info.from_tensor(values_P))
        return torch.split(values_P, int(PART_BYTES / (values_P.element_size() * ratio)))


def _int(value: Any) -> int:
    """What `int` is for arrays of one element before numpy 2.4."""
    return int(value.item()) if hasattr(value, "item") else int(value)
