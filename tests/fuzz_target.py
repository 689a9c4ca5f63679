"""What a parser is tried with, and how it may refuse."""

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from samples import samples, written

Examine = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """One parser, or a few that read the same bytes."""

    name: str
    sites: tuple[str, ...]
    """Places in the source that it tries, as `parser_sites` names them."""
    form: str
    """`msgpack`, `json` or `raw`: what its inputs are."""
    seeds: Callable[[], Iterable[bytes]]
    """Valid inputs, or nearly so."""
    examine: Examine
    refuses: tuple[type[Exception], ...] = ()
    """How it may refuse bytes; some only return that there is nothing of use."""

    def try_(self, data: bytes) -> bool:
        """Whether it takes the bytes. Raises whatever it should not."""
        try:
            self.examine(data)
        except self.refuses:
            return False
        return True


def of(declared: Any, form: str = "msgpack") -> Callable[[], Iterable[bytes]]:
    """Valid inputs of a type."""
    return lambda: [written(value, form) for value in samples(declared)]


@cache
def folder() -> Path:
    """Where files of targets lie, in memory where there is such a place."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    holder = tempfile.TemporaryDirectory(prefix="talkoot-fuzz-", dir=memory)
    _kept.append(holder)
    return Path(holder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def on_disk(name: str, look: Callable[[Path], object], around: Callable[[bytes], bytes] = bytes) -> Examine:
    """Write the file, then `look` at it."""

    def examine(data: bytes) -> None:
        path = folder() / name
        path.write_bytes(around(data))
        look(path)

    return examine
