"""An outer state that this peer holds and may hand to others."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from talkoot.averaging.digest import CHUNK_BYTES, StateTree, tensor_bytes
from talkoot.peer.generation import Generation


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One state in one generation. What is written there later has another object."""

    tree: StateTree
    generation: Generation

    @property
    def theta(self) -> torch.Tensor:
        """Parameters, numel fp32; read only."""
        return self.generation.theta

    @property
    def momentum(self) -> torch.Tensor:
        """Outer momentum, numel fp32; read only."""
        return self.generation.momentum

    def leaves(self) -> bytes:
        """Leaf hashes of the parameters, then of the momentum."""
        return b"".join((*self.tree.theta, *self.tree.momentum))


def copy_chunk(vector: torch.Tensor, index: int) -> memoryview | None:
    """A copy of one chunk of a vector; None where there is none. Blocks on the disk.

    The bytes may be of two states if the vector was written meanwhile: ask afterwards whether it still
    stands for the same `Served`.
    """
    data = tensor_bytes(vector)
    if not 0 <= index * CHUNK_BYTES < len(data):
        return None
    source = np.frombuffer(data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES], np.uint8)
    copied = np.empty_like(source)
    np.copyto(copied, source)  # other threads run meanwhile
    array: Any = copied  # the stubs do not know that an array is a buffer
    return memoryview(array)
