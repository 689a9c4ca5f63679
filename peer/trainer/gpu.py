"""How the trainer's GPU fares: memory from torch; load, temperature and energy from NVIDIA's library (NVML).

That library comes with the driver; the package `nvidia-ml-py`, which calls it, is the extra `gpu`. Without
it, and for what a GPU does not tell, there are no figures. Nothing here raises.
"""

import importlib
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from talkoot.peer.trainer.protocol import Gpu

READ_S = 5.0
"""Pause between two readings: each waits for the driver for about a millisecond."""


class Readings(Protocol):
    """What NVML says of one GPU; None where it does not."""

    def utilization(self) -> float | None:
        """Share of the time in which it was busy, lately."""

    def celsius(self) -> float | None:
        """Temperature."""

    def joules(self) -> float | None:
        """Energy since its driver was loaded."""


class GpuMeter:
    """Reads the GPU of one trainer now and then."""

    def __init__(
        self,
        index: int,
        memory: Callable[[], tuple[int, int]],
        readings: Readings | None,
        *,
        limit_bytes: int = 0,
    ) -> None:
        """`memory` gives free and all bytes of the device; `limit_bytes` 0: all of them are the trainer's."""
        self._index = index
        self._memory = memory
        self._readings = readings
        self._limit_bytes = limit_bytes
        self._read_at = -math.inf
        self._before = self._joules()

    def read(self, now: float | None = None) -> tuple[Gpu, ...]:
        """Its figures, or nothing if they were read a moment ago."""
        now = time.monotonic() if now is None else now
        if now - self._read_at < READ_S:
            return ()
        self._read_at = now
        try:
            free, total = self._memory()
        except RuntimeError:  # the device is lost: the next step says so
            return ()
        readings, joules = self._readings, self._joules()
        return (
            Gpu(
                index=self._index,
                used_bytes=total - free,
                limit_bytes=min(total, self._limit_bytes or total),
                utilization=readings.utilization() if readings is not None else None,
                celsius=readings.celsius() if readings is not None else None,
                joules=joules - self._before if joules is not None and self._before is not None else None,
            ),
        )

    def _joules(self) -> float | None:
        return self._readings.joules() if self._readings is not None else None


class _Nvml:
    """`Readings` from a handle of the library `nvml`."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    def utilization(self) -> float | None:
        return self._ask(lambda: self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100)

    def celsius(self) -> float | None:
        kind = self._nvml.NVML_TEMPERATURE_GPU
        return self._ask(lambda: self._nvml.nvmlDeviceGetTemperature(self._handle, kind))

    def joules(self) -> float | None:
        return self._ask(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000)

    def _ask(self, question: Callable[[], float]) -> float | None:
        try:
            return float(question())
        except self._nvml.NVMLError:  # most GPUs lack one or the other
            return None


def nvml_readings(uuid: str) -> Readings | None:
    """What NVML says of the GPU with this UUID (as torch writes it); None where there is no NVML."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        return _Nvml(nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    except nvml.NVMLError:
        return None


def meter_of(device: str, limit_bytes: int) -> GpuMeter | None:
    """A meter of the device that an engine uses; None where it is no CUDA GPU."""
    if not device.startswith("cuda"):
        return None
    import torch  # slow, and not needed by the tests' own engine

    index = torch.device(device).index or 0
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    return GpuMeter(
        index,
        lambda: torch.cuda.mem_get_info(index),
        nvml_readings(str(uuid)) if uuid is not None else None,
        limit_bytes=limit_bytes,
    )
