"""What a slice of a contribution does to the loss: the same windows, without it and with it.

The model computes elsewhere meanwhile, so nothing of the training changes: not the parameters, the optimiser,
the position in the data, the random state, nor the micro-batch.
"""

import time
from collections.abc import Callable
from typing import Protocol

import psutil

from talkoot.peer.trainer.engine import CHUNK, Engine, NoMemory
from talkoot.peer.trainer.protocol import Audited, AuditTask, Unfinished
from talkoot.peer.trainer.windows import Windows
from talkoot.peer.trainer.workplace import map_vector

SPARE_BYTES = 256 << 20
"""Memory that stays free beside what an audit takes."""


class _Unfinished(Exception):  # noqa: N818 - ends an audit
    """It came to nothing."""

    def __init__(self, why: Unfinished) -> None:
        super().__init__(why)
        self.why: Unfinished = why


class HeldOut(Protocol):
    """What is needed of a `talkoot.peer.trainer.data.Corpus`."""

    def drawn(self, seed: int, count: int) -> Windows:
        """At most `count` held-out windows that follow from `seed`."""
        ...


def audit(engine: Engine, corpus: HeldOut, task: AuditTask, busy: Callable[[], bool]) -> Audited:
    """Paired losses; looked at between batches, `busy` ends it, and so does the end of its time.

    Raises OSError or ValueError when a file is not readable or of another size.
    """
    began = time.monotonic()
    try:
        before, after = _paired(engine, corpus, task, busy, began)
    except _Unfinished as unfinished:
        return Audited(before=(), after=(), seconds=time.monotonic() - began, unfinished=unfinished.why)
    except NoMemory:
        return Audited(before=(), after=(), seconds=time.monotonic() - began, unfinished="memory")
    return Audited(before=tuple(before), after=tuple(after), seconds=time.monotonic() - began)


def _paired(
    engine: Engine, corpus: HeldOut, task: AuditTask, busy: Callable[[], bool], began: float
) -> tuple[list[float], list[float]]:
    """Half of the time is for the parameters as they were, so that the other half is enough for the same
    windows once more."""
    if task.start + task.numel > engine.layout.numel:
        raise ValueError(f"a slice up to element {task.start + task.numel} of {engine.layout.numel}")
    outer, piece = map_vector(task.outer, engine.layout.numel), map_vector(task.piece, task.numel)
    _require_memory(engine, task)
    windows = corpus.drawn(task.seed, task.windows)
    if len(windows) < task.fewest:
        raise _Unfinished("data")
    with engine.elsewhere(outer):
        until = began + task.budget_s / 2
        before = _losses(engine, windows, busy, lambda: time.monotonic() >= until)
        if len(before) < task.fewest:
            raise _Unfinished("budget")
        for start in range(0, task.numel, CHUNK):
            engine.move(task.start + start, piece[start : start + CHUNK] * task.scale)
        after = _losses(engine, windows[: len(before)], busy, lambda: False)
    return before, after


def _require_memory(engine: Engine, task: AuditTask) -> None:
    """Pages of the slice become ours on a CPU; on a device the local parameters wait in main memory."""
    needed = 4 * (task.numel if engine.device == "cpu" else engine.layout.numel)
    if psutil.virtual_memory().available < needed + SPARE_BYTES:
        raise _Unfinished("memory")


def _losses(
    engine: Engine, windows: Windows, busy: Callable[[], bool], late: Callable[[], bool]
) -> list[float]:
    """Of each window, as far as the time goes."""
    losses: list[float] = []
    for first in range(0, len(windows), engine.micro.size):
        if busy():
            raise _Unfinished("busy")
        if first and late():
            break
        losses += engine.window_losses(windows[first : first + engine.micro.size])
        engine.pulse()
    return losses
