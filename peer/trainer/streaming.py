"""A corpus that is streamed (`huggingface`): documents arrive in an order drawn for each peer and round."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from blake3 import blake3

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Data
from talkoot.peer.trainer.heldout import document_hash, is_held_out
from talkoot.peer.trainer.tokenizer import Tokenizer
from talkoot.peer.trainer.windows import Windows, draws

SHUFFLE_BUFFER = 1000
"""Documents among which the next one is drawn, besides the order of shards."""

MAX_LOOKED_AT = 100_000
"""Documents searched for held-out ones."""

Opener = Callable[[int | None], Iterator[bytes]]
"""Opens the stream: shards and documents in the order of a seed, or (None) in the data set's own."""


class StreamedCorpus:
    """Windows cut one after the other from a stream. A sequence taken up in its middle goes on with another
    order of shards, drawn from the seed and the position: nothing is streamed twice to get there."""

    train_tokens = 0
    held_out_tokens = 0

    def __init__(
        self, opener: Opener, tokenizer: Tokenizer, data: Data, *, identity: bytes, notice: str = ""
    ) -> None:
        self.hash = blake3(identity, derive_key_context="talkoot 2026 streamed corpus").digest()
        self.notice = notice
        self._open = opener
        self._tokenizer = tokenizer
        self._window = data.sequence_length + 1
        self._percent = data.held_out_percent
        self._at: tuple[int, int] | None = None  # seed and position that the stream stands at
        self._stream: Iterator[np.ndarray[Any, Any]] = iter(())
        self._rest: np.ndarray[Any, Any] = np.zeros(0, dtype=np.int64)
        self._evaluation: Windows | None = None

    def training(self, seed: int, position: int, count: int) -> Windows:
        """The next `count` windows of the sequence of `seed`. Raises ConfigError on an empty stream."""
        if self._at != (seed, position):
            self._stream = self._endless(seed + position)
            self._rest = np.zeros(0, dtype=np.int64)
        need = count * self._window
        parts = [self._rest]
        while sum(map(len, parts)) < need:
            parts.append(next(self._stream))
        tokens = np.concatenate(parts)
        self._rest = tokens[need:]
        self._at = (seed, position + count)
        return tokens[:need].reshape(count, self._window)

    def held_out(self, count: int) -> Windows:
        """At most `count` windows of the first held-out documents in the data set's own order."""
        if self._evaluation is None or len(self._evaluation) < count:
            self._evaluation = self._collect(count)
        return self._evaluation[:count]

    def drawn(self, seed: int, count: int) -> Windows:
        """At most `count` of the held-out windows that evaluations have read, in an order that follows from
        `seed`: nothing is streamed for it but the first time."""
        pool = self.held_out(count) if self._evaluation is None else self._evaluation
        order = np.argsort(draws(seed, 0, len(pool), 2**62), kind="stable")
        return pool[order[:count]]

    def _collect(self, count: int) -> Windows:
        need = count * self._window
        tokens: list[np.ndarray[Any, Any]] = [np.zeros(0, dtype=np.int64)]
        for number, document in enumerate(self._open(None)):
            if sum(map(len, tokens)) >= need or number >= MAX_LOOKED_AT:
                break
            if is_held_out(document_hash(document), self._percent):
                tokens.append(self._encode(document))
        joined = np.concatenate(tokens)
        whole = min(count, len(joined) // self._window)
        return joined[: whole * self._window].reshape(whole, self._window)

    def _endless(self, seed: int) -> Iterator[np.ndarray[Any, Any]]:
        """Tokens of training documents; a stream that ends is opened again in another order."""
        for again in range(2**31):
            useful = False
            for document in self._open((seed + again) % 2**31):
                if document and not is_held_out(document_hash(document), self._percent):
                    useful = True
                    yield self._encode(document)
            if not useful:
                raise ConfigError("data: the data set has no documents to train on")

    def _encode(self, document: bytes) -> np.ndarray[Any, Any]:
        ids = self._tokenizer.encode([document])[0]
        return np.append(ids, self._tokenizer.separator).astype(np.int64)


def huggingface(data: Data, tokenizer: Tokenizer) -> StreamedCorpus:
    """The data set of the manifest, pinned to its revision.

    Raises ConfigError when `datasets` is not installed or the data set cannot be opened.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "data.source 'huggingface' needs the extra: pip install 'talkoot[huggingface]'"
        ) from error
    try:
        whole = datasets.load_dataset(
            data.dataset, data.subset or None, split=data.split, revision=data.revision, streaming=True
        )
    except Exception as error:  # the hub client raises types of a dozen libraries
        raise ConfigError(
            f"data: cannot open {data.dataset!r}: {' '.join(str(error).split())[:200]}"
        ) from error
    identity = "\0".join((data.dataset, data.subset, data.split, data.revision)).encode()
    licence = str(getattr(whole.info, "license", "") or "unknown")
    notice = f"data set {data.dataset} at {data.revision[:12]}, licence: {licence[:100]}"
    return StreamedCorpus(
        opener_of(whole, data.text_field), tokenizer, data, identity=identity, notice=notice
    )


def opener_of(whole: Any, text_field: str) -> Opener:
    """Open an iterable data set of the `datasets` library."""

    def documents(seed: int | None) -> Iterator[bytes]:
        rows = whole if seed is None else whole.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        for row in rows:
            value = row.get(text_field)
            if not isinstance(value, str):
                raise ConfigError(f"data.text_field: the data set has no text in field {text_field!r}")
            yield value.encode("utf-8", "surrogatepass")

    return documents
