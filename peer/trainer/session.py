"""Local training between outer states: take up, step, snapshot, rebase, save. No sockets and no processes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer import localwork
from talkoot.peer.trainer.audit import audit
from talkoot.peer.trainer.data import Corpus
from talkoot.peer.trainer.engine import Engine, Metrics, learning_rate
from talkoot.peer.trainer.layout import Flat
from talkoot.peer.trainer.localwork import LocalWork
from talkoot.peer.trainer.protocol import Adopted, Audited, AuditTask, Mode, Snapshot
from talkoot.peer.trainer.windows import sequence_seed
from talkoot.peer.trainer.workplace import map_vector


@dataclass(slots=True)
class Totals:
    """Of this process."""

    steps: int = 0
    tokens: int = 0
    inner_seconds: float = 0.0
    rested_seconds: float = 0.0
    """Of a slower pace, inside of steps and between them."""


class Session:
    """One engine at work on one corpus for one peer. Local work exists after the first `adopt`."""

    def __init__(
        self, manifest: Manifest, engine: Engine, corpus: Corpus, *, state_dir: Path, peer: bytes
    ) -> None:
        self.engine = engine
        self.totals = Totals()
        self.work: LocalWork | None = None
        self._manifest = manifest
        self._corpus = corpus
        self._state_dir = state_dir
        self._peer = peer
        self._swarm_id = manifest.swarm_id
        self._base: Flat | None = None  # vector that the next rebase subtracts
        self._snapshots = 0
        self.last = Metrics(None, None, 0)
        self.lr = 0.0

    def adopt(
        self, path: Path, *, round_: int, digest: str, global_step: int, mode: Mode, evaluate: int = 0
    ) -> Adopted:
        """Work from the outer parameters in `path` on; see `TrainerProcess.adopt`.

        The file may be renamed over or removed afterwards, but not changed in place.
        Raises OSError or ValueError when it is not readable or of another size; then nothing has changed.
        """
        outer = map_vector(path, self.engine.layout.numel)
        eval_loss = self._evaluate(outer, evaluate)
        resumed = False
        if mode in ("rebase", "rewarm") and self.work is not None and self._base is not None:
            self._rebase(outer, path, round_, digest, global_step)
            if mode == "rewarm":
                self._cool_down()
        else:
            self._load(outer, path, round_, digest, global_step)
            resumed = mode == "start" and self._resume(outer, path)
        assert self.work is not None
        return Adopted(
            steps=self.work.steps, eval_loss=eval_loss, resumed=resumed, position=self.work.position
        )

    def _evaluate(self, outer: Flat, num_windows: int) -> float | None:
        windows = self._corpus.held_out(num_windows) if num_windows else None
        if windows is None or not len(windows):
            return None
        return self.engine.evaluate(outer, windows)

    def _rebase(self, outer: Flat, path: Path, round_: int, digest: str, global_step: int) -> None:
        work, base = self.work, self._base
        assert work is not None
        assert base is not None
        self.engine.rebase(outer, base)
        position = work.position if work.round == round_ else 0
        self.work = LocalWork(
            round=round_,
            digest=digest,
            global_step=global_step,
            base=str(path),
            since_start=work.steps,
            since_reset=work.since_reset,
            steps=work.steps,
            tokens=work.tokens,
            seconds=work.seconds,
            position=position,
        )
        self._base = outer

    def _load(self, outer: Flat, path: Path, round_: int, digest: str, global_step: int) -> None:
        self.engine.load(outer)
        self.engine.reset()
        self.work = LocalWork(
            round=round_,
            digest=digest,
            global_step=global_step,
            base=str(path),
            since_reset=0 if global_step else None,
        )
        self._base = outer

    def _resume(self, outer: Flat, path: Path) -> bool:
        """Take up saved local work if there is any that can be used. `self.work` is that of `outer`."""
        new = self.work
        assert new is not None
        saved = localwork.load(self._state_dir, digest=new.digest, round_=new.round)
        if saved is None:
            return False
        work, vectors = saved
        if localwork.BASE in vectors:
            return self._bring_over(work, vectors, outer, path)
        base = self._base
        if work.base != new.base and _is_snapshot(Path(work.base)):
            try:
                base = map_vector(Path(work.base), self.engine.layout.numel)
            except (OSError, ValueError):
                return False  # what the contribution held is not known any more
        else:
            work.base = new.base
        return self._take_up(work, vectors, base)

    def _bring_over(
        self, work: LocalWork, vectors: dict[str, np.ndarray[Any, Any]], outer: Flat, path: Path
    ) -> bool:
        """Work that started from another outer state, before the swarm moved on: rebased, like any other."""
        new = self.work
        assert new is not None
        base = vectors.pop(localwork.BASE)
        if base.shape != outer.shape or not self._take_up(work, vectors, base):
            return False
        self._rebase(outer, path, new.round, new.digest, new.global_step)
        if abs(new.round - work.round) > 1:
            self._cool_down()
        return True

    def _take_up(self, work: LocalWork, vectors: localwork.Vectors, base: Flat | None) -> bool:
        try:
            self.engine.restore(vectors)
        except ValueError:
            return False
        self.work, self._base = work, base
        return True

    def _cool_down(self) -> None:
        """AdamW starts cold: what it knows is too old."""
        assert self.work is not None
        self.engine.reset()
        self.work.since_reset = 0 if self.work.global_step else None

    def step(self) -> None:
        """One inner step. Raises NoMemory; ConfigError when the data turns out to be unusable."""
        work = self.work
        assert work is not None
        began, rested_before = time.monotonic(), self.totals.rested_seconds
        count = self._manifest.inner.batch_size
        seed = sequence_seed(self._swarm_id, self._peer, work.round)
        windows = self._corpus.training(seed, work.position, count)
        self.lr = learning_rate(self._manifest, work.global_step + work.since_start, work.since_reset)
        self.engine.step(windows, self.lr)
        work.position += count
        rested = self.totals.rested_seconds - rested_before
        tokens = count * self._manifest.data.sequence_length
        self._count(work, tokens, time.monotonic() - began - rested)

    def rested(self, seconds: float) -> None:
        """It rested so long, in a step or after one. Steps take that much longer, for those who wait."""
        self.totals.rested_seconds += seconds
        if self.work is not None:
            self.work.seconds += seconds

    def _count(self, work: LocalWork, tokens: int, seconds: float) -> None:
        work.steps += 1
        work.since_start += 1
        if work.since_reset is not None:
            work.since_reset += 1
        work.tokens += tokens
        work.seconds += seconds
        self.totals.steps += 1
        self.totals.tokens += tokens
        self.totals.inner_seconds += seconds

    def read(self) -> Metrics:
        """Wait for the device; the time is part of the steps. Keeps the last loss where nothing is new."""
        began = time.monotonic()
        metrics = self.engine.read()
        seconds = time.monotonic() - began
        self.totals.inner_seconds += seconds
        if self.work is not None:
            self.work.seconds += seconds
        loss = self.last.loss if metrics.loss is None else metrics.loss
        self.last = Metrics(loss, metrics.grad_norm, metrics.skipped)
        return self.last

    def snapshot(self) -> Snapshot:
        """Write the local parameters to a file and count from 0 again. On OSError nothing has changed."""
        work = self.work
        assert work is not None
        loss = self.read().loss
        path = self._state_dir / f"snapshot-{self._snapshots % 2}.bin"
        localwork.write_vector(path, self.engine.chunks)
        localwork.discard(self._state_dir)
        self._base = map_vector(path, self.engine.layout.numel)
        self._snapshots += 1
        taken = Snapshot(path=path, steps=work.steps, tokens=work.tokens, loss=loss, seconds=work.seconds)
        work.base = str(path)
        work.steps = work.tokens = 0
        work.seconds = 0.0
        return taken

    def audit(self, task: AuditTask, busy: Callable[[], bool]) -> Audited:
        """Measure what a slice does to the loss; training goes on as if nothing had been. Raises OSError,
        ValueError."""
        self.read()  # steps that the device still makes are not the audit's
        return audit(self.engine, self._corpus, task, busy)

    def save(self) -> None:
        """Keep local work for the next process. Raises OSError."""
        if self.work is not None and self._base is not None:
            localwork.save(self._state_dir, self.work, self.engine.state(), self._base)


def _is_snapshot(path: Path) -> bool:
    return path.name.startswith("snapshot-")
