"""Data of the attack bench: the standard library's sources, a different stretch for each worker.

Neighbouring files are about the same things, so workers' data differ as those of volunteers do: an honest
update points elsewhere than the next one, which is what makes telling liars apart hard.
"""

from typing import Any

import numpy as np

from talkoot.peer.trainer.documents import stdlib_files, text
from talkoot.peer.trainer.windows import Windows, draws, even_starts, gather, sequence_seed

BLOCK = 16 * 1024
"""Bytes that are held out together."""

HELD_OUT_EVERY = 20
"""One block of so many is held out."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Data:
    """Bytes to train on and bytes to be judged on."""

    def __init__(self, *, max_bytes: int | None = None) -> None:
        """Reads them; `max_bytes` for tests. Raises ConfigError when a file cannot be read."""
        pieces, size = [], 0
        for document in text(stdlib_files()):
            pieces.append(document)
            size += len(document)
            if max_bytes is not None and size >= max_bytes:
                break
        everything = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        held_out = (np.arange(everything.size) // BLOCK) % HELD_OUT_EVERY == 0
        self._held_out: Bytes = everything[held_out]
        self._train: Bytes = everything[~held_out]

    def training(self, *, worker: int, workers: int, seed: int, step: int, shape: tuple[int, int]) -> Windows:
        """A batch of `shape` (windows, tokens) from a worker's own stretch; a function of its arguments."""
        count, window = shape
        own = self._train[self._train.size * worker // workers : self._train.size * (worker + 1) // workers]
        order = sequence_seed(bytes(32), worker.to_bytes(32, "big"), seed)
        return gather(own, draws(order, step * count, count, own.size - window), window)

    def drawn(self, seed: int, count: int, window: int) -> Windows:
        """Held-out windows that follow from `seed`."""
        starts = draws(seed, 0, count, self._held_out.size - window + 1)
        return gather(self._held_out, starts, window)

    def held_out(self, count: int, window: int) -> Windows:
        """At most `count` windows, the same for every run."""
        return gather(self._held_out, even_starts(self._held_out.size, window, count), window)
