"""What a relay gives, and to whom: all of its limits."""

from dataclasses import dataclass, fields

from talkoot.dht.errors import ConfigError

MIB = 2**20
GIB = 2**30
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - a relay is there to be dialled


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayLimits:
    """Quotas of one reservation, one circuit and the whole node. The defaults are for a machine of 1 GB with
    an uplink of 1 Gbit/s; `talkoot relay` has an option for those that an operator is likely to change."""

    reservation_s: float = 900.0
    """How long a reservation lasts; clients renew it two minutes before its end (at least 240)."""
    reservation_bytes: int = 32 * GIB
    """Bytes through one reservation in an hour, both directions and all circuits together; beyond it that
    client's circuits are cut, and it gets new ones at this rate."""
    reservation_rate: int = 32 * MIB
    """Bytes a second through one reservation."""
    reservation_circuits: int = 32
    """Circuits to one reservation at the same time."""

    circuit_s: float = 6 * 3600.0
    """Longest life of a circuit; the peers make a new one."""
    circuit_bytes: int = 16 * GIB
    """Bytes through one circuit, both directions together."""
    circuit_rate: int = 32 * MIB
    """Bytes a second through one circuit."""
    circuit_idle_s: float = 180.0
    """A circuit on which nothing comes for so long is closed; a living connection sends something every 30
    s."""
    stall_s: float = 60.0
    """A circuit whose receiver takes nothing for so long is cut."""

    reservations: int = 256
    """Reservations of the node."""
    circuits: int = 512
    """Circuits of the node."""
    rate: int = 100 * MIB
    """Bytes a second of the node, counted once for each byte that is passed on."""
    memory_bytes: int = 512 * MIB
    """Resident memory from which nothing new is taken on."""
    window_bytes: int = 8 * MIB
    """Memory for receive windows beyond the 256 KiB that each direction of a circuit has. While there are few
    circuits (`windows.FEW`) each gets half a MiB of it."""

    connections: int = 512
    """Connections of the node."""
    connections_per_prefix: int = 48
    """Connections from one IPv4 /24 or IPv6 /48; this machine itself may have more."""
    handshakes: int = 32
    """Handshakes under way at the same time."""
    handshake_s: float = 10.0
    """Longest handshake."""
    accepts_per_prefix: float = 5.0
    """Connections a second from one prefix, after a burst of ten times as many."""
    idle_s: float = 120.0
    """A connection without reservation and circuit is closed after so long."""

    requests_per_peer: int = 60
    """Reservations and circuits that one peer may ask for in a minute, after a burst of twice as many.
    Further ones are refused, and a peer that still goes on is cut off for `cutoff_s`."""
    cutoff_s: float = 60.0
    """How long a peer that asks in a loop is refused at the door."""
    stranger_circuits: int = 4
    """Circuits that one peer without a record may have; all such together have a quarter of `circuits`."""

    drain_s: float = 10.0
    """After a signal: so long may circuits come to an end by themselves."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                raise ConfigError(f"{each.name} must be more than 0")
        if self.reservation_s < 240:
            raise ConfigError("reservation_s must be at least 240: clients renew two minutes before the end")


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayConfig:
    """Where a relay listens and is dialled."""

    port: int = 4002
    """TCP port on every address of the machine, IPv4 and IPv6."""
    hosts: tuple[str, ...] = EVERYWHERE
    """Addresses to listen on."""
    announce: tuple[str, ...] = ()
    """Multiaddrs under which it is dialled, without /p2p; empty: those of this machine's interfaces."""
    agent: str = "talkoot-relay"
    """What it calls itself when asked (identify)."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError("port must be 0 to 65535")


@dataclass(frozen=True, slots=True)
class SwarmName:
    """A swarm, and peers of it by which its directory is found (multiaddrs that end in /p2p/<peer id>)."""

    swarm: bytes
    bootstrap: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agent:
    """What the relay runs: the swarm's protocol version and talkoot's own."""

    protocol: int
    version: str
