"""Our share of the work: the trainer's local steps, what is to be sent, and what could not be sent yet.

`carry_P` is the residual: what earlier rounds left over, and while a round runs, all that our contribution
was made of. It is settled when the round's certificate says whether the contribution was counted.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.contribution import (
    LocalContribution,
    chunk_error,
    encode_delta,
    settle,
    sign_contribution,
    step_scale,
)
from talkoot.averaging.signing import Signer
from talkoot.compression.codec import CodecError
from talkoot.peer.files import atomic_write
from talkoot.peer.generation import map_file
from talkoot.peer.holdings import Holdings
from talkoot.peer.statedir import StateDir
from talkoot.peer.trainer.handle import Trainer
from talkoot.peer.trainer.process import TrainerGone, TrainerRefused
from talkoot.peer.trainer.protocol import Adopted, Mode, Progress, Ready, Snapshot

log = logging.getLogger("talkoot.work")


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    """What an orderly stop writes down about `carry_P`."""

    digest: str
    """Outer state that it belongs to."""
    carried: int
    pending_root: str
    """Root of a contribution that was sent and not settled, or empty."""


@dataclass(slots=True)
class Pending:
    """A contribution of the running round that is not settled."""

    root: bytes
    local: LocalContribution | None
    """None after a restart: its chunks are gone, its fate is not."""


class Contributor:
    """Turns local steps into contributions. Methods belong to the event loop; heavy work runs in threads."""

    def __init__(
        self, paths: StateDir, holdings: Holdings, signer: Signer, admission: bytes, numel: int
    ) -> None:
        """Takes up the residual of an orderly stop. Raises OSError when the disk cannot hold it."""
        self._holdings = holdings
        self._signer = signer
        self._admission = admission
        self._note_file = paths.path / "residual.json"
        self._residual_file: Path = paths.path / "residual.f32"
        self.carry_P: torch.Tensor = map_file(self._residual_file, numel)
        self.carried = 0
        self.pending: Pending | None = None
        self.trainer: Trainer | None = None
        self.progress: Progress | None = None
        self.ready: Ready | None = None
        self.eval_loss: float | None = None
        self.last_snapshot: Snapshot | None = None
        self.codec_error: float | None = None
        """Of the last contribution that was encoded."""
        self._settled = asyncio.Event()
        self._settled.set()
        self._take_up()

    def _take_up(self) -> None:
        note = self._read_note()
        self._note_file.unlink(missing_ok=True)
        if note is None or note.digest != self._holdings.digest.hex():
            self.carry_P.zero_()
            return
        self.carried = note.carried
        if note.pending_root:
            self.pending = Pending(bytes.fromhex(note.pending_root), None)

    def _read_note(self) -> _Note | None:
        try:
            return msgspec.json.decode(self._note_file.read_bytes(), type=_Note)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            log.warning("%s is damaged; what was carried over is lost", self._note_file)
            return None

    def save(self) -> None:
        """Orderly stop: keep the residual for the next start. Raises OSError."""
        note = _Note(
            digest=self._holdings.digest.hex(),
            carried=self.carried,
            pending_root=self.pending.root.hex() if self.pending else "",
        )
        atomic_write(self._note_file, msgspec.json.encode(note))

    @property
    def training(self) -> bool:
        """Whether a trainer is at work on the current outer state."""
        return self.trainer is not None and self.trainer.pid is not None and self.ready is not None

    @property
    def steps(self) -> int:
        """Inner steps since the last snapshot, as last reported."""
        return self.progress.steps if self.progress else 0

    # -- contributing --------------------------------------------------------------------------------

    async def encode(self) -> LocalContribution | None:
        """Snapshot and encode; None when there is too little, or when one was sent before a restart."""
        await self._settled.wait()
        if self.pending is not None or self._holdings.contributed():
            return None
        if self.trainer is None or self.steps * 8 < self._holdings.rules.inner_steps:
            return None
        try:
            snapshot = await self.trainer.snapshot()
        except (TrainerGone, TrainerRefused) as error:
            log.warning("no contribution: %s", error)
            return None
        self.last_snapshot = snapshot
        try:
            local = await asyncio.to_thread(self._encode, snapshot)
        except CodecError as error:
            log.error("local parameters are not finite, this round's work is thrown away: %s", error)
            await asyncio.to_thread(self.carry_P.zero_)
            self.carried = 0
            return None
        if snapshot.steps * 8 < self._holdings.rules.inner_steps:
            self.carried += 1
            return None
        await asyncio.to_thread(self._holdings.remember_contribution)
        self.pending = Pending(local.header.root, local)
        return local

    def _encode(self, snapshot: Snapshot) -> LocalContribution:
        holdings = self._holdings
        local_P = map_file(snapshot.path, self.carry_P.numel())
        index, chunks = encode_delta(
            holdings.store.theta,
            local_P,
            self.carry_P,
            scale=step_scale(max(1, snapshot.steps), holdings.ledger.reference_steps),
            codec_name=holdings.ledger.codec,
            rules=holdings.rules,
        )
        self.codec_error = chunk_error(
            self.carry_P,
            chunks,
            holdings.ledger.round % holdings.rules.num_chunks,
            codec_name=holdings.ledger.codec,
            rules=holdings.rules,
        )
        voter = self._signer.key in holdings.ledger.voters
        header = sign_contribution(
            index,
            ledger=holdings.ledger,
            prior=holdings.digest,
            steps=max(1, snapshot.steps),
            tokens=snapshot.tokens,
            carried=self.carried,
            admission=b"" if voter else self._admission,
            rules=holdings.rules,
            signer=self._signer,
        )
        return LocalContribution(header, index, chunks)

    # -- following the outer state -------------------------------------------------------------------

    @property
    def followed(self) -> asyncio.Event:
        """Set while the trainer works from the current outer state (or there is no trainer)."""
        return self._settled

    def begin_change(self) -> None:
        """The outer state is about to change: nothing is encoded until `follow` is through."""
        self._settled.clear()

    def end_change(self) -> None:
        """The outer state did not change after all."""
        self._settled.set()

    async def settle(self, certificate: Certificate) -> bool | None:
        """Decide the fate of our contribution: whether the round counted it, None without one."""
        pending, self.pending = self.pending, None
        if pending is None:
            return None
        counted = any(
            item.key == self._signer.key and item.root == pending.root for item in certificate.value.cut
        )
        if not counted:
            self.carried += 1
        elif pending.local is None:
            self.carry_P.zero_()
            self.carried = 0
        else:
            self.carried = 0
            await asyncio.to_thread(
                settle,
                self.carry_P,
                pending.local.chunks,
                counted=True,
                codec_name=pending.local.header.codec,
                rules=self._holdings.rules,
            )
        return counted

    async def forget(self) -> None:
        """The outer state was replaced by one that ours does not lead to: local work is void."""
        self.pending = None
        self.carried = 0
        await asyncio.to_thread(self.carry_P.zero_)

    async def follow(self, mode: Mode, evaluate: int) -> Adopted | None:
        """Let the trainer work from the current outer state; None when there is no trainer now."""
        try:
            if self.trainer is None or not self.training:
                return None
            adopted = await self.trainer.adopt(
                self._holdings.theta_path,
                round=self._holdings.ledger.round,
                digest=self._holdings.digest.hex(),
                global_step=self._holdings.ledger.global_step,
                mode=mode,
                evaluate=evaluate,
            )
        except (TrainerGone, TrainerRefused) as error:
            log.warning("trainer did not take up round %d: %s", self._holdings.ledger.round, error)
            return None
        finally:
            self._settled.set()
        self.eval_loss = adopted.eval_loss if adopted.eval_loss is not None else self.eval_loss
        if self.progress is not None:
            self.progress = msgspec.structs.replace(self.progress, steps=adopted.steps)
        return adopted
