"""The engine of the tiny numpy model: the same trainer without torch, for tests with many nodes."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer import memory, numpy_model
from talkoot.peer.trainer.engine import CHUNK, Metrics, MicroBatch, no_memory_means_so, no_pulse
from talkoot.peer.trainer.layout import Flat
from talkoot.peer.trainer.windows import Windows

EPSILON = np.float32(1e-8)

PULSE_S = 0.1
"""Longest time without a pulse in a step that is made longer."""


class NumpyEngine:
    """Implements `talkoot.peer.trainer.engine.Engine` with AdamW in float32."""

    device = "cpu"

    def __init__(self, manifest: Manifest) -> None:
        """Raises ConfigError for a configuration that does not build."""
        self._shape = numpy_model.Shape.of(manifest)
        self._inner = manifest.inner
        self.layout = self._shape.layout
        self.vocab_size = self._shape.vocab_size
        self.micro = MicroBatch(manifest.inner.batch_size)
        self.pulse: Callable[[], None] = no_pulse
        self.unchanged: Callable[[], AbstractContextManager[None]] = nullcontext
        self._flat = numpy_model.random_weights(self._shape, manifest.inner.seed)
        self._grads = np.zeros_like(self._flat)
        self._decay = np.zeros_like(self._flat)
        for slot in self.layout:
            if len(slot.shape) >= 2:
                self._decay[slot.span] = manifest.inner.weight_decay
        self._skipped = 0
        self._stand_in: Flat | None = None
        self.reset()

    def reset(self) -> None:
        """Forget both moments, and what was measured."""
        self._moment1 = np.zeros_like(self._flat)
        self._moment2 = np.zeros_like(self._flat)
        self._age = 0
        self._norm: float | None = None
        self._losses: list[float] = []

    def load(self, flat: Flat) -> None:
        """local = flat."""
        self._flat[:] = flat

    def rebase(self, outer: Flat, base: Flat) -> None:
        """local = outer + (local - base)."""
        self._flat -= base
        self._flat += outer

    def chunks(self) -> Iterator[Flat]:
        """The local parameters, piece by piece."""
        for start in range(0, self.layout.numel, CHUNK):
            yield self._flat[start : start + CHUNK]

    def step(self, windows: Windows, lr: float) -> None:
        """One step of at least `step_ms`; the parameters change at its end only."""
        with self.unchanged():
            loss = self.micro.run(lambda size: self._gradients(windows, size))
            left_s = self._shape.step_ms / 1000
            while left_s > 0:  # not by the clock: in a pulse the trainer may rest
                slept_s = min(left_s, PULSE_S)
                time.sleep(slept_s)
                left_s -= slept_s
                self.pulse()
        norm = float(np.sqrt(np.square(self._grads, dtype=np.float64).sum()))
        if np.isfinite(norm) and np.isfinite(loss):
            self._update(lr, norm)
            self._norm = norm
            self._losses.append(loss)
        else:
            self._skipped += 1

    def _gradients(self, windows: Windows, size: int) -> float:
        self._grads[:] = 0
        num_targets = int(windows[:, 1:].size)
        total = 0.0
        for start in range(0, len(windows), size):
            part = windows[start : start + size]
            total += numpy_model.add_gradient(self.layout, self._flat, part, 1 / num_targets, self._grads)
            self.pulse()
        return total / num_targets

    def _update(self, lr: float, norm: float) -> None:
        """AdamW in float32, in place."""
        beta1, beta2 = np.float32(self._inner.beta1), np.float32(self._inner.beta2)
        one = np.float32(1)
        rate = np.float32(lr)
        grads = self._grads
        grads *= np.float32(min(1.0, self._inner.clip_norm / (norm + 1e-6)))
        self._age += 1
        self._moment1 *= beta1
        self._moment1 += (one - beta1) * grads
        self._moment2 *= beta2
        self._moment2 += (one - beta2) * grads * grads
        first = self._moment1 / np.float32(1 - self._inner.beta1**self._age)
        second = self._moment2 / np.float32(1 - self._inner.beta2**self._age)
        self._flat -= rate * self._decay * self._flat
        self._flat -= rate * first / (np.sqrt(second) + EPSILON)

    def settle(self) -> None:
        """All of it is done."""

    def tune(self, *, threads: int, memory_limit_bytes: int, headroom_bytes: int) -> None:
        """It has one thread and little memory."""

    def read(self) -> Metrics:
        """Mean loss since the last reading."""
        loss = sum(self._losses) / len(self._losses) if self._losses else None
        self._losses = []
        return Metrics(loss, self._norm, self._skipped)

    def evaluate(self, flat: Flat, windows: Windows) -> float:
        """Loss of `flat`; the local parameters are not involved."""
        loss: float = self.micro.run(lambda size: self._mean_loss(flat, windows, size))
        return loss

    def _mean_loss(self, flat: Flat, windows: Windows, size: int) -> float:
        total = 0.0
        for start in range(0, len(windows), size):
            loss_N, _, _ = numpy_model.losses(self.layout, flat, windows[start : start + size])
            total += float(loss_N.sum(dtype=np.float64))
        return total / int(windows[:, 1:].size)

    @contextmanager
    def elsewhere(self, flat: Flat) -> Iterator[None]:
        """The local parameters are not involved."""
        self._stand_in = flat
        try:
            yield
        finally:
            self._stand_in = None

    def move(self, start: int, delta: Flat) -> None:
        """Changes what `elsewhere` was given."""
        assert self._stand_in is not None
        self._stand_in[start : start + delta.size] -= delta

    def window_losses(self, windows: Windows) -> list[float]:
        """Mean loss of each window."""
        assert self._stand_in is not None
        with no_memory_means_so():
            loss_N, _, _ = numpy_model.losses(self.layout, self._stand_in, windows)
        per_window = loss_N.reshape(len(windows), -1).mean(axis=1, dtype=np.float64)
        return [float(loss) for loss in per_window]

    def probe(self, sequence_length: int) -> None:
        """It fits anywhere; raises NoMemory where it does not."""
        windows = np.zeros((self.micro.size, sequence_length + 1), dtype=np.int64)
        self.micro.run(lambda size: self._gradients(windows[:size], size))

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        """Three vectors and the age of the moments."""
        return {
            "local": self._flat,
            "moment1": self._moment1,
            "moment2": self._moment2,
            "ages": np.array([self._age], dtype=np.int64),
        }

    def restore(self, state: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Raises ValueError when a vector is missing or of another length."""
        for name, vector in self.state().items():
            if name not in state or state[name].shape != vector.shape:
                raise ValueError(f"saved local work has no usable {name}")
        self._flat[:] = state["local"]
        self._moment1[:] = state["moment1"]
        self._moment2[:] = state["moment2"]
        self._age = int(state["ages"][0])

    def memory_bytes(self) -> int:
        """Resident memory."""
        return memory.resident_bytes()
