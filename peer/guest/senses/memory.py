"""Whether there is too little memory for others, or the node itself takes more than it may."""

from collections.abc import Iterable

import psutil

from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.guest.words import Reason
from talkoot.peer.guest.yielding import Found, Rest, Sight

GB = 1e9


class Memory:
    """Of the computer, and of the node's processes together."""

    title = "memory"
    reason: Reason = "memory"

    def __init__(self) -> None:
        self._low = False
        self._took_bytes = 0
        """What the node's processes had when memory ran low."""
        self._rest = Rest()

    def wanted(self, settings: GuestSettings) -> bool:
        """Whether there is a limit."""
        return settings.spare_ram_bytes > 0 or settings.ram_bytes > 0

    def look(self, settings: GuestSettings, own: Iterable[int], now: float) -> Sight:
        """What is too much, or too little."""
        taken = _taken_bytes(own, exact_over=settings.ram_bytes)
        if settings.ram_bytes and self._rest.needed(taken > settings.ram_bytes, now):
            return Found(
                "limit", f"its processes took more than the {settings.ram_bytes / GB:.1f} GB allowed"
            )
        available = int(psutil.virtual_memory().available)
        if not settings.spare_ram_bytes or not self._too_little(available, settings.spare_ram_bytes, taken):
            return None
        return Found("spare", f"{available / GB:.1f} GB of memory left for other programs")

    def _too_little(self, available: int, spare: int, taken: int) -> bool:
        """Once it is, there must be room for what the node gave back."""
        if not self._low and available < spare:
            self._took_bytes = taken
        self._low = available < spare + (max(0, self._took_bytes - taken) if self._low else 0)
        return self._low


def _taken_bytes(own: Iterable[int], *, exact_over: int) -> int:
    """Resident memory of these processes; what they share is counted once where it decides."""
    processes = [_process(pid) for pid in own]
    rough = sum(_resident(process) for process in processes)
    if not exact_over or rough <= exact_over:
        return rough
    return sum(_share(process) for process in processes)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def _resident(process: psutil.Process | None) -> int:
    try:
        return int(process.memory_info().rss) if process is not None else 0
    except psutil.Error:
        return 0


def _share(process: psutil.Process | None) -> int:
    """Its part of what it shares with others; walks its pages."""
    try:
        full = process.memory_full_info() if process is not None else None
    except psutil.Error:
        return _resident(process)
    return int(getattr(full, "pss", full.rss)) if full is not None else 0
