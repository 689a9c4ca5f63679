"""The tiny model of tests with many nodes: a byte's embedding, tanh, and a softmax over the next byte."""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer.layout import Flat, Layout
from talkoot.peer.trainer.windows import Windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """`model.config` of kind "numpy"."""

    vocab_size: int = 256
    hidden: int = 32
    step_ms: float = 0.0
    """A step takes at least this long: a slow device to order."""

    def __post_init__(self) -> None:
        if not isinstance(self.vocab_size, int) or not 2 <= self.vocab_size <= 2**16:
            raise ConfigError("model.config.vocab_size must be 2 to 65536")
        if not isinstance(self.hidden, int) or not 1 <= self.hidden <= 4096:
            raise ConfigError("model.config.hidden must be 1 to 4096")
        if not isinstance(self.step_ms, int | float) or not 0 <= self.step_ms <= 60_000:
            raise ConfigError("model.config.step_ms must be 0 to 60000")

    @classmethod
    def of(cls, manifest: Manifest) -> "Shape":
        """Raises ConfigError for unknown keys and values out of bounds."""
        unknown = set(manifest.model.config) - {"vocab_size", "hidden", "step_ms"}
        if unknown:
            raise ConfigError(f"model.config.{min(unknown)} is unknown; vocab_size, hidden, step_ms")
        return cls(**manifest.model.config)

    @property
    def layout(self) -> Layout:
        """Embedding (V, H), output matrix (H, V), output bias (V)."""
        v, h = self.vocab_size, self.hidden
        return Layout.of([("embedding", (v, h)), ("output", (h, v)), ("bias", (v,))])


def random_weights(shape: Shape, seed: int) -> Flat:
    """Small normal matrices, zero bias: the loss starts near ln(V)."""
    flat = np.zeros(shape.layout.numel, dtype=np.float32)
    normal = np.random.Generator(np.random.Philox(seed))
    embedding, output, _ = shape.layout
    flat[embedding.span] = 0.5 * normal.standard_normal(embedding.numel, dtype=np.float32)
    flat[output.span] = 0.1 / sqrt(shape.hidden) * normal.standard_normal(output.numel, dtype=np.float32)
    return flat


def views(layout: Layout, flat: Flat) -> list[Flat]:
    """Embedding, output matrix and bias as views into `flat`."""
    return [flat[slot.span].reshape(slot.shape) for slot in layout]


def losses(layout: Layout, flat: Flat, windows: Windows) -> tuple[Flat, Flat, Flat]:
    """Loss of each target (N,), hidden activations (N, H) and probabilities (N, V)."""
    embedding, output, bias = views(layout, flat)
    hidden_NH = np.tanh(embedding[windows[:, :-1].reshape(-1)])
    logits_NV = hidden_NH @ output + bias
    logits_NV -= logits_NV.max(axis=1, keepdims=True)
    weights_NV = np.exp(logits_NV)
    sums_N1 = weights_NV.sum(axis=1, keepdims=True)
    targets_N = windows[:, 1:].reshape(-1)
    loss_N = np.log(sums_N1[:, 0]) - logits_NV[np.arange(len(targets_N)), targets_N]
    return loss_N, hidden_NH, weights_NV / sums_N1


def add_gradient(layout: Layout, flat: Flat, windows: Windows, scale: float, out: Flat) -> float:
    """Add `scale` times the gradient of the summed loss to `out`; returns the summed loss."""
    _, output, _ = views(layout, flat)
    loss_N, hidden_NH, error_NV = losses(layout, flat, windows)
    error_NV[np.arange(len(loss_N)), windows[:, 1:].reshape(-1)] -= 1.0
    error_NV *= np.float32(scale)
    d_embedding, d_output, d_bias = views(layout, out)
    d_output += hidden_NH.T @ error_NV
    d_bias += error_NV.sum(axis=0)
    np.add.at(d_embedding, windows[:, :-1].reshape(-1), (error_NV @ output.T) * (1.0 - hidden_NH * hidden_NH))
    return float(loss_N.sum(dtype=np.float64))
