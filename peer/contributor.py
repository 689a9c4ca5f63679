"""Our share of the work: local steps turned into contributions, and a trainer that follows the rounds.

What could not be counted yet is the business of `talkoot.peer.residual`.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec
import torch

from talkoot.averaging.contribution import LocalContribution, chunk_error
from talkoot.averaging.signing import Signer
from talkoot.compression.codec import CodecError
from talkoot.peer.disk import KINDS, Disk
from talkoot.peer.generation import map_file
from talkoot.peer.holdings import Holdings
from talkoot.peer.residual import Residual
from talkoot.peer.statedir import StateDir
from talkoot.peer.trainer.handle import Trainer
from talkoot.peer.trainer.process import TrainerGone, TrainerRefused
from talkoot.peer.trainer.protocol import Adopted, Gpu, Mode, Progress, Ready, Snapshot
from talkoot.peer.uplink import UploadMeter

log = logging.getLogger("talkoot.work")

T = TypeVar("T")


async def _asked(request: Callable[[], Awaitable[T]]) -> T:
    """Ask the trainer; where the disk is why it refuses, that is an OSError."""
    try:
        return await request()
    except TrainerRefused as error:
        if error.errno in KINDS:
            raise OSError(error.errno, os.strerror(error.errno)) from error
        raise


class Contributor:
    """Turns local steps into contributions. Methods belong to the event loop; heavy work runs in threads."""

    def __init__(
        self,
        paths: StateDir,
        holdings: Holdings,
        signer: Signer,
        admission: bytes,
        uplink: UploadMeter,
        disk: Disk,
    ) -> None:
        """Call `take_up` next. Raises OSError when the disk cannot hold the residual."""
        self._uplink = uplink
        self._disk = disk
        self._holdings = holdings
        self._signer = signer
        self._admission = admission
        self.residual = Residual(paths, holdings.rules, take_up=False)
        self._books = asyncio.Lock()  # one call of the residual at a time
        self.trainer: Trainer | None = None
        self.progress: Progress | None = None
        self.ready: Ready | None = None
        self.begun = False
        """Whether this process of the trainer was given an outer state to start from."""
        self.eval_loss: float | None = None
        self.last_snapshot: Snapshot | None = None
        self.codec_error: float | None = None
        """Of the last contribution that was encoded."""
        self.residual_norm: float | None = None
        """L2 norm of what no round has counted, as of the last one; None before the first."""
        self.gpus: tuple[Gpu, ...] = ()
        """As the trainer last read them."""
        self._settled = asyncio.Event()
        self._settled.set()
        self._following = asyncio.Lock()  # the trainer moves in the order of the states
        self._taken_up = False

    async def take_up(self) -> None:
        """Go on with the residual that the last process saved."""
        await self._disk.run(self.residual.take_up)
        self._taken_up = True
        await self._disk.run(self.residual.follow, self._holdings.head, self._holdings.certificate_of)

    async def save(self) -> None:
        """Orderly stop: keep the residual for the next start. Raises OSError."""
        async with self._books:
            if self._taken_up:  # else what the stop before has kept stays as it is
                await asyncio.to_thread(self.residual.save)

    @property
    def pending(self) -> bool:
        """Whether the running round has a contribution of ours."""
        return self.residual.made_for(self._holdings.digest) is not None

    @property
    def encoding(self) -> bool:
        """Whether one is being made."""
        return self._books.locked()

    @property
    def training(self) -> bool:
        """Whether a trainer is at work on the current outer state."""
        return self.trainer is not None and self.trainer.pid is not None and self.ready is not None

    @property
    def steps(self) -> int:
        """Inner steps since the last snapshot, as last reported; 0 until the trainer follows a new state."""
        return self.progress.steps if self.progress and self._settled.is_set() else 0

    # -- contributing --------------------------------------------------------------------------------

    async def encode(self) -> LocalContribution | None:
        """Snapshot and encode; the same contribution again when there is one for this outer state.

        None when there is too little to contribute, or when one was sent of which nothing is known any more.
        """
        while True:
            await self._settled.wait()
            async with self._books:
                if self._settled.is_set():
                    return await self._encode_once()

    async def _encode_once(self) -> LocalContribution | None:
        """What is returned will be found again after a kill."""
        local = await self._made_or_make()
        if not self.residual.saved:
            await self._disk.run(self.residual.save)
        if local is not None and not self._holdings.contributed():
            await self._disk.run(self._holdings.remember_contribution)
        return local

    async def _made_or_make(self) -> LocalContribution | None:
        made = self.residual.made_for(self._holdings.digest)
        if made is not None:
            return await self._disk.run(self.residual.log.local, made)
        if self._holdings.contributed():
            return None
        if self.trainer is None or self.steps * 8 < self._holdings.rules.inner_steps:
            return None
        try:
            snapshot = await self._disk.until_done(partial(_asked, self.trainer.snapshot))
        except (TrainerGone, TrainerRefused) as error:
            log.warning("no contribution: %s", error)
            return None
        self.last_snapshot = snapshot
        local_P = await self._disk.run(map_file, snapshot.path, self._holdings.rules.numel)
        try:
            return await asyncio.to_thread(self._encode, snapshot, local_P)
        except CodecError as error:
            log.error("this round's work is thrown away: %s", error)
            return None

    def _encode(self, snapshot: Snapshot, local_P: torch.Tensor) -> LocalContribution | None:
        holdings = self._holdings
        voter = self._signer.key in holdings.ledger.voters
        local = self.residual.encode(
            holdings.store.theta,
            local_P,
            steps=snapshot.steps,
            tokens=snapshot.tokens,
            ledger=holdings.ledger,
            prior=holdings.digest,
            admission=b"" if voter else self._admission,
            signer=self._signer,
            upload=self._uplink.rate,
            seconds=snapshot.seconds,
        )
        if local is not None:
            self.codec_error = chunk_error(
                self.residual.carry_P,
                local.chunks,
                holdings.ledger.round % holdings.rules.num_chunks,
                rules=holdings.rules,
            )
        return local

    # -- following the outer state -------------------------------------------------------------------

    @property
    def followed(self) -> asyncio.Event:
        """Set while the trainer works from the current outer state (or there is no trainer)."""
        return self._settled

    async def begin_change(self) -> None:
        """The outer state is about to change: from here on nothing is encoded until `follow` is through."""
        self._settled.clear()
        async with self._books:
            pass  # what was being encoded is

    def end_change(self) -> None:
        """The outer state did not change after all."""
        self._settled.set()

    async def settle(self, prior: bytes) -> bool | None:
        """Settle the books by the chain that we hold now.

        Returns whether it counts our contribution for the outer state `prior`; None when there was none.
        """
        async with self._books:
            made = self.residual.made_for(prior)
            await self._disk.run(self._follow_chain)
        return made.counted if made is not None else None

    def _follow_chain(self) -> None:
        self.residual.follow(self._holdings.head, self._holdings.certificate_of)
        self.residual_norm = float(torch.linalg.vector_norm(self.residual.carry_P))

    def trainer_ended(self) -> None:
        """Its process is gone; the next one says when it is ready."""
        self.ready = self.progress = None
        self.gpus = ()
        self.begun = False

    async def follow(self, mode: Mode, evaluate: int) -> Adopted | None:
        """Let the trainer work from the current outer state; None when there is no trainer now.

        `start` begins a process's work; before that there is nothing to be moved by the other modes.
        """
        try:
            async with self._following:
                return await self._move_trainer(mode, evaluate)
        finally:
            if mode != "start":
                self._settled.set()

    async def _move_trainer(self, mode: Mode, evaluate: int) -> Adopted | None:
        if not self.training or not (self.begun or mode == "start"):
            return None
        try:
            adopt = partial(self._adopt, mode, evaluate)
            adopted = await self._disk.until_done(partial(_asked, adopt))
        except (TrainerGone, TrainerRefused) as error:
            log.warning("trainer did not take up round %d: %s", self._holdings.ledger.round, error)
            return None
        finally:
            self.begun = self.ready is not None
        self.eval_loss = adopted.eval_loss if adopted.eval_loss is not None else self.eval_loss
        if self.progress is not None:
            self.progress = msgspec.structs.replace(self.progress, steps=adopted.steps)
        return adopted

    async def _adopt(self, mode: Mode, evaluate: int) -> Adopted:
        """Ask for it once, from the state of now: a disk may have refused the one before."""
        assert self.trainer is not None
        ledger = self._holdings.ledger
        return await self.trainer.adopt(
            self._holdings.theta_path,
            round=ledger.round,
            digest=self._holdings.digest.hex(),
            global_step=ledger.global_step,
            mode=mode,
            evaluate=evaluate,
        )
