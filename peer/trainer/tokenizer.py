"""Bytes to token ids: `bytes` (256 values) or a `tokenizer.json`, checked against the manifest's hash."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from blake3 import blake3

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Data

Tokens = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
"""A vector of token ids."""

MAX_TOKENIZER_BYTES = 64 * 1024 * 1024

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|eos|>", "[SEP]")
"""Names under which tokenizers know the end of a document, first match taken."""


class Tokenizer(Protocol):
    """Turns documents into ids below `vocab_size`; `separator` stands between two documents."""

    vocab_size: int
    separator: int
    dtype: np.dtype[np.unsignedinteger[Any]]

    def encode(self, documents: Sequence[bytes]) -> list[Tokens]:
        """Ids of each document, without separators."""
        ...

    def decode(self, ids: Sequence[int]) -> bytes:
        """Bytes of some ids; unknown ids are left out."""
        ...


class ByteTokenizer:
    """Every byte is a token; documents are separated by a zero byte."""

    vocab_size = 256
    separator = 0
    dtype: np.dtype[np.unsignedinteger[Any]] = np.dtype("<u1")

    def encode(self, documents: Sequence[bytes]) -> list[Tokens]:
        """The bytes themselves."""
        return [np.frombuffer(document, dtype=np.uint8) for document in documents]

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes themselves."""
        return bytes(i for i in ids if 0 <= i < 256)


class FileTokenizer:
    """A `tokenizer.json` of the `tokenizers` library."""

    def __init__(self, data: bytes, where: str) -> None:
        """Raises ConfigError when `data` is no tokenizer."""
        import tokenizers

        try:
            self._inner = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises plain Exception for a bad file
            raise ConfigError(f"data.tokenizer: {where} is no tokenizer.json: {str(error)[:200]}") from error
        self.vocab_size = self._inner.get_vocab_size()
        known = [self._inner.token_to_id(name) for name in END_OF_TEXT]
        self.separator = next((i for i in known if i is not None), 0)
        self.dtype = np.dtype("<u2") if self.vocab_size <= 2**16 else np.dtype("<u4")

    def encode(self, documents: Sequence[bytes]) -> list[Tokens]:
        """Ids without special tokens; bytes that are no UTF-8 are replaced."""
        texts = [document.decode("utf-8", "replace") for document in documents]
        encoded = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        return [np.asarray(one.ids, dtype=self.dtype) for one in encoded]

    def decode(self, ids: Sequence[int]) -> bytes:
        """The text in UTF-8, without special tokens."""
        return str(self._inner.decode(list(ids))).encode()


def tokenizer_hash(data: bytes) -> str:
    """What `data.tokenizer_hash` of a sealed manifest holds: hex BLAKE3 of the file."""
    return blake3(data).hexdigest()


def has_hash(path: Path, expected: str) -> bool:
    """Whether a file that can be read is the tokenizer with this hash."""
    try:
        return tokenizer_hash(read_file(path)) == expected
    except ConfigError:
        return False


def read_file(path: Path) -> bytes:
    """Content of a `tokenizer.json`. Raises ConfigError when it is missing or too long."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOKENIZER_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"data.tokenizer: cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_TOKENIZER_BYTES:
        raise ConfigError(f"data.tokenizer: {path} is longer than {MAX_TOKENIZER_BYTES} bytes")
    return data


def load(data: Data, base: Path) -> Tokenizer:
    """The tokenizer of the manifest, its path relative to `base`.

    Raises ConfigError when it is missing, damaged or another one than the swarm's.
    """
    if data.tokenizer == "bytes":
        return ByteTokenizer()
    content = read_file(base / data.tokenizer)
    if data.tokenizer_hash and tokenizer_hash(content) != data.tokenizer_hash:
        raise ConfigError(f"data.tokenizer: {base / data.tokenizer} is not the swarm's (another hash)")
    return FileTokenizer(content, str(base / data.tokenizer))


def require_fit(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises ConfigError when the model has fewer ids than the tokenizer."""
    if vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.config.vocab_size is {vocab_size}; the tokenizer needs {tokenizer.vocab_size}"
        )
