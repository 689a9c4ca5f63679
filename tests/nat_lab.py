"""A laboratory of address translation: hosts and routers as network namespaces, and none leads outside.

All routers and open hosts share one cable, "the Internet", whose addresses look public (libp2p punches holes
to no others). Needs root, `ip` of iproute2 and `nft` of nftables.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from talkoot.cli.demo_chaos_network import inside
from talkoot.cli.demo_leftovers import remove_leftovers
from talkoot.cli.errors import CommandError

MAX_PLACES = 40
"""Places of one laboratory."""

FIRST_PORTS = (4001, 40001)
"""Listening ports of the first and the second host behind one router."""
PORT_RANGES = ("1024-32767", "32768-65535")
"""Ports that a router with fixed mappings gives to its first and its second host."""


class Kind(StrEnum):
    """What is between a host and the Internet."""

    OPEN = "open"
    """Nothing; IPv4 and IPv6."""
    FULL_CONE = "full-cone"
    """One port outside for each port inside, open to all: endpoint-independent mapping and filtering."""
    CONE = "cone"
    """A usual home router: endpoint-independent mapping, answers only of whom the host wrote to."""
    SYMMETRIC = "symmetric"
    """Another port outside for each connection: endpoint-dependent mapping and filtering."""
    DOUBLE = "double"
    """Two routers as in `CONE`, one behind the other: a home behind a provider's translation."""
    NO_UDP = "no-udp"
    """As `CONE`, without UDP."""
    IPV6 = "ipv6"
    """IPv6 and nothing else, without a router."""
    HAIRPIN = "hairpin"
    """As `FULL_CONE`, and its hosts reach each other by their addresses outside."""


_numbers = itertools.count()

