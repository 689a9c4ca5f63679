"""Codecs by name: `fp32`, `fp16`, `bf16`, `int8` (blocks of 256), `int8:128` (blocks of 128), and so on.

A name is a kind, and for some kinds a colon and a number, else its default. Kinds whose bytes depend on
shared chance take it from a seed; the others ignore it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from talkoot.compression.base import Bytes, Codec, CodecError
from talkoot.compression.floats import Bf16, Fp16, Fp32
from talkoot.compression.int4 import Int4
from talkoot.compression.int8 import Int8
from talkoot.compression.lloyd import Lloyd
from talkoot.compression.sign import Sign
from talkoot.compression.topk import Topk

__all__ = ["NAMES", "Bytes", "Codec", "CodecError", "get"]

Maker: TypeAlias = Callable[[int | None, int], Codec | None]
"""Takes the number after the colon (None without one) and the seed; None or CodecError("unknown_codec") if
the kind has no such number."""


def _plain(make: Callable[[], Codec]) -> Maker:
    """A kind that takes no number and no seed."""
    return lambda number, seed: make() if number is None else None


def _sized(make: Callable[[int], Codec], default: int) -> Maker:
    """A kind that takes a number, which has a default, and no seed."""
    return lambda number, seed: make(default if number is None else number)


KINDS: dict[str, Maker] = {
    "fp32": _plain(Fp32),
    "fp16": _plain(Fp16),
    "bf16": _plain(Bf16),
    "int8": _sized(Int8, 256),
    "int4": _sized(Int4, 64),
    "lloyd4": lambda number, seed: Lloyd(4, seed) if number is None else None,
    "lloyd2": lambda number, seed: Lloyd(2, seed) if number is None else None,
    "sign": _sized(Sign, 1024),
    "topk": _sized(Topk, 64),
}

NAMES = tuple(KINDS)
"""Names without number."""


@lru_cache(maxsize=64)
def get(name: str, seed: int = 0) -> Codec:
    """The codec called `name`, with a `seed` of 64 bits; raises CodecError("unknown_codec").

    A codec with a seed refuses bytes that were encoded with another one, as CodecError("seed").
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed has 64 bits, got {seed}")
    kind, colon, text = name.partition(":")
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else None
    found = KINDS[kind](number, seed) if kind in KINDS and bool(colon) == (number is not None) else None
    if found is None:
        raise CodecError("unknown_codec", f"no codec {name!r}; try {', '.join(NAMES)}, int8:<block size>")
    return found
