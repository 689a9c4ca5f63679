"""Every setting of a node, once: file, environment, flags, checks and pages follow from here."""

import re
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any

from talkoot.dht.allowance import LOWEST_RATE
from talkoot.peer.config.values import (
    SWITCH,
    Kind,
    celsius,
    choice,
    limit,
    line_rate,
    number,
    perhaps,
    rate,
    seconds,
    share,
    size,
    text,
    texts,
    whole,
)
from talkoot.peer.guest.settings import LEVELS, MIB, GuestSettings
from talkoot.peer.options import (
    LOG_FORMATS,
    MAX_AUDIT_PARTS,
    MAX_UPLINK,
    MIN_UPLINK,
    PROFILES,
    RELAYED,
    ROLES,
    SHARES,
    RunOptions,
)
from talkoot.peer.public_name import check_name

LEAST_DISK = 64 * MIB
"""Less holds no state of any model."""

MANIFEST = "manifest"
"""Written where the swarm's manifest decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting."""

    key: str
    """`section.name`."""
    goes: tuple[str, ...]
    """Fields that it fills: `guest.upload` of GuestSettings, `run.port` of RunOptions."""
    kind: Kind
    about: str
    """What it is and does, for people."""

    @property
    def section(self) -> str:
        """Its section of the file."""
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        """Its name in the section."""
        return self.key.partition(".")[2]

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "TALKOOT_" + self.key.replace(".", "_").upper()

    @property
    def live(self) -> bool:
        """Whether a running node takes it at once."""
        return self.goes[0].startswith("guest.")

    @property
    def default(self) -> Any:
        """What is built in."""
        owner, _, field = self.goes[0].partition(".")
        return _defaults(GuestSettings if owner == "guest" else RunOptions)[field]


@cache
def _defaults(owner: type[Any]) -> dict[str, Any]:
    return {item.name: item.default for item in fields(owner) if item.default is not MISSING}


def _guest(key: str, field: str, kind: Kind, about: str, *, also: str = "") -> Setting:
    goes = (f"guest.{field}", f"run.{also}") if also else (f"guest.{field}",)
    return Setting(key=key, goes=goes, kind=kind, about=about)


def _run(key: str, field: str, kind: Kind, about: str) -> Setting:
    return Setting(key=key, goes=(f"run.{field}",), kind=kind, about=about)


def _check_device(name: str) -> None:
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name) is None:
        raise ValueError


def _check_name(name: str) -> None:
    if name:
        check_name(name)


def _check_programs(names: Iterable[str]) -> None:
    if any("/" in name for name in names):
        raise ValueError("names without a path")


_LIST = "a list of texts, or one text with commas"
_RATE = rate(int(LOWEST_RATE))

SECTIONS = {
    "node": "Who this node is and what it does.",
    "network": "How it is on the network.",
    "limits": "What it may use of this computer and its connection.",
    "schedule": "When it trains.",
    "yield": "When it gives way.",
    "checkpoints": "Files of whole states, for people.",
    "energy": "What its power costs.",
}
"""{section: what it is about}, in the file's order."""

