"""The data of a swarm as windows of tokens. One place knows all sources; each has a file of its own."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from blake3 import blake3

from talkoot.peer.manifest import Data
from talkoot.peer.trainer import documents, prepared, streaming, tokenfiles
from talkoot.peer.trainer.tokenizer import Tokenizer
from talkoot.peer.trainer.windows import Windows


class Corpus(Protocol):
    """What is trained on, and what is held out."""

    hash: bytes
    """32 bytes over what is read."""
    train_tokens: int
    """0: not known."""
    held_out_tokens: int
    notice: str
    """A line to show, such as a licence."""

    def training(self, seed: int, position: int, count: int) -> Windows:
        """Windows `position` to `position + count` of the sequence of `seed`; none is held out."""
        ...

    def held_out(self, count: int) -> Windows:
        """At most `count` held-out windows; the same on every peer with the same data."""
        ...

    def drawn(self, seed: int, count: int) -> Windows:
        """At most `count` held-out windows that follow from `seed`; likewise. None where none are held
        out."""
        ...


def open_corpus(
    data: Data,
    tokenizer: Tokenizer,
    *,
    folder: Path,
    base: Path,
    vocab_size: int,
    own_paths: Sequence[str] = (),
) -> Corpus:
    """The corpus of a manifest's section [data].

    `folder` is ours to keep token files in; relative paths start from `base`; `own_paths` are the operator's
    and replace `data.paths`. Raises ConfigError when data is missing, empty or damaged.
    """
    if data.source == "huggingface":
        return streaming.huggingface(data, tokenizer)
    if data.source == "stdlib":
        files = documents.stdlib_files()
    else:
        if not own_paths:
            documents.require_below(data.paths)
        files = documents.expand(own_paths or data.paths, base)
    if data.source == "tokens":
        return tokenfiles.TokenFiles(
            files,
            data.token_dtype,
            sequence_length=data.sequence_length,
            held_out_percent=data.held_out_percent,
            vocab_size=vocab_size,
        )
    return prepared.prepare(
        folder,
        _key(data, files),
        _reader(data, files),
        tokenizer,
        held_out_percent=data.held_out_percent,
        sequence_length=data.sequence_length,
    )


def _reader(data: Data, files: list[Path]) -> Callable[[], Iterable[bytes]]:
    if data.source == "jsonl":
        return lambda: documents.json_lines(files, data.text_field)
    return lambda: documents.text(files)


def _key(data: Data, files: list[Path]) -> str:
    """Changes whenever the token files would: settings, and size and time of each file."""
    stats = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    body = msgspec.msgpack.encode(
        (1, data.source, data.text_field, data.tokenizer, data.tokenizer_hash, data.held_out_percent, stats)
    )
    return blake3(body).hexdigest()
