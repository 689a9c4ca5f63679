"""Codecs by name: `fp32`, `fp16`, `bf16`, `int8` (blocks of 256), `int8:128` (blocks of 128)."""

from functools import lru_cache

from talkoot.compression.base import Bytes, Codec, CodecError
from talkoot.compression.floats import Bf16, Fp16, Fp32
from talkoot.compression.int8 import Int8

__all__ = ["NAMES", "Bytes", "Codec", "CodecError", "get"]

NAMES = ("fp32", "fp16", "bf16", "int8")
"""Names without parameter."""


@lru_cache(maxsize=64)
def get(name: str) -> Codec:
    """The codec called `name`; raises CodecError("unknown_codec")."""
    kind, colon, parameter = name.partition(":")
    if kind == "int8" and not colon:
        return Int8()
    if kind == "int8" and parameter.isascii() and parameter.isdecimal() and len(parameter) <= 4:
        return Int8(int(parameter))
    plain = {codec.name: codec for codec in (Fp32, Fp16, Bf16)}
    if colon or kind not in plain:
        raise CodecError("unknown_codec", f"no codec {name!r}; try {', '.join(NAMES)} or int8:<block size>")
    return plain[kind]()
