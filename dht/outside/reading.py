"""What a follower of a swarm has seen: values for whoever shows them, with nothing of py-libp2p. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from talkoot.dht.outside.visits import Visit
from talkoot.dht.records import PeerRecord


@dataclass(frozen=True, slots=True)
class Followed:
    """One peer as it is seen from outside."""

    key: bytes
    record: PeerRecord
    heard_s: float
    """When this announcement first came, Unix seconds of our clock."""
    visit: Visit | None


@dataclass(frozen=True, slots=True)
class Reading:
    """The swarm at one moment."""

    at_s: float
    """Unix seconds of our clock."""
    peers: tuple[Followed, ...]
    """In the order of their keys."""
    nodes: int
    """Nodes of the directory that answered in the last look."""
    looks: int
    """Looks at the directory that are over."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Records that were refused so far, by reason."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Questions to nodes that failed so far, by reason."""
    restarts: int = 0
    """How often the thread had to begin again."""


NOTHING = Reading(0.0, (), 0, 0)
