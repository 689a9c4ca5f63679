"""A node's trainer: loading while the outer state is on its way, at work as soon as there is one.

What it reports comes in here and goes to those who show it and count with it.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

from talkoot.dht.errors import ConfigError
from talkoot.peer.contributor import Contributor
from talkoot.peer.disk import KINDS, Disk
from talkoot.peer.duty import DutyCycle
from talkoot.peer.guest.words import State
from talkoot.peer.metrics import Metrics
from talkoot.peer.metrics.labels import Follow
from talkoot.peer.protocol import PROTOCOL_VERSION
from talkoot.peer.swarming import NodeFailed
from talkoot.peer.trainer.handle import MakeTrainer, Trainer
from talkoot.peer.trainer.protocol import (
    Crashed,
    Failed,
    Progress,
    Ready,
    TrainerEvent,
    TrainerSpec,
    Tuning,
)

log = logging.getLogger("talkoot.node")

Phase = Literal["loading", "ready", "training"]
"""Of a trainer: `ready` means loaded, and waiting for a state, or for the swarm to begin."""


LOADING = "loading the model and data"
"""What a trainer does at first."""

REST_S = 30.0
"""How long a trainer may take to save what it has worked, when it is to rest."""

BUSY_S = 30.0
"""Pause before the next try to have what others have."""

WAITED_FOR = {errno.EBUSY: "the GPU is in use by another node", errno.ENOMEM: "memory is short"}
"""By error: what others may give back."""


class Training:
    """The trainer of one node, if it has one. `begin`, then `attach`, then `take_part`."""

    def __init__(
        self,
        make: MakeTrainer,
        metrics: Metrics,
        disk: Disk,
        enter: Callable[[State, str], None],
        may_begin: Callable[[], Awaitable[None]],
    ) -> None:
        """`enter` shows a state with its detail; `may_begin` returns once training can begin at all."""
        self._make = make
        self._metrics = metrics
        self._disk = disk
        self._enter = enter
        self._may_begin = may_begin
        self.trainer: Trainer | None = None
        self.ready: Ready | None = None
        self.device = ""
        """Of the last trainer that was ready."""
        self.steps_before = self.tokens_before = 0
        """Of trainers that have ended."""
        self._contributor: Contributor | None = None
        self._eval_windows = 0
        self._takes_part = False
        self._why = LOADING
        self._failed: Failed | None = None
        self._was_ready = False
        self._ends = False
        self._spec: TrainerSpec | None = None
        self._resting = False
        self._lives = 0
        self._task: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._starting: asyncio.Task[None] | None = None
        self._energy = Follow()
        self._duty = DutyCycle()
        self._tuning = Tuning()

    @property
    def pid(self) -> int | None:
        """Of the trainer's process while it runs."""
        return self.trainer.pid if self.trainer is not None else None

    @property
    def phase(self) -> Phase | None:
        """How far the trainer is; None where there is none."""
        if self.trainer is None:
            return None
        if self.ready is None:
            return "loading"
        return "training" if self._contributor is not None and self._contributor.begun else "ready"

    # -- its life ------------------------------------------------------------------------------------

    def begin(self, spec: TrainerSpec, group: asyncio.TaskGroup) -> None:
        """Let it load what `spec` names, in a task of `group`, which ends with NodeFailed if it cannot.

        While it rests: not before it goes on.
        """
        self._group, self._spec = group, spec
        if not self._resting:
            self._launch(spec, group)

    def _launch(self, spec: TrainerSpec, group: asyncio.TaskGroup) -> None:
        """A process of its own, whose reports count until the next one."""
        self._lives = life = self._lives + 1

        def heard(event: TrainerEvent) -> None:
            if life == self._lives:
                self._heard(event)

        self.trainer = self._make(spec, heard)
        self.trainer.tune(self._tuning)
        self.trainer.hold(self._disk.fault is not None)
        if self._contributor is not None:
            self._contributor.trainer = self.trainer
        self._task = group.create_task(self._run(self.trainer))

    async def rest(self) -> None:
        """End the process, and begin none until `go_on`; on return its memory is free. What it has worked is
        saved for the next one."""
        self._resting = True
        trainer, task = self.trainer, self._task
        if trainer is None or task is None:
            return
        self._begin_no_more()
        await trainer.stop(save=True, timeout_s=REST_S)
        task.cancel()  # where it waited to start the process again
        await asyncio.wait([task])
        self.ended()
        self._lives += 1
        self.trainer = self._task = None
        if self._contributor is not None:
            self._contributor.trainer = None
        self._why = LOADING  # first of all, when it goes on
        self._show()

    def go_on(self) -> None:
        """A process loads again, if one is wanted and none is there."""
        self._resting = False
        if self._spec is not None and self._group is not None and self.trainer is None:
            self._why = LOADING
            self._launch(self._spec, self._group)
            self._show()

    async def _run(self, trainer: Trainer) -> None:
        while True:
            self._failed = None
            await trainer.run()
            if self._failed is None:
                return
            self._give_up_or_wait(self._failed)
            await asyncio.sleep(BUSY_S)
            if self._ends:
                return

    def _give_up_or_wait(self, failed: Failed) -> None:
        """A GPU that another node took while ours rested, or memory that others took, is waited for by a node
        that has trained. Raises NodeFailed, ConfigError."""
        if failed.errno not in WAITED_FOR or not self._was_ready:
            raise (ConfigError if failed.errno == errno.EBUSY else NodeFailed)(failed.reason)
        log.warning("%s; next try in %.0f s", failed.reason, BUSY_S)
        self.ended()
        self._why = WAITED_FOR[failed.errno]
        self._show()

    def attach(self, contributor: Contributor, eval_windows: int) -> None:
        """There is an outer state: work from it, now or once all is loaded. Again: nothing changes."""
        if self._spec is None or self._contributor is not None:
            return
        self._contributor, self._eval_windows = contributor, eval_windows
        contributor.trainer, contributor.ready = self.trainer, self.ready
        if self.ready is not None:
            self._start()

    def take_part(self) -> None:
        """The node follows rounds from here on: its state shows how far the trainer is."""
        self._takes_part = True
        if self._spec is not None:
            self._show()

    def hold(self, on: bool) -> None:
        """Make no steps for now, or go on with them."""
        self._rests()
        if self.trainer is not None:
            self.trainer.hold(on)

    def tune(self, tuning: Tuning) -> None:
        """Go on, or begin, with these."""
        if tuning.power != self._tuning.power:
            self._duty.begin_again()
        self._tuning = tuning
        self._metrics.duty_cycle_limit.set(tuning.power)
        if self.trainer is not None:
            self.trainer.tune(tuning)

    @property
    def duty_cycle(self) -> float | None:
        """Share of the last minutes in which the trainer worked; None until there is one."""
        return self._duty.share

    async def stop(self, *, timeout_s: float) -> None:
        """End it in order; what it has worked is saved."""
        self._ends = True
        if self.trainer is not None:
            await self.trainer.stop(save=True, timeout_s=timeout_s)

    def go_on_from(self, before: "Training") -> None:
        """Count on from where the training of a node that ran in the same process has ended."""
        self.steps_before, self.tokens_before = before.steps_before, before.tokens_before

    def ended(self) -> None:
        """The process is gone: what it counted stays."""
        self.ready = None
        self._energy = Follow()
        self._rests()
        self._begin_no_more()
        if self._contributor is None:
            return
        last = self._contributor.progress
        if last is not None:
            self.steps_before += last.steps_total
            self.tokens_before += last.tokens_total
        self._contributor.trainer_ended()

    def _begin_no_more(self) -> None:
        if self._starting is not None:
            self._starting.cancel()

    def _rests(self) -> None:
        """It makes no steps until it says otherwise."""
        self._duty = DutyCycle()
        self._metrics.duty_cycle.set(0)

    def _show(self) -> None:
        if self._takes_part:
            if self.phase == "training":
                self._enter("training", "")
            else:
                self._enter("starting", self._why)

    # -- what it reports -----------------------------------------------------------------------------

    def _heard(self, event: TrainerEvent) -> None:
        match event:
            case Ready():
                self._loaded(event)
            case Progress():
                self._count(event)
            case Crashed():
                self._crashed(event)
            case Failed():
                self._failed = event

    def _loaded(self, event: Ready) -> None:
        log.info(
            "trainer ready on %s, micro-batch %d, %d training tokens%s",
            event.device,
            event.micro_batch,
            event.train_tokens,
            "; it begins once the outer state is here" if self._contributor is None else "",
        )
        if event.notice:
            log.info("%s", event.notice)
        self.ready, self._was_ready = event, True
        self.device = event.device
        self._disk.accepted("trainer")
        self._metrics.build(backend=event.device, protocol=PROTOCOL_VERSION)
        if self._contributor is not None:
            self._contributor.ready = event
            self._start()

    def _crashed(self, event: Crashed) -> None:
        self.ended()
        self._metrics.restarts.inc("trainer")
        self._why = "trainer restarts"
        self._show()
        if event.errno in KINDS:
            self._disk.refused("trainer", KINDS[event.errno], event.reason)
        else:
            self._disk.accepted("trainer")
            log.warning("trainer crashed: %s", event.reason)

    def _count(self, event: Progress) -> None:
        assert self._contributor is not None
        before = self._contributor.progress
        steps, tokens = (before.steps_total, before.tokens_total) if before else (0, 0)
        self._metrics.inner_steps.inc(max(0, event.steps_total - steps))
        self._metrics.trained_tokens.inc(max(0, event.tokens_total - tokens))
        if event.loss is not None:
            self._metrics.training_loss.set(event.loss)
        if event.grad_norm is not None:
            self._metrics.gradient_norm.set(event.grad_norm)
        self._metrics.learning_rate.set(event.lr)
        self._metrics.duty_cycle.set(self._duty.after(event.busy_seconds, event.total_seconds))
        for reading in event.gpus:
            self._metrics.follow_gpu(reading, self._energy)
        self._contributor.gpus = event.gpus or self._contributor.gpus
        if event.total_seconds > 0:
            self._metrics.inner_time.set(event.inner_seconds / event.total_seconds)
        self._contributor.progress = event

    def _start(self) -> None:
        assert self._group is not None
        self._starting = self._group.create_task(self._start_training())

    async def _start_training(self) -> None:
        """Let a fresh trainer work from the state that we hold, once the swarm has begun."""
        assert self._contributor is not None
        await self._may_begin()
        await self._contributor.followed.wait()
        await self._contributor.follow("start", self._eval_windows)
        self._show()
