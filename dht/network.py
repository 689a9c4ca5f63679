"""What the layers above see of the network; `host` (p2pd) and `memory` (the twin) implement it.

Call order: construct, `serve` each protocol, then `run` in the daemon's TaskGroup; `dial`, `publish` and
the rest are valid once `started` was called. Both implementations pass the same conformance tests.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from talkoot.dht.company import Company
from talkoot.dht.multiaddr import Address
from talkoot.dht.pacing import Pacing
from talkoot.dht.paths import Paths
from talkoot.dht.records import PeerRecord
from talkoot.dht.relays import Relays

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes. Not copied: leave them unchanged until the call that takes them returns."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: a small header (msgpack of the layer above) and a bulk payload."""

    header: bytes
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolSpec:
    """A protocol and its limits; both are known before the first byte is read."""

    name: str
    """Name on the wire, with a version: `talkoot/round/1`."""
    max_header: int
    """Longest header that is accepted, in bytes."""
    max_payload: int
    """Longest payload of one frame that is accepted, in bytes."""
    max_channels_per_peer: int = 4
    """Channels of this protocol that one peer may have open with us; more are closed and counted."""
    max_request: int | None = None
    """Longest payload that is accepted from the side that opened the channel; None: `max_payload`."""
    urgent: bool = False
    """Small messages that others wait for: they pass before all else where a limit holds traffic back."""

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= 64 and self.name.isascii() and self.name.isprintable()):
            raise ValueError("name must be 1 to 64 printable ASCII characters")
        for name in ("max_header", "max_payload"):
            if not 0 <= getattr(self, name) < 2**31:
                raise ValueError(f"{name} must be 0 to 2147483647")
        if self.max_channels_per_peer < 1:
            raise ValueError("max_channels_per_peer must be 1 or more")

    def takes(self, *, accepted: bool) -> int:
        """Longest payload that this side takes, which accepted the channel or opened it."""
        return self.max_payload if self.max_request is None or not accepted else self.max_request


class Channel(ABC):
    """Frames in both directions between two peers; ordered, encrypted, authenticated.

    One sender and one receiver at a time. There is no half-close: a side that is done sends what says so
    (a message of its own), and `close` ends both directions.
    """

    peer: bytes
    """Authenticated public key of the other side."""
    protocol: str
    address: str | None = None
    """Of a channel that we accepted: where the other end of its connection is, /ip4/.../tcp/...; None where
    that is not known, as behind a relay."""
    relay: bytes | None = None
    """The relay that it goes through (empty: one without a key that we can name); None: none."""
    bytes_sent: int
    """Bytes of frames, prefixes included, that were given to the connection."""
    bytes_received: int
    """Bytes of whole frames, prefixes included, that were received."""

    @property
    def bytes_arrived(self) -> int:
        """The same with what has come of a frame that is not whole yet, where the channel knows it."""
        return self.bytes_received

    @abstractmethod
    async def send(self, header: bytes, payload: Buffer = b"", *, timeout_s: float) -> None:
        """Send one frame; returns when the connection has taken it, not when the peer has read it.

        Raises TimeoutError when the peer does not read fast enough (the channel is then unusable, since part
        of the frame may be under way: close it), ChannelClosed when it is over, ValueError for a frame
        above the protocol's limits.
        """

    @abstractmethod
    async def receive(self, *, timeout_s: float | None = None) -> Frame:
        """The next frame; its payload belongs to the caller.

        Raises ChannelClosed (`ended` after an orderly close, `lost` after anything else), RemoteError
        (`oversized`, `malformed`), TimeoutError (nothing is lost: receive again).
        """

    @abstractmethod
    async def close(self) -> None:
        """End the channel in band and close it. Idempotent; never raises for remote faults."""


Handler: TypeAlias = Callable[[Channel], Awaitable[None]]
"""Serves one accepted channel, which is closed when it returns.

A RemoteError or TimeoutError that it raises is counted and ends this channel; anything else ends `run`.
"""


@dataclass(slots=True)
class Traffic:
    """Bytes in all channels that there ever were, by protocol name; frames with their prefixes."""

    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)

    @property
    def bytes_sent(self) -> int:
        """Sum over the protocols."""
        return sum(self.sent.values())

    @property
    def bytes_received(self) -> int:
        """Sum over the protocols."""
        return sum(self.received.values())


