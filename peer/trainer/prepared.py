"""A corpus that was turned into two token files once: what is trained on, and what is held out.

The files are written beside each other in a folder and mapped; a later start with the same sources takes them
as they are.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from talkoot.dht.errors import ConfigError
from talkoot.peer.files import fsync_directory
from talkoot.peer.trainer.heldout import corpus_hash, document_hash, is_held_out
from talkoot.peer.trainer.tokenizer import Tokenizer, Tokens
from talkoot.peer.trainer.windows import Windows, draws, even_starts, gather

BATCH_DOCUMENTS = 256
"""Documents tokenized at a time."""


class _Meta(msgspec.Struct, forbid_unknown_fields=True):
    """Content of `meta.json`: what the token files were made from."""

    key: str
    corpus: str
    train_tokens: int
    held_out_tokens: int
    dtype: str


class PreparedCorpus:
    """Windows at random offsets of the mapped training tokens."""

    notice = ""

    def __init__(self, folder: Path, meta: _Meta, sequence_length: int) -> None:
        self.hash = bytes.fromhex(meta.corpus)
        self.train_tokens = meta.train_tokens
        self.held_out_tokens = meta.held_out_tokens
        self._window = sequence_length + 1
        self._train = _mapped(folder / "train.bin", meta.dtype, meta.train_tokens)
        self._held_out = _mapped(folder / "held_out.bin", meta.dtype, meta.held_out_tokens)

    def training(self, seed: int, position: int, count: int) -> Windows:
        """Windows `position` to `position + count` of the sequence of `seed`."""
        starts = draws(seed, position, count, len(self._train) - self._window + 1)
        return gather(self._train, starts, self._window)

    def held_out(self, count: int) -> Windows:
        """At most `count` windows, the same on every peer with the same data."""
        starts = even_starts(len(self._held_out), self._window, count)
        return gather(self._held_out, starts, self._window)

    def drawn(self, seed: int, count: int) -> Windows:
        """At most `count` held-out windows at offsets that follow from `seed`."""
        places = len(self._held_out) - self._window + 1
        starts = draws(seed, 0, count, places) if places > 0 else np.zeros(0, dtype=np.int64)
        return gather(self._held_out, starts, self._window)


def prepare(
    folder: Path,
    key: str,
    documents: Callable[[], Iterable[bytes]],
    tokenizer: Tokenizer,
    *,
    held_out_percent: float,
    sequence_length: int,
) -> PreparedCorpus:
    """The corpus in `folder`, made anew unless it was made with the same `key`.

    Raises ConfigError when there are too few tokens for one window, OSError when the disk is full.
    """
    meta = _load_meta(folder)
    if meta is None or meta.key != key:
        meta = _write(folder, key, documents(), tokenizer, held_out_percent)
    if meta.train_tokens <= sequence_length:
        raise ConfigError(
            f"data: {meta.train_tokens} tokens to train on ({meta.held_out_tokens} held out) are fewer than "
            f"one window of {sequence_length + 1}; more text is needed"
        )
    return PreparedCorpus(folder, meta, sequence_length)


def _mapped(path: Path, dtype: str, length: int) -> np.ndarray[Any, Any]:
    if not length:
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=(length,))


def _load_meta(folder: Path) -> _Meta | None:
    """The description of usable token files, or None."""
    try:
        meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=_Meta)
        size = np.dtype(meta.dtype).itemsize
        whole = (folder / "train.bin").stat().st_size == meta.train_tokens * size
        whole &= (folder / "held_out.bin").stat().st_size == meta.held_out_tokens * size
    except (OSError, ValueError, TypeError):
        return None
    return meta if whole else None


def _write(
    folder: Path, key: str, documents: Iterable[bytes], tokenizer: Tokenizer, held_out_percent: float
) -> _Meta:
    """Write the token files under a temporary name, then swap the folder in."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    held_out: dict[bytes, Tokens] = {}
    digests: dict[bytes, None] = {}
    with (fresh / "train.bin").open("wb") as train:
        for batch in _batches(documents, digests):
            for digest, ids in zip(batch, tokenizer.encode(list(batch.values())), strict=True):
                if is_held_out(digest, held_out_percent):
                    held_out[digest] = ids
                else:
                    _append(train, ids, tokenizer)
        _sync(train)
        train_bytes = train.tell()
    with (fresh / "held_out.bin").open("wb") as file:
        for digest in sorted(held_out):  # by content: the order of paths differs between machines
            _append(file, held_out[digest], tokenizer)
        _sync(file)
        held_out_bytes = file.tell()
    size = tokenizer.dtype.itemsize
    meta = _Meta(
        key=key,
        corpus=corpus_hash(list(digests)).hex(),
        train_tokens=train_bytes // size,
        held_out_tokens=held_out_bytes // size,
        dtype=tokenizer.dtype.str,
    )
    with (fresh / "meta.json").open("wb") as file:
        file.write(msgspec.json.encode(meta))
        _sync(file)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.replace(folder)
    with suppress(OSError):
        fsync_directory(folder.parent)
    return meta


def _batches(documents: Iterable[bytes], seen: dict[bytes, None]) -> Iterator[dict[bytes, bytes]]:
    """Groups of documents by hash; a document that was seen before is left out."""
    batch: dict[bytes, bytes] = {}
    for document in documents:
        digest = document_hash(document)
        if document and digest not in seen:
            seen[digest] = None
            batch[digest] = document
        if len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch = {}
    if batch:
        yield batch


def _append(file: BinaryIO, ids: Tokens, tokenizer: Tokenizer) -> None:
    file.write(np.asarray(ids, dtype=tokenizer.dtype).tobytes())
    file.write(np.asarray([tokenizer.separator], dtype=tokenizer.dtype).tobytes())


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
