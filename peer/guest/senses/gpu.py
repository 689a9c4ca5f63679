"""What other processes take of the GPU's memory, by NVIDIA's library or from a file that somebody writes."""

import importlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from talkoot.peer.guest.program_names import plain
from talkoot.peer.guest.senses.processes import Process
from talkoot.peer.guest.settings import MIB, GuestSettings
from talkoot.peer.guest.words import Reason
from talkoot.peer.guest.yielding import Found, Sight, Unknown

log = logging.getLogger("talkoot.senses")

MAX_FILE_BYTES = 1 << 16

DESKTOP = frozenset(
    {
        "xorg", "xwayland", "gnome-shell", "gnome-remote-de", "mutter", "kwin_x11", "kwin_wayland",
        "plasmashell", "sway", "weston", "hyprland", "cinnamon", "xfwm4", "picom", "compton", "gdm", "sddm",
        "lightdm", "nvidia-persiste",
    }
)  # fmt: skip
"""What draws the desktop takes memory all the time, and is nobody at work."""


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One process on a GPU."""

    pid: Annotated[int, Meta(ge=0)]
    bytes: Annotated[int, Meta(ge=0)] | None = None
    """None: the driver does not tell."""
    name: Annotated[str, Meta(max_length=256)] = ""


class GpuReading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU."""

    index: Annotated[int, Meta(ge=0, le=255)]
    processes: Annotated[tuple[GpuProcess, ...], Meta(max_length=1024)] = ()
    celsius: float | None = None


class GpuSource(Protocol):
    """Where readings come from."""

    missing: str
    """Why there are none at all; empty: there are."""

    def read(self) -> tuple[GpuReading, ...] | Unknown:
        """All GPUs now."""


class Nvml:
    """The driver's own library, by the package `nvidia-ml-py` (the extra `gpu`)."""

    def __init__(self) -> None:
        self.missing = ""
        self._handles: list[Any] = []
        try:
            self._nvml = importlib.import_module("pynvml")
        except ImportError:
            self.missing = "the package nvidia-ml-py is not installed (pip install 'talkoot[gpu]')"
            return
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except self._nvml.NVMLError:
            self.missing = "there is no NVIDIA driver"
        if not self._handles:
            self.missing = self.missing or "there is no NVIDIA GPU"

    def read(self) -> tuple[GpuReading, ...] | Unknown:
        """All GPUs now, or what the driver says instead."""
        if self.missing:
            return Unknown(self.missing)
        try:
            return tuple(self._one(index, handle) for index, handle in enumerate(self._handles))
        except self._nvml.NVMLError as error:
            return Unknown(f"the NVIDIA driver says: {error}")

    def _one(self, index: int, handle: Any) -> GpuReading:
        nvml = self._nvml
        compute = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        graphics = nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        taken = {process.pid: process.usedGpuMemory for process in (*graphics, *compute)}
        try:
            celsius = float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        except nvml.NVMLError:
            celsius = None
        return GpuReading(
            index=index,
            processes=tuple(GpuProcess(pid=pid, bytes=size) for pid, size in taken.items()),
            celsius=celsius,
        )


class FileReadings:
    """The same from a JSON file: a list of `GpuReading`. For GPUs that NVML does not know, and for trials."""

    missing = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[GpuReading, ...] | Unknown:
        """What the file says; one that is not there, or half written, tells nothing."""
        try:
            with self._path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            return Unknown(f"{self._path}: {error.strerror}")
        if len(text) > MAX_FILE_BYTES:
            return Unknown(f"{self._path} has more than {MAX_FILE_BYTES} bytes")
        try:
            return msgspec.json.decode(text, type=tuple[GpuReading, ...])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return Unknown(f"{self._path}: {error}")


class GpuUsers:
    """Whether others take more of our GPU's memory than they may before the node gives way."""

    title = "gpu_users"
    reason: Reason = "other_gpu_use"

    def __init__(self) -> None:
        self._ours = 0
        self._seen = False

    def expect(self, device: str) -> None:
        """Take the one that this device names for ours, until we are seen on another one."""
        number = device.partition(":")[2]
        if not self._seen and number.isdecimal():
            self._ours = int(number)

    def wanted(self, settings: GuestSettings) -> bool:
        return settings.gpu_users_bytes > 0

    def look(
        self,
        settings: GuestSettings,
        gpus: tuple[GpuReading, ...] | Unknown,
        own: frozenset[int],
        running: Mapping[int, Process],
    ) -> Sight:
        """Who takes most of it."""
        if isinstance(gpus, Unknown):
            return gpus
        gpu = self._our_gpu(gpus, own)
        if gpu is None:
            return Unknown(f"there is no GPU {self._ours}")
        others = [
            (process.bytes, process.name or _name(process.pid, running))
            for process in gpu.processes
            if process.pid not in own
        ]
        others = [(size, name) for size, name in others if plain(name.split(" (")[0]) not in DESKTOP]
        taken = sum(size for size, _ in others if size is not None)
        if taken >= settings.gpu_users_bytes:
            _, name = max((size, name) for size, name in others if size is not None)
            return Found(name, f"{name} takes memory of GPU {gpu.index} ({taken / MIB:.0f} MiB by others)")
        if any(size is None for size, _ in others):
            return Unknown("the driver does not tell how much memory each process takes")
        return None

    def _our_gpu(self, gpus: Iterable[GpuReading], own: frozenset[int]) -> GpuReading | None:
        by_index: dict[int, GpuReading] = {gpu.index: gpu for gpu in gpus}
        for gpu in by_index.values():
            if any(process.pid in own for process in gpu.processes):
                self._ours, self._seen = gpu.index, True
                break
        return next(iter(by_index.values())) if len(by_index) == 1 else by_index.get(self._ours)


def _name(pid: int, running: Mapping[int, Process]) -> str:
    process = running.get(pid)
    return f"{process.name} (process {pid})" if process is not None else f"process {pid}"
