"""What a volunteer lets a node use, and when it gives way. All of it may change while the node runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from talkoot.dht.allowance import LOWEST_RATE
from talkoot.dht.errors import ConfigError
from talkoot.peer.guest.program_names import check_programs
from talkoot.peer.guest.schedule import Schedule

GIB = 2**30
MIB = 2**20

LEVELS = {"light": 0.33, "medium": 0.66, "full": 1.0}
"""Named power levels as shares of the time in which the device works."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestSettings:
    """Units are bytes, seconds, bytes a second, degrees Celsius; 0 is "no limit" unless said otherwise."""

    power: float = 1.0
    """Share of the time in which the trainer works, over 0 to 1."""
    threads: int = 0
    """CPU threads of the trainer; 0: one for each physical core."""
    nice: int = 10
    """Niceness of the trainer above the daemon's, 0 to 19."""
    gpu_memory_bytes: int = 0
    """Most memory of the device for training."""
    gpu_headroom_bytes: int = GIB
    """Memory of a GPU that stays free for others in any case."""
    ram_bytes: int = 0
    """Most resident memory of all processes of the node together."""
    spare_ram_bytes: int = 512 * MIB
    """Memory of the computer that stays free; with less the node gives way."""
    max_celsius: float = 0.0
    """Hottest that a device may become."""
    upload: float = 0.0
    """Bytes/s that leave at most, of all traffic together, headers included; LOWEST_RATE at least."""
    download: float = 0.0
    """Bytes/s that come in at most; LOWEST_RATE at least."""
    quota_bytes: int = 0
    """Most bytes a calendar month of local time, sent and received together."""
    disk_bytes: int = 0
    """Most bytes of the state directory."""
    schedule: tuple[str, ...] = ()
    """Windows in which the node trains, such as `mon-fri 22:00-07:00`; none: always."""
    timezone: str = ""
    """IANA name of the schedule's zone; empty: the computer's own."""
    programs: tuple[str, ...] = ()
    """Names of programs that want the computer for themselves, as the system's list of processes has them."""
    games: bool = True
    """Give way to games (as GameMode knows them)."""
    gpu_users_bytes: int = 256 * MIB
    """GPU memory of other processes from which on the node gives way; 0: it does not."""
    user_active: bool = False
    """Give way while somebody uses the computer."""
    idle_s: float = 300.0
    """Without input for so long the computer is not used."""
    battery: bool = True
    """Give way while there is no mains."""
    metered: bool = True
    """Give way while the network costs by volume."""
    quiet_s: float = 20.0
    """A reason to give way must be over for so long before the node goes on."""
    energy_price: float = 0.0
    """Price of a kilowatt-hour, to show what it costs."""
    currency: str = ""
    """Of the price."""

    @property
    def gives_way(self) -> bool:
        """Whether the node has to look at anything for it."""
        figures = self.gpu_users_bytes, self.ram_bytes, self.spare_ram_bytes, self.max_celsius
        choices = self.games, self.user_active, self.battery, self.metered
        return any(figures) or any(choices) or bool(self.schedule or self.programs)

    def __post_init__(self) -> None:
        """Raises ConfigError naming the field and its bound."""
        Schedule(self.schedule, self.timezone)
        check_programs(self.programs)
        for name in ("gpu_users_bytes", "spare_ram_bytes", "ram_bytes", "max_celsius", "idle_s", "quiet_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or more")
        self._check_traffic()

    def _check_traffic(self) -> None:
        for name in ("upload", "download"):
            rate = getattr(self, name)
            if rate != 0 and not LOWEST_RATE <= rate < math.inf:
                raise ConfigError(
                    f"{name} must be {LOWEST_RATE / 1000:.0f} kB/s or more: "
                    "a message of a mebibyte has to pass within half a minute"
                )
        if self.quota_bytes < 0:
            raise ConfigError("quota_bytes must be above 0")


UNDISTURBED = GuestSettings(games=False, gpu_users_bytes=0, battery=False, metered=False, spare_ram_bytes=0)
"""Gives way to nothing and nobody: for trials, and for computers that do nothing else."""


class Current:
    """The settings of now, and who follows them. On the event loop."""

    def __init__(self, settings: GuestSettings) -> None:
        self._now = settings
        self._followers: list[Callable[[GuestSettings], None]] = []

    @property
    def now(self) -> GuestSettings:
        """As they are."""
        return self._now

    def follow(self, follower: Callable[[GuestSettings], None]) -> None:
        """Call it now, and after each change; it must not block."""
        self._followers.append(follower)
        follower(self._now)

    def change(self, settings: GuestSettings) -> None:
        """From now on these hold."""
        if settings != self._now:
            self._now = settings
            for follower in self._followers:
                follower(settings)
