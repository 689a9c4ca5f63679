"""Which swarm a start of the daemon is for."""

from dataclasses import dataclass
from pathlib import Path

from talkoot.peer.invite import Anchor
from talkoot.peer.manifest import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Membership:
    """Which swarm, and how we may join it."""

    swarm: bytes
    manifest: Manifest | None
    """None: ask peers for it."""
    bootstrap: tuple[str, ...]
    """Multiaddrs with /p2p/ of peers to ask first."""
    anchor: Anchor | None
    """What an invite vouches for."""
    relays: tuple[str, ...] = ()
    """Multiaddrs with /p2p/ of relays that an invite names."""
    admission: bytes
    """Our proof of invitation, or empty."""
    data_base: Path | None
    """Folder that the manifest's data paths start from; None: they are somebody else's, and not read."""
