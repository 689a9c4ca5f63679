"""What the node needs of a trainer; `process` has the real one, `talkoot.peer.simulation` another."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from talkoot.peer.trainer.protocol import (
    Adopted,
    Audited,
    AuditTask,
    Mode,
    Snapshot,
    TrainerEvent,
    TrainerSpec,
    Tuning,
)


class Trainer(Protocol):
    """A supervised trainer; see `talkoot.peer.trainer.process.TrainerProcess` for what each does."""

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        ...

    async def run(self) -> None:
        """Supervise until stopped."""
        ...

    async def adopt(
        self,
        outer: Path,
        *,
        round: int,  # noqa: A002 - the word of the design
        digest: str,
        global_step: int,
        mode: Mode,
        evaluate: int = 0,
    ) -> Adopted:
        """Work from other outer parameters."""
        ...

    async def snapshot(self) -> Snapshot:
        """The local parameters after the last finished step, or after the first one if that is being made."""
        ...

    async def audit(self, task: AuditTask) -> Audited:
        """What a slice of a contribution does to the loss."""
        ...

    def hold(self, on: bool) -> None:
        """Make no steps for now, or go on with them."""
        ...

    def tune(self, tuning: Tuning) -> None:
        """Go on with these."""
        ...

    async def stop(self, *, save: bool, timeout_s: float) -> None:
        """End it."""
        ...


MakeTrainer = Callable[[TrainerSpec, Callable[[TrainerEvent], None]], Trainer]
"""Builds a trainer that reports to the given function."""
