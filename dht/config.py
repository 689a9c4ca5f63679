"""What the operator may set about the network, and presets for the usual places."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from talkoot.dht import limits
from talkoot.dht.errors import ConfigError
from talkoot.dht.multiaddr import parse_address


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """How a node is on the network. `home`, `lan` and `test` are good starting points.

    Raises ConfigError naming the field and its bound.
    """

    listen: tuple[str, ...] = ("0.0.0.0", "::")  # noqa: S104 - a peer is there to be reached
    """IP addresses to listen on; TCP only, because p2pd's QUIC loses the ends of streams."""
    port: int = 0
    """TCP port to listen on; 0: the one that it had last, or any free one."""
    announce: tuple[str, ...] = ()
    """Multiaddrs to announce in place of the ones found: /ip4/203.0.113.7/tcp/4001, port included."""
    bootstrap: tuple[str, ...] = ()
    """Multiaddrs of peers to meet first, each ending in /p2p/<peer id>."""
    nat_port_map: bool = True
    """Ask the home router for an open port (UPnP, NAT-PMP)."""
    relay: bool = True
    """Make and accept connections through relays, and punch holes through them."""
    relays: tuple[str, ...] = ()
    """Relays to be reached through first of all when nobody can dial us."""
    connections_low: int = limits.LOW_CONNECTIONS
    """Connections that p2pd keeps when it trims."""
    connections_high: int = limits.MAX_CONNECTIONS
    """Connections above which p2pd trims the idle ones; a quarter of them are no strangers'."""
    connections_per_prefix: int = limits.CONNECTIONS_PER_PREFIX
    """Connections of strangers from one IPv4 /24 or IPv6 /48."""
    max_files: int = limits.P2PD_FILES
    """Open files that p2pd may have: two for each connection and channel."""
    memory_bytes: int = limits.P2PD_MEMORY_BYTES
    """Soft memory limit of p2pd: its garbage collector works harder from here on."""
    max_channels: int = limits.MAX_CHANNELS
    """Accepted channels of all peers and protocols together."""
    ping_bootstrap_s: float = 45.0
    """Pause between two pings of the bootstrap peers: a restarted one must not split the swarm."""
    call_timeout_s: float = 5.0
    """Longest wait for one answer of p2pd."""
    start_timeout_s: float = 20.0
    """Longest wait for p2pd to start."""
    directory_timeout_s: float = 6.0
    """Longest time for one announcement or one look at the directory."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError("port must be 0 to 65535")
        if not 1 <= self.connections_low <= self.connections_high <= 65536:
            raise ConfigError("connections_low must be 1 to connections_high, that at most 65536")
        for name in ("ping_bootstrap_s", "call_timeout_s", "start_timeout_s", "directory_timeout_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise ConfigError(f"{name} must be above 0, at most 3600")
        self._check_addresses()

    def _check_addresses(self) -> None:
        for text in self.listen:
            try:
                ip_address(text)
            except ValueError as error:
                raise ConfigError(f"listen: {text!r} is no IP address such as 0.0.0.0 or ::") from error
        for name in ("announce", "bootstrap", "relays"):
            for text in getattr(self, name):
                try:
                    address = parse_address(text)
                except ValueError as error:
                    raise ConfigError(f"{name}: {text!r} is not an address of a peer ({error})") from error
                if name != "announce" and address.peer is None:
                    raise ConfigError(f"{name}: {text!r} does not end in /p2p/<peer id>")
                if address.port == 0:
                    raise ConfigError(f"{name}: {text!r} needs a port other than 0")

    @classmethod
    def home(cls, **changes: object) -> Self:
        """Behind a home router: find a way through it."""
        return cls(**changes)  # type: ignore[arg-type]

    @classmethod
    def server(cls, **changes: object) -> Self:
        """With a public address: there is no router to ask for a port."""
        return cls(**({"nat_port_map": False} | changes))  # type: ignore[arg-type]

    @classmethod
    def lan(cls, **changes: object) -> Self:
        """A local network, where all have one prefix: nothing goes out to find relays or open ports."""
        values: dict[str, object] = {"nat_port_map": False, "relay": False}
        values["connections_per_prefix"] = limits.MAX_CONNECTIONS
        return cls(**(values | changes))  # type: ignore[arg-type]

    @classmethod
    def test(cls, **changes: object) -> Self:
        """Loopback and nothing else."""
        values: dict[str, object] = {"listen": ("127.0.0.1",), "ping_bootstrap_s": 2.0}
        values |= {"nat_port_map": False, "relay": False}
        values["connections_per_prefix"] = limits.MAX_CONNECTIONS
        return cls(**(values | changes))  # type: ignore[arg-type]
