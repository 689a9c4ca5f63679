"""Where a peer's committed outer parameters are, without importing torch."""

from dataclasses import dataclass
from pathlib import Path

from talkoot.peer.head import read_head
from talkoot.peer.statedir import StateDir

THETA = "theta.f32"
"""Name of the parameters in a generation (`talkoot.peer.generation.THETA`, which needs torch)."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The head of a peer's outer state."""

    round: int
    path: Path
    """Flat little-endian fp32 parameters; unchanged until the second commit from now."""


def committed_parameters(state_dir: Path) -> Committed | None:
    """The head, or None where nothing was committed. Raises StoreCorruptError, OSError."""
    outer = StateDir(state_dir).outer
    head = read_head(outer)
    return None if head is None else Committed(head.round, outer / head.generation / THETA)
