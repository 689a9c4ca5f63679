"""The engine for real models: torch on a GPU, or on a CPU.

Parameters, gradients and both AdamW moments are views into four flat float32 vectors on the device. On CUDA
and MPS the forward pass runs under bfloat16 autocast; on a CPU, where that is slower, in float32.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adamw import adamw

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer import device_memory, memory, model
from talkoot.peer.trainer.engine import (
    CHUNK,
    Metrics,
    MicroBatch,
    NoMemory,
    no_memory_means_so,
    no_pulse,
)
from talkoot.peer.trainer.layout import Flat, Slot
from talkoot.peer.trainer.windows import Windows

EPSILON = 1e-8
"""AdamW's denominator floor."""

CPU_TOKENS = 2048
"""Most tokens in a micro-batch on a CPU: activations that stay in its caches are faster (5 % for the tiny
preset) and a larger micro-batch has no advantage there."""

PROBED_SEQUENCES = 4
"""Sequences in the first probe on a CPU; a larger batch is extrapolated."""


def choose_device(name: str) -> torch.device:
    """`auto`: cuda, then mps, then cpu. Raises ConfigError when the device is unknown or not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is unknown; auto, cpu, cuda, cuda:N or mps") from error
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise ConfigError(f"device {name!r} is not there; --device auto takes what is")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is not there: {torch.cuda.device_count()} GPUs were found")
    return device


class TorchEngine:
    """Implements `talkoot.peer.trainer.engine.Engine`."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        device: str = "auto",
        threads: int = 0,
        memory_limit_bytes: int = 0,
        headroom_bytes: int = 0,
    ) -> None:
        """Raises ConfigError when the model does not build or the device is not there, NoMemory."""
        torch.set_num_threads(threads or memory.physical_cores())
        self._device = choose_device(device)
        self.device = str(self._device)
        self._inner = manifest.inner
        self._limit_bytes = memory_limit_bytes
        self._headroom_bytes = headroom_bytes
        self.pulse: Callable[[], None] = no_pulse
        self.unchanged: Callable[[], AbstractContextManager[None]] = nullcontext
        self.micro = MicroBatch(manifest.inner.batch_size, self._release)
        self._bf16 = self._wants_bf16()
        self._limit_device()
        built = model.build(manifest)
        self.layout = model.layout_of(built)
        self.vocab_size = int(built.config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]
        try:
            self._allocate(built)
        except (MemoryError, RuntimeError) as error:
            raise NoMemory(f"no memory for the model: {str(error)[:200]}") from error
        self._forward = self._summed_loss
        if self._inner.compile:
            torch._dynamo.config.suppress_errors = True  # a model that does not compile runs as it is
            self._forward = torch.compile(self._summed_loss, dynamic=False)
        self.reset()

    def _allocate(self, built: nn.Module) -> None:
        """Move parameters into the flat vector and gradients beside it."""
        flat = torch.from_numpy(model.flat_of(built)).to(self._device)
        self._flat = flat
        self._grads = torch.zeros_like(flat)
        self._moment1 = torch.zeros_like(flat)
        self._moment2 = torch.zeros_like(flat)
        self._parameters = dict(built.named_parameters())
        self._there = flat  # what `move` changes
        self._point_at(flat)
        self._model = built.to(self._device)  # buffers; parameters are there already
        for slot in self.layout:
            self._parameters[slot.name].grad = self._grads[slot.span].view(slot.shape)
        self._model.train()
        self._ages = torch.zeros(len(self.layout.slots), device=self._device)
        self._norm, self._loss_sum, self._num_finite, self._num_skipped = (
            torch.zeros((), device=self._device) for _ in range(4)
        )
        self._groups = [
            (self._inner.weight_decay, self._group(lambda slot: len(slot.shape) >= 2)),
            (0.0, self._group(lambda slot: len(slot.shape) < 2)),  # norms and biases do not decay
        ]

    def _group(self, belongs: Callable[[Slot], bool]) -> list[list[Tensor]]:
        """Parameters, gradients, both moments and ages of the slots chosen, as views."""
        chosen = [(i, slot) for i, slot in enumerate(self.layout) if belongs(slot)]
        vectors = (self._flat, self._grads, self._moment1, self._moment2)
        views = [[vector[slot.span] for _, slot in chosen] for vector in vectors]
        return [*views, [self._ages[i] for i, _ in chosen]]

    def _wants_bf16(self) -> bool:
        if self._device.type == "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return self._device.type == "mps"

    def _limit_device(self) -> None:
        """Hold the device's allocator to the limit; a CPU is watched by `probe` instead."""
        if self._device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            self._limit_cuda()
        elif self._device.type == "mps" and self._limit_bytes:
            recommended = torch.mps.recommended_max_memory()
            torch.mps.set_per_process_memory_fraction(min(2.0, self._limit_bytes / recommended))

    def _limit_cuda(self) -> None:
        """Anew, from what is free now; what others took since is theirs."""
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.memory_reserved(self._device)
        allowed = device_memory.allowed_bytes(
            total=total,
            free=free,
            reserved=reserved,
            limit=self._limit_bytes,
            headroom=self._headroom_bytes,
        )
        torch.cuda.set_per_process_memory_fraction(allowed / total, self._device)

    def tune(self, *, threads: int, memory_limit_bytes: int, headroom_bytes: int) -> None:
        """Threads at once. Memory of a GPU at once, and the micro-batch is as large again as it may be, until
        memory is short; elsewhere memory is for the next start."""
        torch.set_num_threads(threads or memory.physical_cores())
        if self._device.type != "cuda":
            return
        if (memory_limit_bytes, headroom_bytes) != (self._limit_bytes, self._headroom_bytes):
            self._limit_bytes, self._headroom_bytes = memory_limit_bytes, headroom_bytes
            self._limit_cuda()
            self.micro.size = self._inner.batch_size

    def settle(self) -> None:
        """Wait for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()

    def _release(self) -> None:
        """Give back what a failed attempt held."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()

    # vectors

    def load(self, flat: Flat) -> None:
        """local = flat."""
        for start in range(0, self.layout.numel, CHUNK):
            self._flat[start : start + CHUNK].copy_(torch.from_numpy(flat[start : start + CHUNK]))

    def rebase(self, outer: Flat, base: Flat) -> None:
        """local = outer + (local - base)."""
        for start in range(0, self.layout.numel, CHUNK):
            local = self._flat[start : start + CHUNK]
            local.sub_(torch.from_numpy(base[start : start + CHUNK]).to(self._device))
            local.add_(torch.from_numpy(outer[start : start + CHUNK]).to(self._device))

    def chunks(self) -> Iterator[Flat]:
        """The local parameters, piece by piece."""
        for start in range(0, self.layout.numel, CHUNK):
            yield self._flat[start : start + CHUNK].cpu().numpy()

    # training

    def step(self, windows: Windows, lr: float) -> None:
        """Forward, backward, clip, AdamW. A gradient that is not finite changes nothing but a counter."""
        tokens = self._tokens(windows)
        with self.unchanged():
            loss = self.micro.run(lambda size: self._gradients(tokens, size))
        norm = torch.linalg.vector_norm(self._grads)
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        self._update(lr, norm, finite)
        self._norm = norm
        self._loss_sum += torch.where(finite, loss, 0.0)
        self._num_finite += finite
        self._num_skipped += ~finite

    def _gradients(self, tokens: Tensor, size: int) -> Tensor:
        """Fill the gradient vector; returns the mean loss."""
        self._grads.zero_()
        total = torch.zeros((), device=self._device)
        num_targets = tokens.shape[0] * (tokens.shape[1] - 1)
        for part in torch.split(tokens, size):
            loss = self._forward(part) / num_targets
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            self.pulse()
        return total

    def _summed_loss(self, tokens: Tensor) -> Tensor:
        """Sum of the loss over all targets of `tokens` (B, T + 1)."""
        with self._autocast():
            logits = self._model(input_ids=tokens[:, :-1], use_cache=False).logits
            targets = tokens[:, 1:].reshape(-1)
            return functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum")

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._bf16:
            return torch.autocast(self._device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _tokens(self, windows: Windows) -> Tensor:
        tokens = torch.from_numpy(windows)
        if self._device.type == "cuda":
            return tokens.pin_memory().to(self._device, non_blocking=True)
        return tokens.to(self._device)

    @torch.no_grad()
    def _update(self, lr: float, norm: Tensor, finite: Tensor) -> None:
        """Fused AdamW; clipping is its gradient scale, so that the gradient is not read once more."""
        scale = torch.clamp(norm / self._inner.clip_norm, min=1.0)
        missed = (~finite).float()
        for decay, (parameters, grads, moments1, moments2, ages) in self._groups:
            if parameters:
                adamw(
                    parameters,
                    grads,
                    moments1,
                    moments2,
                    [],
                    ages,
                    fused=True,
                    grad_scale=scale,
                    found_inf=missed,
                    amsgrad=False,
                    beta1=self._inner.beta1,
                    beta2=self._inner.beta2,
                    lr=lr,
                    weight_decay=decay,
                    eps=EPSILON,
                    maximize=False,
                )

    def reset(self) -> None:
        """Forget both moments, and what was measured."""
        self._moment1.zero_()
        self._moment2.zero_()
        self._ages.zero_()
        self._norm.zero_()
        self._loss_sum.zero_()
        self._num_finite.zero_()

    def read(self) -> Metrics:
        """One transfer for all measurements."""
        values = torch.stack([self._loss_sum, self._num_finite, self._norm, self._num_skipped]).tolist()
        self._loss_sum.zero_()
        self._num_finite.zero_()
        loss = values[0] / values[1] if values[1] else None
        return Metrics(loss, values[2] if np.isfinite(values[2]) else None, int(values[3]))

    @torch.no_grad()
    def evaluate(self, flat: Flat, windows: Windows) -> float:
        """Mean loss of the parameters `flat`."""
        with self.elsewhere(flat):
            tokens = self._tokens(windows)
            total: float = self.micro.run(lambda size: self._total_loss(tokens, size))
        return total / int(windows[:, 1:].size)

    @contextmanager
    def elsewhere(self, flat: Flat) -> Iterator[None]:
        """On a CPU the parameters become views of `flat`. Elsewhere the local ones wait in main memory."""
        self._model.eval()
        try:
            with self._standing_in(flat) if self._device.type == "cpu" else self._swapped(flat):
                yield
        finally:
            self._model.train()

    @contextmanager
    def _standing_in(self, flat: Flat) -> Iterator[None]:
        self._there = torch.from_numpy(flat)
        try:
            self._point_at(self._there)
            yield
        finally:
            self._there = self._flat
            self._point_at(self._flat)

    @contextmanager
    def _swapped(self, flat: Flat) -> Iterator[None]:
        spare = self._flat.to("cpu", copy=True)
        try:
            self.load(flat)
            yield
        finally:
            self._flat.copy_(spare)

    def _point_at(self, flat: Tensor) -> None:
        """Let the model's parameters be views of `flat`."""
        for slot in self.layout:
            self._parameters[slot.name].data = flat[slot.span].view(slot.shape)

    @torch.no_grad()
    def move(self, start: int, delta: Flat) -> None:
        """Subtracted in one operation, on the device."""
        self._there[start : start + delta.size].sub_(torch.from_numpy(delta).to(self._device))

    @torch.no_grad()
    def window_losses(self, windows: Windows) -> list[float]:
        """Mean loss of each window; sums are in float64."""
        with no_memory_means_so(), self._autocast():
            tokens = self._tokens(windows)
            logits = self._model(input_ids=tokens[:, :-1], use_cache=False).logits
            targets = tokens[:, 1:].reshape(-1)
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
            per_window = loss.view(len(windows), -1).to("cpu", torch.float64).mean(dim=1)
        return [float(value) for value in per_window]

    def _total_loss(self, tokens: Tensor, size: int) -> float:
        total = 0.0
        for part in torch.split(tokens, size):
            total += float(self._summed_loss(part))
            self.pulse()
        return total

    # memory

    def probe(self, sequence_length: int) -> None:
        """On a GPU try the whole batch and halve; on a CPU measure a little and extrapolate."""
        if self._device.type == "cpu":
            self.micro.size = self._fitting_on_cpu(sequence_length)
        else:
            tokens = self._zeros(self.micro.size, sequence_length)
            self.micro.run(lambda size: self._gradients(tokens[:size], size))
        self._grads.zero_()

    def _fitting_on_cpu(self, sequence_length: int) -> int:
        """Largest micro-batch whose peak stays below the limit, by doubling."""
        limit = memory.process_limit(self._limit_bytes)
        wanted = min(self.micro.size, max(1, CPU_TOKENS // sequence_length))
        fitting = 0
        size = min(PROBED_SEQUENCES if memory.peak_bytes() < limit // 2 else 1, wanted)
        while True:
            before = memory.peak_bytes()
            if before > limit:
                break
            self._gradients(self._zeros(size, sequence_length), size)
            peak = memory.peak_bytes()
            if peak > limit:
                break
            fitting = size
            growth = (peak - before) / size  # bytes a sequence, or more: the first probe has fixed costs
            if size == wanted or peak + 1.25 * growth * wanted < limit:
                return wanted
            if peak + 2 * growth * size > limit:
                break
            size = min(2 * size, wanted)
        if not fitting:
            raise NoMemory(f"no memory for one micro-batch within {limit // 2**20} MiB")
        return fitting

    def _zeros(self, size: int, sequence_length: int) -> Tensor:
        return torch.zeros((size, sequence_length + 1), dtype=torch.int64, device=self._device)

    def memory_bytes(self) -> int:
        """Most device memory allocated; on a CPU, resident memory."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return memory.resident_bytes()

    # local work across processes

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        """Four vectors, and the random state for models with dropout."""
        state = {
            "local": self._flat,
            "moment1": self._moment1,
            "moment2": self._moment2,
            "ages": self._ages,
            "random": torch.get_rng_state(),
        }
        if self._device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self._device)
        return {name: tensor.cpu().numpy() for name, tensor in state.items()}

    def restore(self, state: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Raises ValueError when a vector is missing or of another length."""
        targets = {
            "local": self._flat,
            "moment1": self._moment1,
            "moment2": self._moment2,
            "ages": self._ages,
        }
        for name, target in targets.items():
            if name not in state or state[name].shape != tuple(target.shape):
                raise ValueError(f"saved local work has no usable {name}")
        for name, target in targets.items():
            target.copy_(torch.from_numpy(state[name]))
        if "random" in state:
            torch.set_rng_state(torch.from_numpy(state["random"]))
        if "random_cuda" in state and self._device.type == "cuda":
            torch.cuda.set_rng_state(torch.from_numpy(state["random_cuda"]), self._device)
