"""The systemd unit of a node, as text. Pure.

A system unit runs as a user of its own that systemd makes up (DynamicUser), with its state in /var/lib. A
user unit runs as who installed it. Both see the rest of the machine read-only or not at all.

Not among the walls: MemoryDenyWriteExecute, because compiled kernels are written and then run;
PrivateDevices, because of GPUs; ProcSubset, because memory and load are read in /proc; and for a system unit
ProtectProc, because it gives way to programs of others, which it has to see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NAME = "talkoot.service"

Scope = Literal["user", "system"]

WATCHDOG_S = 60
"""Without a sign of life for so long, the supervisor starts the daemon again."""

STOP_S = 120
"""How long an orderly stop may take: a round is handed in, the trainer saves."""

WRONG_USE = 2
"""Exit code for what only the operator can change: to start again is of no use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What is installed."""

    scope: Scope
    command: Sequence[str]
    """Absolute, without `run` and what follows it."""
    state_dir: str
    """Of a user unit; a system unit's is `SYSTEM_STATE`."""
    arguments: Sequence[str] = ()
    """More options of `talkoot run`."""
    environment_file: str = ""
    """Read by systemd for secrets (an invite), which do not belong into a unit that everybody can read."""
    without: frozenset[str] = frozenset()
    """Keys of `WALLS` that a user's systemd cannot keep on this machine."""


SYSTEM_STATE = "/var/lib/talkoot"

_ALWAYS = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""

WALLS = """\
CapabilityBoundingSet=
PrivateTmp=yes
PrivateUsers=yes
ProtectSystem=strict
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RemoveIPC=yes
"""
"""What takes namespaces, which not every kernel lets users make."""

_GUEST = """\
Nice=5
IOSchedulingClass=idle
CPUWeight=20
"""

_SYSTEM = f"""\
DynamicUser=yes
StateDirectory=talkoot
StateDirectoryMode=0700
CacheDirectory=talkoot
Environment=HOME={SYSTEM_STATE} XDG_CACHE_HOME=/var/cache/talkoot
ProtectHome=yes
DevicePolicy=closed
DeviceAllow=char-nvidia* rw
DeviceAllow=char-drm rw
DeviceAllow=char-kfd rw
"""


def text_of(service: Service) -> str:
    """The file. Raises ValueError for an argument that no unit can hold."""
    state = SYSTEM_STATE if service.scope == "system" else service.state_dir
    command = [*service.command, "run", "--state-dir", state, *service.arguments]
    environment = f"EnvironmentFile=-{_plain(service.environment_file)}\n" if service.environment_file else ""
    target = "multi-user.target" if service.scope == "system" else "default.target"
    return f"""\
# Written by `talkoot service install`; `talkoot service uninstall` removes it. Changes belong into
# `systemctl{" --user" if service.scope == "user" else ""} edit {NAME}`.
[Unit]
Description=talkoot: volunteer training of one model together with others
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={" ".join(_quoted(word) for word in command)}
{environment}Restart=on-failure
RestartSec=5
RestartPreventExitStatus={WRONG_USE}
WatchdogSec={WATCHDOG_S}
TimeoutStartSec=infinity
TimeoutStopSec={STOP_S}
KillMode=mixed
{_GUEST}{_ALWAYS}{_walls(service)}{_scope_lines(service)}
[Install]
WantedBy={target}
"""


def _scope_lines(service: Service) -> str:
    if service.scope == "system":
        return _SYSTEM
    cache = _quoted(f"XDG_CACHE_HOME={service.state_dir}/cache")
    home = "ProtectProc=invisible\nProtectHome=read-only\n" if "ProtectHome" not in service.without else ""
    room = f"ReadWritePaths={_quoted(service.state_dir)}\n" if "ProtectSystem" not in service.without else ""
    return f"{home}{room}Environment={cache}\n"


def _walls(service: Service) -> str:
    kept = [line for line in WALLS.splitlines(True) if line.partition("=")[0] not in service.without]
    return "".join(kept)


def _plain(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise ValueError("a unit cannot hold control characters")
    return text


def _quoted(word: str) -> str:
    """As systemd reads it: no variable, no specifier, one word."""
    word = _plain(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("%", "%%")
    plain = word and all(character.isalnum() or character in "/._-=:,+@" for character in word)
    return word if plain else f'"{word}"'
