"""What a relay counted and has now; the metrics are made of it. Plain numbers, no peers."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Counts since the start, and levels that the service keeps up to date."""

    accepted: int = 0
    """Connections that were made, handshake and all."""
    shut: Counter[str] = field(default_factory=Counter)
    """Connections closed at the door, by reason (`door.SHUT`)."""
    failed: Counter[str] = field(default_factory=Counter)
    """Handshakes and streams that failed, by reason (`dht.errors.REASONS`)."""
    reserved: int = 0
    """Reservations made."""
    renewed: int = 0
    connected: int = 0
    """Circuits made."""
    refused: Counter[str] = field(default_factory=Counter)
    """Reservations and circuits that were refused, by reason (`book.REFUSALS`)."""
    ended: Counter[str] = field(default_factory=Counter)
    """Circuits that are over, by how they ended (`book.ENDS`)."""
    passed_bytes: int = 0
    """Bytes passed on, each counted once."""
    looks: int = 0
    """Looks at the directories."""
    announced: int = 0
    """Announcements that some node keeps."""

    connections: int = 0
    handshakes: int = 0
    reservations: int = 0
    circuits: int = 0
    members: int = 0
    """Identities with a valid record now."""
    draining: bool = False
    started_s: float = 0.0
    """By `time.monotonic`."""
