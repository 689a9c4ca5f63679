"""The journal: a few values that must be on disk before anything that depends on them is sent.

A voter writes what it signed and its lock here, so that a restart cannot make it sign twice.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
from blake3 import blake3

from talkoot.peer.files import atomic_write, ignore_step

MAX_JOURNAL_BYTES = 16 << 20
"""Longest journal that is written or read."""

MAGIC = b"talkoot journal 1\n"
_CHECKSUM_BYTES = 32
_DOMAIN = "talkoot 2026 journal"


class Journal:
    """The last value of each key, in one small file that is replaced by every write."""

    def __init__(self, path: Path, *, hook: Callable[[str], None] = ignore_step) -> None:
        """Read the journal at `path`. Raises OSError."""
        self._path = path
        self._hook = hook
        values = _load(path)
        self.lost = values is None
        """True if there was no journal, or a damaged one: what was signed before is not known."""
        self._values = values or {}

    def read(self, key: str) -> bytes | None:
        """The value that was written last under `key`."""
        return self._values.get(key)

    def begin(self) -> None:
        """Of a peer that never signed anything: from now on, a journal that is not there was lost.

        Raises OSError.
        """
        if self.lost:
            self._replace({})
            self.lost = False

    def write(self, key: str, value: bytes) -> None:
        """Replace the value of `key`; on disk on return.

        Raises OSError, or ValueError if the journal would be too long; then nothing that depends on
        `value` may be sent.
        """
        self._replace({**self._values, key: bytes(value)})

    def discard(self, key: str) -> None:
        """Forget a key, if there. Raises OSError."""
        if key in self._values:
            self._replace({name: value for name, value in self._values.items() if name != key})

    def _replace(self, values: dict[str, bytes]) -> None:
        body = msgspec.msgpack.encode(values, order="deterministic")
        data = MAGIC + _checksum(body) + body
        if len(data) > MAX_JOURNAL_BYTES:
            raise ValueError(f"a journal of {len(data)} bytes; at most {MAX_JOURNAL_BYTES} fit")
        atomic_write(self._path, data, hook=self._hook)
        self._values = values


def _load(path: Path) -> dict[str, bytes] | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JOURNAL_BYTES + 1)
    except FileNotFoundError:
        return None
    start = len(MAGIC) + _CHECKSUM_BYTES
    body = data[start:]
    if len(data) > MAX_JOURNAL_BYTES or data[:start] != MAGIC + _checksum(body):
        return None
    try:
        return msgspec.msgpack.decode(body, type=dict[str, bytes])
    except (ValueError, RecursionError):
        return None


def _checksum(body: bytes) -> bytes:
    return blake3(body, derive_key_context=_DOMAIN).digest()
