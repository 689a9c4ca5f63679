"""What of each limit a node uses at present, for its status."""

from typing import TYPE_CHECKING, Any

from talkoot.peer.config.live import Live
from talkoot.peer.guest.words import Reason
from talkoot.peer.watch import DiskWatch, MemoryWatch

if TYPE_CHECKING:
    from talkoot.peer.node import Node

_HELD_BY: dict[Reason, str] = {
    "schedule": "schedule.windows",
    "quota": "limits.quota",
    "metered": "yield.metered",
    "battery": "yield.battery",
    "exclusive_app": "yield.programs",
    "other_gpu_use": "yield.gpu_users",
    "user_active": "yield.user_active",
    "temperature": "limits.max_celsius",
    "memory": "limits.ram",
}
"""{reason: the setting behind it}"""

_SENSED_FOR = {
    "programs": "yield.programs",
    "gamemode": "yield.games",
    "gpu_users": "yield.gpu_users",
    "user_active": "yield.user_active",
    "battery": "yield.battery",
    "metered": "yield.metered",
    "temperature": "limits.max_celsius",
}
"""{sensor: the setting that it is asked for}"""


class InUse:
    """The settings of a running daemon, and what is used of them."""

    def __init__(self, live: Live, memory: MemoryWatch, disk: DiskWatch) -> None:
        self._live = live
        self._memory = memory
        self._disk = disk

    def of(self, node: "Node") -> dict[str, dict[str, Any]]:
        """{key: value, words, source, live}, on the event loop.

        `used`, in its unit, where it is known, or that this computer does not tell; `holds` where it keeps
        the node from training at present.
        """
        found = self._live.as_json()
        for key, used in self._used(node).items():
            if key in found and used is not None:
                found[key]["used"] = used
        for title, key in _SENSED_FOR.items():
            words = node.senses.report().get(title, "")
            if words.startswith("unknown") and key in found:
                found[key].setdefault("used", words)
        for hold in node.holds.all:
            limit = found.get(_HELD_BY.get(hold.reason, ""))
            if limit is not None:
                limit["holds"] = hold.detail or hold.reason
        return found

    def _used(self, node: "Node") -> dict[str, float | None]:
        contributor = node.contributor
        progress = contributor.progress if contributor else None
        celsius = [gpu.celsius for gpu in contributor.gpus if gpu.celsius is not None] if contributor else []
        return {
            "limits.power": node.training.duty_cycle,
            "limits.gpu_memory": progress.memory_bytes if progress else None,
            "limits.ram": sum(self._memory.resident.values()),
            "limits.disk": self._disk.used,
            "limits.upload": node.network.pacing.rates[0],
            "limits.download": node.network.pacing.rates[1],
            "limits.quota": node.quota.month.used,
            "limits.max_celsius": max(celsius, default=None),
        }
