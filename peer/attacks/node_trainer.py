"""The trainer of a simulated node that trains the bench's model: the same steps as without nodes.

It makes the steps of a round, waits, and begins with the next ones when it is given the next state: so a
round of nodes is what a round of the bench without messages is, step by step.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from talkoot.peer.attacks.swarm import Worker
from talkoot.peer.simulation.sim_trainer import SimTrainer
from talkoot.peer.trainer.protocol import (
    Adopted,
    Audited,
    AuditTask,
    Mode,
    Progress,
    Snapshot,
    TrainerEvent,
    TrainerSpec,
)

STEPS_A_SECOND = 1.0
"""Of virtual time: rounds are short, but audits and what is told of proofs have time beside them."""


class ModelTrainer(SimTrainer):
    """See the module. Steps are computed when somebody looks at the parameters."""

    def __init__(
        self,
        spec: TrainerSpec,
        on_event: Callable[[TrainerEvent], None],
        *,
        worker: Worker,
        numel: int,
        steps: int,
        start_s: float,
    ) -> None:
        """`steps` are made in a round."""
        super().__init__(spec, on_event, numel=numel, speed=STEPS_A_SECOND, seed=0, start_s=start_s)
        self.tokens_a_step = worker.tokens_a_step
        self._worker = worker
        self._limit = steps
        self._handed_in = False
        """Whether the steps of this round are with the others."""
        self._computed = 0
        """Of the steps since the last snapshot."""
        self._first = 0
        """Number of the next step."""

    def _steps(self) -> int:
        return 0 if self._handed_in else min(self._limit, super()._steps())

    def _progress(self) -> Progress:
        """Without a speed: the others close no round by what they guess."""
        return msgspec.structs.replace(super()._progress(), steps_per_second=0.0)

    def _move(self) -> None:
        count = self._steps() - self._computed
        if count > 0:
            self._local = self._worker.train(self._local, first=self._first, count=count)
            self._computed += count
            self._first += count

    async def adopt(
        self,
        outer: Path,
        *,
        round: int,  # noqa: A002 - as in the real one
        digest: str,
        global_step: int,
        mode: Mode,
        evaluate: int = 0,
    ) -> Adopted:
        """See `TrainerProcess.adopt`."""
        adopted = await super().adopt(
            outer, round=round, digest=digest, global_step=global_step, mode=mode, evaluate=evaluate
        )
        if adopted.steps == 0:  # nothing of the round before is left to be handed in
            self._handed_in, self._computed = False, 0
            self._restart_steps(0)
        return adopted

    async def audit(self, task: AuditTask) -> Audited:
        """See `TrainerProcess.audit`."""
        await self._boundary()
        return self._worker.audit(task)

    async def snapshot(self) -> Snapshot:
        """See `TrainerProcess.snapshot`."""
        made = await super().snapshot()
        self._handed_in, self._computed = True, 0
        return made