SHARED = {Kind.HAIRPIN: 2}
"""Hosts that are behind one router; of other kinds each has a router of its own."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A host of the laboratory."""

    name: str
    kind: Kind
    namespace: str
    addresses: tuple[str, ...]
    """Of its own interface; IPv4 first."""
    outside: str
    """Under which it appears on the Internet."""
    port: int
    """Where it should listen."""

    @property
    def address(self) -> str:
        """The first of its own."""
        return self.addresses[0]

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before a command that runs there."""
        return ("ip", "netns", "exec", self.namespace)

    def inside(self) -> AbstractContextManager[None]:
        """A scope in which the sockets that this thread makes belong there."""
        return inside(self.namespace)


def why_not() -> str:
    """What is missing for a laboratory here, or nothing."""
    if not sys.platform.startswith("linux"):
        return "only Linux has network namespaces"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [name for name in ("ip", "nft") if shutil.which(name) is None]
    if missing:
        return "missing: " + ", ".join(missing)
    try:
        with Lab({"one": Kind.SYMMETRIC}):
            return ""
    except CommandError as error:
        return str(error)


class Lab:
    """Places by name, to be entered as a context; what a killed laboratory left is removed first."""

    def __init__(self, kinds: Mapping[str, Kind], *, strict: bool = False) -> None:
        """`strict`: routers follow TCP's windows and drop what does not fit, as Linux does by itself; those
        that people have mostly do not (OpenWrt's settings, here `nf_conntrack_tcp_be_liberal`)."""
        if not 0 < len(kinds) <= MAX_PLACES:
            raise ValueError(f"1 to {MAX_PLACES} places")
        self.spots: dict[str, Spot] = {}
        self._kinds = dict(kinds)
        self._strict = strict
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Raises CommandError when a step fails; nothing is left then."""
        remove_leftovers()
        with self._stack as stack:
            self._hub = self._namespace()
            _ip(self._hub, "link add net type bridge", "link set net up")
            for number, (kind, names) in enumerate(self._sites(), 1):
                self._build(number, kind, names)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Spot:
        return self.spots[name]

    def _sites(self) -> list[tuple[Kind, list[str]]]:
        """Who is behind which connection to the Internet."""
        by_kind: defaultdict[Kind, list[str]] = defaultdict(list)
        for name, kind in self._kinds.items():
            by_kind[kind].append(name)
        sites = []
        for kind, names in by_kind.items():
            share = SHARED.get(kind, 1)
            sites += [(kind, names[start : start + share]) for start in range(0, len(names), share)]
        return sites

    # -- building --------------------------------------------------------------------------------------

    def _namespace(self) -> str:
        """A new one; it is deleted with its cables at the end. Its name says whose it is."""
        name = f"talkoot-{os.getpid()}-nat{next(_numbers)}"
        _run("ip", "netns", "add", name)
        self._stack_delete(name)
        _ip(name, "link set lo up")
        return name

    def _stack_delete(self, name: str) -> None:
        self._stack.callback(
            subprocess.run, ["ip", "netns", "delete", name], capture_output=True, check=False, timeout=30
        )

    def _build(self, number: int, kind: Kind, names: list[str]) -> None:
        public = f"45.7.{number}.1"
        if kind in (Kind.OPEN, Kind.IPV6):
            spot = self._open_host(number, kind, names[0], public)
            self.spots[spot.name] = spot
            return
        router = self._namespace()
        self._plug_in(router, number)
        _ip(router, f"address add {public}/16 dev wan")
        if kind is Kind.DOUBLE:
            home = self._namespace()
            self._cable(router, home, "wan")
            _ip(router, f"address add 100.64.{number}.1/24 dev lan")
            _ip(home, f"address add 100.64.{number}.2/24 dev wan", f"route add default via 100.64.{number}.1")
            _translate(router, kind, public, [], strict=self._strict)
            router = home
        lan = f"192.168.{number}"
        _ip(router, *_bridge_lan(f"{lan}.1/24"))
        hosts = [f"{lan}.{2 + index}" for index in range(len(names))]
        for index, (name, address) in enumerate(zip(names, hosts, strict=True)):
            host = self._namespace()
            _ip(router, f"link add port{index} type veth peer name eth0 netns {host}")
            _ip(router, f"link set port{index} master lan up")
            _ip(host, "link set eth0 up", f"address add {address}/24 dev eth0")
            _ip(host, f"route add default via {lan}.1")
            self.spots[name] = Spot(name, kind, host, (address,), public, FIRST_PORTS[index])
        _translate(router, kind, public, hosts, strict=self._strict)

    def _open_host(self, number: int, kind: Kind, name: str, public: str) -> Spot:
        host = self._namespace()
        self._plug_in(host, number)
        addresses = [f"2a07:4507:{number:x}::1"]
        _ip(host, f"address add {addresses[0]}/32 dev wan nodad")
        if kind is Kind.OPEN:
            _ip(host, f"address add {public}/16 dev wan")
            addresses.insert(0, public)
        return Spot(name, kind, host, tuple(addresses), addresses[0], FIRST_PORTS[0])

    def _plug_in(self, namespace: str, number: int) -> None:
        """Give it a cable to the Internet, with the plug `wan`."""
        _ip(self._hub, f"link add site{number} type veth peer name wan netns {namespace}")
        _ip(self._hub, f"link set site{number} master net up")
        _ip(namespace, "link set wan up")

    def _cable(self, upper: str, lower: str, plug: str) -> None:
        _ip(upper, f"link add lan type veth peer name {plug} netns {lower}", "link set lan up")
        _ip(lower, f"link set {plug} up")


def _bridge_lan(address: str) -> list[str]:
    return ["link add lan type bridge", "link set lan up", f"address add {address} dev lan"]


def _translate(router: str, kind: Kind, public: str, hosts: list[str], *, strict: bool) -> None:
    """Make it a router. What it was not asked for it drops without a word, as home routers do."""
    for name, value in (("ipv4/ip_forward", 1), ("netfilter/nf_conntrack_tcp_be_liberal", int(not strict))):
        _run("ip", "netns", "exec", router, "sh", "-c", f"echo {value} > /proc/sys/net/{name}")
    random = " fully-random" if kind is Kind.SYMMETRIC else ""
    fixed = kind in (Kind.FULL_CONE, Kind.HAIRPIN)
    ranges = PORT_RANGES if len(hosts) > 1 else ("1024-65535",)
    mapped = [
        f"ip daddr {public} {protocol} dport {ports} dnat to {host}"
        for host, ports in zip(hosts, ranges, strict=False)
        for protocol in ("tcp", "udp")
    ]
    only_wan = "" if kind is Kind.HAIRPIN else 'iifname "wan" '
    rules = {
        "forward { type filter hook forward priority filter; policy drop;": [
            *(["meta l4proto udp drop"] if kind is Kind.NO_UDP else []),
            "ct state established,related accept",
            'iifname "lan" accept',
            *(["ct status dnat accept"] if fixed else []),
        ],
        "input { type filter hook input priority filter; policy drop;": [
            "ct state established,related accept",
            'iifname "lan" accept',
        ],
        "incoming { type nat hook prerouting priority dstnat;": [only_wan + rule for rule in mapped if fixed],
        "outgoing { type nat hook postrouting priority srcnat;": [
            f'oifname "wan" masquerade{random}',
            *(['iifname "lan" oifname "lan" ct status dnat masquerade'] if kind is Kind.HAIRPIN else []),
        ],
    }
    chains = [f"chain {head}\n" + "\n".join(lines) + "\n}" for head, lines in rules.items()]
    table = "table ip home {\n" + "\n".join(chains) + "\n}\n"
    _run("ip", "netns", "exec", router, "nft", "-f", "-", text=table)


def _ip(namespace: str, *lines: str) -> None:
    _run("ip", "-n", namespace, "-batch", "-", text="\n".join(lines) + "\n")


def _run(*command: str, text: str = "") -> None:
    """Raises CommandError with what the program complains of."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
