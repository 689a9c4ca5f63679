"""How a peer that was behind caught up, and why so."""

from dataclasses import dataclass
from typing import Literal

Way = Literal["replay", "snapshot"]

REASONS = {
    "cheaper": "the records are smaller than a snapshot",
    "dearer": "a snapshot is smaller than the records",
    "left_branch": "our own branch was left, so its state is not the one to replay from",
    "no_record": "nobody has all the records",
    "bad_record": "a record was not what its certificate says",
    "not_finite": "replaying came to a number that is none",
    "digest": "replaying came to another digest",
}
"""Why a way was chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How a peer that was behind caught up, and why."""

    way: Way
    reason: str
    """A key of `REASONS`."""
    rounds: int
    """That were missing."""
    replay_bytes: int | None
    """Of the records that are not here yet; None where it was not counted to the end."""
    snapshot_bytes: int

    def __str__(self) -> str:
        records = "?" if self.replay_bytes is None else f"{self.replay_bytes / 1e6:,.2f}"
        figures = f"records {records} MB, snapshot {self.snapshot_bytes / 1e6:,.2f} MB"
        return f"{self.rounds} rounds by {self.way} ({figures}): {REASONS[self.reason]}"
