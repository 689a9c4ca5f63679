"""What a trainer can do with a model: the interface of the torch and the numpy engine, and what both share.

An engine holds the local parameters as one flat float32 vector, so that taking up, rebasing and snapshotting
are vector operations.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer.layout import Flat, Layout
from talkoot.peer.trainer.windows import Windows

T = TypeVar("T")

CHUNK = 1 << 22
"""Elements handled at a time when vectors are moved between files and the device."""


class NoMemory(Exception):  # noqa: N818 - reads well where it is caught
    """Not even one sequence fits into memory."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What happened since the last reading."""

    loss: float | None
    """Mean over the steps, nats a token; None: no step had a finite loss."""
    grad_norm: float | None
    """Of the last step, before clipping."""
    skipped: int
    """Steps not taken, since the engine was made, because the gradient was not finite."""


class Engine(Protocol):
    """One model on one device. Not safe for threads."""

    layout: Layout
    device: str
    vocab_size: int
    micro: "MicroBatch"
    pulse: Callable[[], None]
    """Called between micro-batches, while `step` has not changed the parameters yet: a sign of life, and a
    moment for `chunks` and `read`."""

    unchanged: Callable[[], AbstractContextManager[None]]
    """Entered by `step` while it changes neither parameters nor optimiser: `state` and `chunks` may be called
    from another thread then."""

    def load(self, flat: Flat) -> None:
        """local = flat."""
        ...

    def rebase(self, outer: Flat, base: Flat) -> None:
        """local = outer + (local - base), elementwise, rounded after each of the two operations."""
        ...

    def chunks(self) -> Iterator[Flat]:
        """The local parameters in order, in pieces that hold until the next one is asked for."""
        ...

    def step(self, windows: Windows, lr: float) -> None:
        """One optimiser step; may return before the device is done. Raises NoMemory."""
        ...

    def settle(self) -> None:
        """Wait for the device."""
        ...

    def tune(self, *, threads: int, memory_limit_bytes: int, headroom_bytes: int) -> None:
        """Compute with other limits from now on, between two micro-batches; 0 as at the start."""
        ...

    def read(self) -> Metrics:
        """Wait for the device and read what was measured since the last reading."""
        ...

    def evaluate(self, flat: Flat, windows: Windows) -> float:
        """Mean loss of the parameters `flat`, nats a token; local parameters are as before afterwards."""
        ...

    def elsewhere(self, flat: Flat) -> AbstractContextManager[None]:
        """In its scope the model computes with the parameters `flat`; afterwards all is as before, bit for
        bit. On a CPU there is no copy: `flat` is what `move` changes, so it must be writable."""
        ...

    def move(self, start: int, delta: Flat) -> None:
        """Subtract `delta` from the parameters from `start` on; only in the scope of `elsewhere`."""
        ...

    def window_losses(self, windows: Windows) -> list[float]:
        """Mean loss of each window, nats a token, at once; only in the scope of `elsewhere`.

        Raises NoMemory, and the micro-batch stays what it is: an audit changes nothing of the training.
        """
        ...

    def reset(self) -> None:
        """Forget the moments of the optimiser."""
        ...

    def probe(self, sequence_length: int) -> None:
        """Find a micro-batch that fits. Raises NoMemory."""
        ...

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        """Local parameters, optimiser and random state."""
        ...

    def restore(self, state: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Undo `state`. Raises ValueError when the vectors are not this model's."""
        ...

    def memory_bytes(self) -> int:
        """Most device memory used; on a CPU, resident memory."""
        ...


def no_pulse() -> None:
    """The pulse of an engine that nobody watches."""


class MicroBatch:
    """How many sequences go through the model at once. It only ever gets smaller."""

    def __init__(self, size: int, recover: Callable[[], None] = no_pulse) -> None:
        self.size = size
        self._recover = recover

    def run(self, work: Callable[[int], T]) -> T:
        """`work(size)`, from its beginning with half the size each time that memory is short.

        Raises NoMemory when not even one sequence fits.
        """
        while True:
            try:
                return work(self.size)
            except (MemoryError, RuntimeError) as error:
                if not is_memory_error(error):
                    raise
                if self.size == 1:
                    raise NoMemory("no memory for one micro-batch of one sequence") from error
            self.size = (self.size + 1) // 2  # outside the handler: the traceback holds on to tensors
            self._recover()


def is_memory_error(error: BaseException) -> bool:
    """True for what numpy, torch and its devices raise when an allocation fails."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "failed to allocate" in text


@contextmanager
def no_memory_means_so() -> Iterator[None]:
    """Raises NoMemory in place of what an allocation that fails raises."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise NoMemory("no memory for what is beside the training") from error


def learning_rate(manifest: Manifest, global_step: int, since_reset: int | None) -> float:
    """Warm-up, stable, decay on the swarm's global step (Hu et al. 2024, MiniCPM, section 4).

    `since_reset`: steps since AdamW started cold in the middle of a run, None when it did not.
    """
    inner = manifest.inner
    factor = 1.0
    if inner.warmup_steps:
        factor = min(1.0, (global_step + 1) / inner.warmup_steps)
    if since_reset is not None:
        factor *= min(1.0, (since_reset + 1) / REWARM_STEPS)
    if inner.total_steps and inner.decay_steps:
        left = max(0, inner.total_steps - global_step)
        factor *= min(1.0, left / inner.decay_steps)
    return inner.learning_rate * factor


REWARM_STEPS = 50
"""Steps over which the learning rate comes back after AdamW started cold."""
