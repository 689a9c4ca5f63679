"""All sensors that ask the operating system or the GPU's driver, together. Not on the event loop."""

import time
from collections import deque
from pathlib import Path

from talkoot.peer.guest.senses.gpu import FileReadings, GpuReading, GpuSource, GpuUsers, Nvml
from talkoot.peer.guest.senses.memory import Memory
from talkoot.peer.guest.senses.power import Battery, Temperature
from talkoot.peer.guest.senses.processes import Processes
from talkoot.peer.guest.senses.programs import Programs
from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.guest.words import Reason
from talkoot.peer.guest.yielding import Sight, Unknown

OWN_LOOKS = 20
"""A process of ours that has ended is nobody else's for so many looks: drivers forget slowly."""

Sights = dict[str, tuple[Reason, Sight]]
"""What each sensor that was asked sees, by its title."""


class Machine:
    """Of one node, from one thread."""

    def __init__(self, gpu_file: Path | None = None) -> None:
        """`gpu_file`: readings of GPUs in place of NVML's."""
        self._gpu_file = gpu_file
        self._gpus: GpuSource | None = FileReadings(gpu_file) if gpu_file is not None else None
        self._processes = Processes()
        self._programs = Programs(self._processes)
        self._gpu_users = GpuUsers()
        self._memory = Memory()
        self._battery = Battery()
        self._temperature = Temperature()
        self._own: deque[frozenset[int]] = deque(maxlen=OWN_LOOKS)

    def look(self, settings: GuestSettings, device: str, *, slow: bool) -> Sights:
        """All that are wanted; what changes slowly only if `slow`. `device` as torch has it, or `auto`."""
        gpus = self._read_gpus(settings, device)
        running = {process.pid: process for process in self._processes.look()}
        self._own.append(self._processes.own())
        own = frozenset().union(*self._own)
        sights: Sights = {}
        if self._programs.wanted(settings):
            sights[Programs.title] = Programs.reason, self._programs.look(settings, running.values(), own)
        if gpus is not None and self._gpu_users.wanted(settings):
            self._gpu_users.expect(device)
            sights[GpuUsers.title] = GpuUsers.reason, self._gpu_users.look(settings, gpus, own, running)
        if self._memory.wanted(settings):
            sights[Memory.title] = Memory.reason, self._memory.look(settings, self._own[-1], time.monotonic())
        if slow and self._battery.wanted(settings):
            sights[Battery.title] = Battery.reason, self._battery.look()
        if slow and self._temperature.wanted(settings):
            known = gpus if isinstance(gpus, tuple) else ()
            sights[Temperature.title] = Temperature.reason, self._temperature.look(settings, known)
        return sights

    def _read_gpus(self, settings: GuestSettings, device: str) -> tuple[GpuReading, ...] | Unknown | None:
        """None: there is no GPU that concerns the node."""
        if not (self._gpu_users.wanted(settings) or self._temperature.wanted(settings)):
            return None
        if self._gpu_file is None and device == "cpu":
            return None
        if self._gpus is None:
            self._gpus = Nvml()
        if self._gpus.missing and device == "auto":
            return None  # what it will be is not known yet
        return self._gpus.read()