Source: TypeAlias = Literal["wire", "record", "state", "round", "metrics"]
"""Where a peer was at fault: frames and channels; records that it stored; state that it gave; a round;
metrics that it gave."""


@dataclass(slots=True)
class Events:
    """What happened so far, for logs and metrics. Keys are words of closed lists, never peers."""

    restarts: Counter[str] = field(default_factory=Counter)
    """Parts that died and were started again, by part: `p2pd`, `directory`."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Channels, frames and records of other peers that were refused, by reason (`errors.REASONS`)."""
    connections_cut: Counter[str] = field(default_factory=Counter)
    """Connections of peers that were closed, by the limit: `peer`, `prefix`, `node`, or `banned`,
    `score` (`disconnect`), `unauthenticated`."""
    dials: int = 0
    """Channels that this node tried to open."""
    dial_failures: Counter[str] = field(default_factory=Counter)
    """Those that failed, by reason."""
    clock_offset_s: float | None = None
    """How far the peers' clocks are ahead of ours (their median); None: not measured."""
    warning: str = ""
    """One line for the operator about a lasting condition (clock, no bootstrap peer), or empty."""
    on_offence: Callable[[bytes, Source, str], None] = lambda _peer, _source, _reason: None
    """Told of whatever was refused of a peer that is known: its key, and why."""

    def reject(self, reason: str, peer: bytes | None = None, source: Source = "wire") -> None:
        """Count what was refused; `peer` is who is answerable for it, if anybody is."""
        self.rejected[reason] += 1
        if peer is not None:
            self.on_offence(peer, source, reason)


class Directory(ABC):
    """Where the peers of the swarm announce themselves: signed records that expire."""

    @abstractmethod
    async def publish(self, record: PeerRecord, *, ttl_s: float) -> None:
        """Announce `record` for `ttl_s` seconds (at most `records.MAX_TTL_S`), replacing the one before.

        Bounded in time. Whether other nodes took it shows in `peers` and `Network.events`: an unreachable
        directory is no error, the next announcement tries again. Raises ValueError if the record is not
        this node's or not this swarm's.
        """

    @abstractmethod
    async def peers(self) -> dict[bytes, PeerRecord]:
        """Verified, unexpired records by key, our own included; bounded in time; no remote fault raises."""


class Network(ABC):
    """One node's view of the network."""

    key: bytes
    """Our public key."""
    directory: Directory
    addresses: tuple[str, ...]
    """Our announced multiaddrs, each with /p2p/<peer id>; empty before `started`."""
    places: tuple[Address, ...]
    """Our own addresses without those through relays, whether they are announced or not."""
    traffic: Traffic
    pacing: Pacing
    """The limits of all traffic together, and what it comes to."""
    events: Events
    company: Company
    """Whom we chose, and whom we refuse."""
    relays: Relays
    """At which relays this node can be reached. Whether it should is set by the layer above."""
    paths: Paths
    """By which way each peer is reached."""

    @abstractmethod
    def serve(self, spec: ProtocolSpec, handler: Handler) -> None:
        """Accept channels of a protocol; one task per channel. Only before `run`."""

    @abstractmethod
    async def run(self, *, started: Callable[[], None]) -> None:
        """Be on the network until cancelled; calls `started` once, when channels and directory work.

        Raises ConfigError for what only the operator can change (a port in use, say).
        """

    @abstractmethod
    async def dial(self, peer: bytes, protocol: ProtocolSpec, *, timeout_s: float) -> Channel:
        """Open a channel to a peer, found by added addresses and by the directory.

        Raises RemoteError (`unreachable`, `unsupported`, `busy`), TimeoutError, ValueError for ourselves.
        """

    @abstractmethod
    def ban(self, peers: frozenset[bytes]) -> None:
        """Refuse these peers from now on, and no others: no channel is opened or accepted, what is open is
        closed, their announcements are not shown."""

    @abstractmethod
    def rest(self, resting: bool) -> None:
        """Leave the network until further notice, or come back to it. Meanwhile nobody is reached or reaches
        us and nothing is sent; what was open is lost."""

    @abstractmethod
    def disconnect(self, peer: bytes) -> None:
        """Close what is open to this peer, soon. It may come again."""

    @abstractmethod
    async def add_addresses(self, peer: bytes, addresses: Sequence[str]) -> None:
        """Remember where a peer may be reached: multiaddrs with or without the /p2p suffix.

        Ill-formed ones and those of other peers are ignored and counted.
        """
