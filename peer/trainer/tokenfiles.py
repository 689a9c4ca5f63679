"""A corpus of token ids in files (`tokens`): mapped, never copied or read as a whole.

Documents are unknown here, so blocks of tokens stand for them: a block is held out by the hash of its
content, looked at when it is first drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from talkoot.dht.errors import ConfigError
from talkoot.peer.trainer.heldout import corpus_hash, document_hash, is_held_out
from talkoot.peer.trainer.windows import Windows, draws, gather

BLOCK_WINDOWS = 16
"""Windows in a block."""

DRAWN_TOGETHER = 4
"""Windows of one held-out block that are drawn at once: to find it, many blocks are read."""

TRIES = 16
"""Draws for one window before blocks are walked through."""

SAMPLED_BLOCKS = 64
"""Blocks that the corpus hash looks at, spread over each file."""

Block = np.ndarray[Any, Any]


class TokenFiles:
    """Windows inside blocks of mapped token files."""

    notice = ""

    def __init__(
        self,
        paths: Sequence[Path],
        dtype: str,
        *,
        sequence_length: int,
        held_out_percent: float,
        vocab_size: int,
    ) -> None:
        """Raises ConfigError for a file that is no whole number of tokens, or when all are too short."""
        self._window = sequence_length + 1
        self._block = BLOCK_WINDOWS * self._window
        self._percent = held_out_percent
        self._vocab_size = vocab_size
        self._files = [_mapped(path, np.dtype(dtype).newbyteorder("<")) for path in paths]
        counts = [len(file) // self._block for file in self._files]
        self._first = np.concatenate(([0], np.cumsum(counts)))  # of each file, and the number of all blocks
        self._fate: dict[int, bool] = {}
        self.train_tokens = sum(len(file) for file in self._files)
        self.held_out_tokens = int(self.train_tokens * held_out_percent / 100)
        if not self._num_blocks:
            raise ConfigError(
                f"data: {self.train_tokens} tokens are fewer than one block of {self._block}; more are needed"
            )
        self.hash = corpus_hash([self._digest_of_file(i) for i in range(len(self._files))])

    @property
    def _num_blocks(self) -> int:
        return int(self._first[-1])

    def training(self, seed: int, position: int, count: int) -> Windows:
        """Windows `position` to `position + count` of the sequence of `seed`; none is held out."""
        picks = draws(seed, 2 * TRIES * position, 2 * TRIES * count, 2**62).reshape(count, TRIES, 2)
        return np.concatenate([self._pick(tries) for tries in picks])

    def held_out(self, count: int) -> Windows:
        """At most `count` windows from the first held-out blocks."""
        found: list[Windows] = []
        for number in range(self._num_blocks):
            if BLOCK_WINDOWS * len(found) >= count:
                break
            if self._is_held_out(number):
                starts = np.arange(BLOCK_WINDOWS) * self._window
                found.append(self._checked(gather(self._block_at(number), starts, self._window)))
        if not found:
            return np.zeros((0, self._window), dtype=np.int64)
        return np.concatenate(found)[:count]

    def drawn(self, seed: int, count: int) -> Windows:
        """At most `count` windows, a few from each of some held-out blocks that follow from `seed`."""
        found: list[Windows] = [np.zeros((0, self._window), dtype=np.int64)]
        for pick in draws(seed, 0, -(-count // DRAWN_TOGETHER), 2**62).tolist() if self._percent else ():
            number = self._next(pick % self._num_blocks, held_out=True)
            if number is None:
                break
            first = pick // self._num_blocks % (BLOCK_WINDOWS - DRAWN_TOGETHER + 1)
            starts = (first + np.arange(DRAWN_TOGETHER)) * self._window
            found.append(self._checked(gather(self._block_at(number), starts, self._window)))
        return np.concatenate(found)[:count]

    def _pick(self, tries: np.ndarray[Any, Any]) -> Windows:
        number = int(tries[0, 0]) % self._num_blocks
        for draw, _ in tries:
            number = int(draw) % self._num_blocks
            if not self._is_held_out(number):
                break
        else:
            found = self._next(number, held_out=False)
            if found is None:
                raise ConfigError("data: every block is held out; more tokens are needed")
            number = found
        start = int(tries[0, 1]) % (self._block - self._window + 1)
        return self._checked(gather(self._block_at(number), np.array([start]), self._window))

    def _next(self, number: int, *, held_out: bool) -> int | None:
        """The first block from `number` on, around the end, that is held out, or is not; None: there is
        none."""
        for step in range(self._num_blocks):
            candidate = (number + step) % self._num_blocks
            if self._is_held_out(candidate) == held_out:
                return candidate
        return None

    def _is_held_out(self, number: int) -> bool:
        if number not in self._fate:
            digest = document_hash(self._block_at(number).tobytes())
            self._fate[number] = is_held_out(digest, self._percent)
        return self._fate[number]

    def _block_at(self, number: int) -> Block:
        file = int(np.searchsorted(self._first, number, side="right")) - 1
        start = (number - int(self._first[file])) * self._block
        block: Block = self._files[file][start : start + self._block]
        return block

    def _checked(self, windows: Windows) -> Windows:
        highest = int(windows.max())
        if highest >= self._vocab_size:
            raise ConfigError(f"data: token id {highest}, but model.config.vocab_size is {self._vocab_size}")
        return windows

    def _digest_of_file(self, index: int) -> bytes:
        file = self._files[index]
        starts = np.linspace(0, max(0, len(file) - self._block), SAMPLED_BLOCKS).astype(np.int64)
        sample = b"".join(file[s : s + self._block].tobytes() for s in dict.fromkeys(starts.tolist()))
        return document_hash(len(file).to_bytes(8, "big") + sample)


def _mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    try:
        size = path.stat().st_size
        if size % dtype.itemsize:
            raise ConfigError(f"data: {path} is no whole number of {dtype.name} (data.token_dtype)")
        return np.memmap(path, dtype=dtype, mode="r") if size else np.zeros(0, dtype=dtype)
    except OSError as error:
        raise ConfigError(f"data: cannot read {path}: {error.strerror}") from error