TABLE: tuple[Setting, ...] = (
    _run(
        "node.profile",
        "profile",
        choice(*PROFILES),
        "A set of defaults; each may be changed by itself below.",
    ),
    _run(
        "node.role",
        "role",
        choice(*ROLES),
        "full; client: does not reduce (a slow uplink); observer: keeps and serves the state, no training.",
    ),
    _run(
        "node.device",
        "device",
        text("auto, cpu, cuda, cuda:N or mps", _check_device),
        "Where it trains: auto, cpu, cuda, cuda:N (one GPU of several) or mps.",
    ),
    _run("node.share_gpu", "share_gpu", SWITCH, "Do not mind other nodes of yours on the same GPU."),
    _run("node.data", "data_paths", texts(_LIST), "Files or globs read instead of those of the manifest."),
    _run(
        "node.public_name",
        "public_name",
        text("a public name", _check_name),
        "Shown to everybody instead of the peer id. Empty: none.",
    ),
    _run(
        "node.share_metrics",
        "share_metrics",
        choice(*SHARES),
        "What other peers may ask of the metrics: none, training, or all (also what concerns this machine).",
    ),
    _run(
        "node.audit_parts",
        "audit_parts",
        whole(0, MAX_AUDIT_PARTS),
        "Parts of other reducers that are computed again after each round; 0: none.",
    ),
    _run("node.log_format", "log_format", choice(*LOG_FORMATS), "text, json, or auto: text on a terminal."),
    _run("node.verbose", "verbose", SWITCH, "Log what is of use to developers only."),
    _run(
        "network.port",
        "port",
        whole(0, 65535),
        "TCP port for other peers; 0: the one of the last start, or any free one.",
    ),
    _run("network.api_port", "http_port", whole(0, 65535), "Port of the page and API on loopback; 0: any."),
    _run("network.listen", "listen", texts(_LIST), "IP addresses to listen on instead of the profile's."),
    _run("network.announce", "announce", texts(_LIST), "Multiaddrs told to others instead of those found."),
    _run("network.bootstrap", "bootstrap", texts(_LIST), "Multiaddrs with /p2p/ of peers to ask first."),
    _run("network.relays", "relays", texts(_LIST), "Multiaddrs with /p2p/ of relays to be reached through."),
    _run("network.relayed", "relayed", choice(*RELAYED), "refuse: nothing to or from this peer uses relays."),
    _run(
        "network.uplink",
        "uplink",
        line_rate(MIN_UPLINK, MAX_UPLINK),
        "What the connection can send, where you know it; 0: measured. Not a cap: that is limits.upload.",
    ),
    _guest("limits.power", "power", share(LEVELS), "Share of the time in which the device works."),
    _guest(
        "limits.threads",
        "threads",
        whole(0, 1024),
        "CPU threads for training; 0: one for each core.",
        also="threads",
    ),
    _guest("limits.nice", "nice", whole(0, 19), "Niceness of the training above the daemon's."),
    _guest(
        "limits.gpu_memory",
        "gpu_memory_bytes",
        limit(size()),
        "Most memory of the device for training.",
        also="memory_limit_bytes",
    ),
    _guest(
        "limits.gpu_headroom",
        "gpu_headroom_bytes",
        size(),
        "Memory of a GPU that stays free for others in any case.",
    ),
    _guest(
        "limits.spare_ram",
        "spare_ram_bytes",
        size(),
        "Memory of the computer that stays free; with less the node gives way; 0: it does not.",
    ),
    _guest(
        "limits.ram",
        "ram_bytes",
        limit(size(256 * MIB)),
        "Most memory of all processes of the node.",
    ),
    _guest(
        "limits.disk", "disk_bytes", limit(size(LEAST_DISK)), "Most disk; the oldest checkpoints go first."
    ),
    _guest("limits.upload", "upload", limit(_RATE), "Most that leaves, of all traffic together."),
    _guest("limits.download", "download", limit(_RATE), "Most that comes in, of all traffic together."),
    _guest(
        "limits.quota",
        "quota_bytes",
        limit(size()),
        "Most bytes a calendar month, sent and received together.",
    ),
    _run("limits.serve_rate", "serve_rate", limit(rate()), "State sent to joining peers at most."),
    _guest("limits.max_celsius", "max_celsius", limit(celsius(30, 120)), "Hottest that a device may become."),
    _guest(
        "schedule.windows",
        "schedule",
        texts("a list of windows such as mon-fri 22:00-07:00", separator=";"),
        "Windows in which it trains, such as mon-fri 22:00-07:00; none: always. Set several apart with ;",
    ),
    _guest(
        "schedule.timezone",
        "timezone",
        text("the name of a time zone such as Europe/Helsinki"),
        "Of the windows, such as Europe/Helsinki. Empty: the computer's own.",
    ),
    _guest(
        "yield.programs",
        "programs",
        texts("names of programs, without a path", _check_programs),
        "Names of programs that want the computer for themselves.",
    ),
    _guest("yield.games", "games", SWITCH, "Give way to games, as GameMode knows them."),
    _guest(
        "yield.gpu_users",
        "gpu_users_bytes",
        size(),
        "GPU memory of other programs from which on it gives way; 0: it does not.",
    ),
    _guest("yield.user_active", "user_active", SWITCH, "Give way while somebody uses the computer."),
    _guest("yield.idle", "idle_s", seconds(10, 86400), "Without input for so long it is not used."),
    _guest("yield.battery", "battery", SWITCH, "Give way while there is no mains."),
    _guest("yield.metered", "metered", SWITCH, "Give way while the network costs by volume."),
    _guest(
        "yield.quiet", "quiet_s", seconds(0, 3600), "A reason must be over for so long before it goes on."
    ),
    _run(
        "checkpoints.every",
        "checkpoint_every",
        perhaps(whole(0, 1_000_000), MANIFEST),
        "Rounds between two; 0: none.",
    ),
    _run("checkpoints.keep", "checkpoint_keep", perhaps(whole(1, 10_000), MANIFEST), "How many stay."),
    _run(
        "checkpoints.max",
        "checkpoint_bytes",
        perhaps(limit(size()), MANIFEST),
        "All together at most.",
    ),
    _guest("energy.price", "energy_price", number(0, 1000), "Price of a kilowatt-hour; 0: not shown."),
    _guest("energy.currency", "currency", text("the name of a currency"), "Of the price."),
)

BY_KEY = {setting.key: setting for setting in TABLE}
BY_VARIABLE = {setting.variable: setting for setting in TABLE}

PROFILE_WORDS = {
    "home": "somebody's computer: finds a way through the router, gives way to games and on battery",
    "server": "a machine of its own with a public address: asks no router, gives way to nobody",
    "lowpower": "a laptop or a quiet room: works a third of the time, and not while somebody is there",
    "lan": "as home, in a local network: nothing goes out to find relays or open ports",
    "test": "loopback only, gives way to nobody",
}

_NOBODY: dict[str, object] = {
    "yield.games": False,
    "yield.battery": False,
    "yield.metered": False,
    "yield.gpu_users": 0,
    "limits.spare_ram": 0,
    "limits.nice": 0,
}

PROFILE_VALUES: dict[str, dict[str, object]] = {
    "home": {},
    "server": _NOBODY,
    "lowpower": {
        "limits.power": LEVELS["light"],
        "limits.nice": 19,
        "yield.user_active": True,
        "node.audit_parts": 0,
    },
    "lan": {},
    "test": _NOBODY,
}
"""{profile: {key: its value there}}; what is not named has its default."""
