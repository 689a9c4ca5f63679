"""A trainer without a process: it makes steps on the loop's clock and moves its parameters at random.

Same methods and events as `talkoot.peer.trainer.process.TrainerProcess`. The parameters change only when
somebody looks at them, by a drift that grows with the steps made since.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from talkoot.peer import clock
from talkoot.peer.generation import map_file
from talkoot.peer.trainer.process import TrainerGone, TrainerRefused
from talkoot.peer.trainer.protocol import (
    Adopted,
    Audited,
    AuditTask,
    Mode,
    Progress,
    Ready,
    Snapshot,
    TrainerEvent,
    TrainerSpec,
    Tuning,
)

TOKENS_A_STEP = 100
REPORT_S = 1.0
BOUNDARY_S = 0.05
"""How long a request waits for the end of a step."""


class SimTrainer:
    """See the module."""

    def __init__(
        self,
        spec: TrainerSpec,
        on_event: Callable[[TrainerEvent], None],
        *,
        numel: int,
        speed: float,
        seed: int,
        start_s: float,
    ) -> None:
        """`speed` in inner steps a second; `start_s` passes before it is ready."""
        self.tokens_a_step = TOKENS_A_STEP
        self._folder = spec.state_dir
        self._on_event = on_event
        self._numel = numel
        self._speed = speed
        self._start_s = start_s
        self._random = np.random.Generator(np.random.Philox(seed))
        self._local = torch.zeros(numel)
        self._base = torch.zeros(numel)
        self._since = 0.0
        self._done = 0  # steps before `_since`, when the speed changed
        self._moved_at = 0.0
        self._total = 0
        self._snapshots = 0
        self._training = False
        self._ended = asyncio.Event()
        self._pid: int | None = None
        self._held = False

    @property
    def pid(self) -> int | None:
        """A number while it runs."""
        return self._pid

    async def run(self) -> None:
        """Report until stopped or cancelled."""
        self._pid = 1
        try:
            await asyncio.sleep(self._start_s)
            self._on_event(
                Ready(device="sim", micro_batch=1, corpus_hash=bytes(32), train_tokens=1, held_out_tokens=0)
            )
            while not self._ended.is_set():
                if self._training:
                    self._on_event(self._progress())
                await asyncio.sleep(REPORT_S)
        finally:
            self._pid = None

    def _steps(self) -> int:
        if not self._training:
            return 0
        return self._done + (0 if self._held else int((clock.now() - self._since) * self._speed))

    def _restart_steps(self, done: int) -> None:
        self._done, self._since = done, clock.now()

    def change_speed(self, speed: float) -> None:
        """Inner steps a second from now on."""
        self._restart_steps(self._steps())
        self._speed = speed

    def _progress(self) -> Progress:
        steps = self._steps()
        return Progress(
            steps=steps,
            tokens=steps * self.tokens_a_step,
            loss=None,
            steps_per_second=self._speed,
            inner_seconds=1.0,
            total_seconds=1.0,
            busy_seconds=1.0,
            steps_total=self._total + steps,
            tokens_total=(self._total + steps) * self.tokens_a_step,
            grad_norm=None,
            lr=0.0,
            micro_batch=1,
        )

    def _move(self) -> None:
        """Parameters drift with the steps made since they were last looked at."""
        seconds = clock.now() - self._moved_at
        self._moved_at = clock.now()
        drift = self._random.standard_normal(self._numel, dtype=np.float32)
        self._local -= torch.from_numpy(drift) * (0.001 * seconds * self._speed)

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
        await self._boundary()
        new = map_file(outer, self._numel).clone()
        if mode in ("rebase", "rewarm") and self._training:
            self._move()
            self._local = new + (self._local - self._base)
        else:
            self._local = new.clone()
            self._restart_steps(0)
            self._moved_at = clock.now()
        self._base = new
        self._training = True
        return Adopted(steps=self._steps(), eval_loss=None)

    async def snapshot(self) -> Snapshot:
        """See `TrainerProcess.snapshot`."""
        await self._boundary()
        self._move()
        path = self._folder / f"snapshot-{self._snapshots % 2}.bin"
        try:
            path.write_bytes(self._local.numpy().tobytes())
        except OSError as error:
            raise TrainerRefused(str(error), error.errno or 0) from error
        self._snapshots += 1
        steps = self._steps()
        seconds = steps / self._speed
        self._base = self._local.clone()
        self._total += steps
        self._restart_steps(0)
        return Snapshot(path=path, steps=steps, tokens=steps * self.tokens_a_step, loss=None, seconds=seconds)

    async def audit(self, task: AuditTask) -> Audited:
        """See `TrainerProcess.audit`. Nothing is learned here, so nothing helps and nothing hurts."""
        await self._boundary()
        return Audited(before=(), after=(), seconds=0.0, unfinished="data")

    def hold(self, on: bool) -> None:
        """See `TrainerProcess.hold`."""
        if self._training and on:
            self._move()
        self._restart_steps(self._steps())
        self._held, self._moved_at = on, clock.now()

    def tune(self, tuning: Tuning) -> None:
        """There is no device."""

    async def stop(self, *, save: bool, timeout_s: float) -> None:
        """End; nothing is saved."""
        self._ended.set()
        self._pid = None

    async def _boundary(self) -> None:
        await asyncio.sleep(BOUNDARY_S)
        if self._pid is None:
            raise TrainerGone("the trainer is not running")
