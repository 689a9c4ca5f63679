"""The flat parameter vector: which parameter lies where.

Deduplicated named parameters in the model's registration order, tied weights once, without gaps. The hash of
names, shapes and offsets stands in the manifest, so that peers whose library builds another order refuse to
train instead of averaging apples with pears.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Manifest

Flat = np.ndarray[Any, np.dtype[np.float32]]
"""A float32 vector of `numel` elements."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Place of one parameter."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def span(self) -> slice:
        """Its slice of the flat vector."""
        return slice(self.offset, self.offset + self.numel)


@dataclass(frozen=True, slots=True)
class Layout:
    """All parameters of a model, in order."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> "Layout":
        """Lay out `(name, shape)` pairs one behind the other."""
        slots = []
        offset = 0
        for name, shape in shapes:
            slots.append(Slot(name, shape, offset))
            offset += prod(shape)
        return cls(tuple(slots))

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    @property
    def numel(self) -> int:
        """Elements of the flat vector."""
        return self.slots[-1].span.stop if self.slots else 0

    @property
    def hash(self) -> str:
        """Hex BLAKE3 over names, shapes and offsets, in a domain of its own."""
        rows = [(slot.name, slot.shape, slot.offset) for slot in self.slots]
        body = msgspec.msgpack.encode(rows)
        return blake3(body, derive_key_context="talkoot 2026 parameter layout").hexdigest()


def require_match(layout: Layout, manifest: Manifest) -> None:
    """Refuse to train what the swarm does not train. Raises ConfigError."""
    if manifest.model.numel != layout.numel or manifest.model.layout != layout.hash:
        raise ConfigError(
            f"model.layout: the model built here ({layout.numel} parameters, layout {layout.hash[:12]}) is "
            f"not the swarm's ({manifest.model.numel}, {manifest.model.layout[:12] or 'not sealed'}); "
            "another version of transformers may build it"
        )


def describe(manifest: Manifest) -> tuple[str, int]:
    """Layout hash and number of parameters of the manifest's model, for the founder.

    Imports torch and transformers unless the model is the numpy one. Raises ConfigError when the
    configuration does not build.
    """
    layout, _ = _built(manifest)
    return layout.hash, layout.numel


def initial_weights(manifest: Manifest) -> Flat:
    """The founder's initial parameters: deterministic by `inner.seed` for one version of the libraries.

    Raises ConfigError when the configuration does not build.
    """
    _, flat = _built(manifest)
    return flat


def _built(manifest: Manifest) -> tuple[Layout, Flat]:
    if manifest.model.kind == "numpy":
        from talkoot.peer.trainer.numpy_model import Shape, random_weights

        shape = Shape.of(manifest)
        return shape.layout, random_weights(shape, manifest.inner.seed)
    from talkoot.peer.trainer import model

    built = model.build(manifest)
    return model.layout_of(built), model.flat_of(built)
