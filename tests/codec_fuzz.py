"""Hostile bytes for one kind of codec, and what must hold whatever they are.

An input is an octet that picks the codec among those of its kind, an octet of flags, two octets for the
number of elements, and the bytes. Unless flags say otherwise, header and length are put right, so that the
bytes of the body are what is tried.
"""

import math
import random
import struct
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from talkoot.compression import codec
from talkoot.compression.base import HEADER, MAGIC
from talkoot.compression.codec import Codec, CodecError

FRONT = struct.Struct("<BBH")
MAX_NUMEL = 3 * 4096
MAX_BODY = 4096
RAW_HEADER, RAW_LENGTH = 1, 2
"""Flags: take the header from the bytes; take the length as it is."""
CANONICAL = ("fp32", "fp16", "bf16", "topk")
"""Kinds of which one vector has one encoding, so that what decodes encodes to the same bytes."""


@cache
def variants(kind: str) -> list[Codec]:
    """The codecs of a kind: the default one, and those of all powers of two that it takes."""
    found = {}
    for name in [kind, *(f"{kind}:{2**power}" for power in range(13))]:
        try:
            found[codec.get(name).name] = codec.get(name)
        except CodecError:
            continue
    return list(found.values())


def split(kind: str, data: bytes) -> tuple[Codec, bytes, int]:
    """The codec, the bytes to decode and the number of elements that an input stands for."""
    which, flags, drawn = FRONT.unpack(data[: FRONT.size].ljust(FRONT.size, b"\0"))
    choices = variants(kind)
    subject, rest = choices[which % len(choices)], data[FRONT.size :]
    numel = min(drawn, MAX_NUMEL)
    while subject.encoded_size(numel) > HEADER.size + MAX_BODY:
        numel //= 2
    size = subject.encoded_size(numel)
    if not flags & RAW_HEADER:
        rest = HEADER.pack(MAGIC, subject.wire_id, subject.parameter, numel) + rest
    if not flags & RAW_LENGTH:
        rest = rest[:size].ljust(size, b"\0")
    return subject, rest, numel


def examine(kind: str, data: bytes) -> bool:
    """Whether the bytes decode; AssertionError, or whatever else comes out, if a promise is broken."""
    subject, encoded, numel = split(kind, data)
    out_P = torch.full((numel,), math.nan)
    refusals = {
        refusal(lambda: subject.decode_into(encoded, out_P)),
        refusal(lambda: subject.decode(encoded, numel)),
        refusal(lambda: subject.squared_norm(encoded, numel)),
        refusal(lambda: subject.decode_with_norm(encoded, torch.empty(numel))),
    }
    assert len(refusals) == 1, f"ways of reading disagree: {refusals}"
    if refusals != {None}:
        return False
    values = out_P.numpy()
    assert np.isfinite(values).all()
    assert not np.signbit(values[values == 0.0]).any()
    decoded_P = subject.decode(encoded, numel)
    assert decoded_P.shape == (numel,)
    assert torch.equal(decoded_P, out_P)
    norm = subject.squared_norm(encoded, numel)
    assert subject.decode_with_norm(encoded, torch.empty(numel)) == norm
    assert math.isclose(norm, float(np.square(values.astype(np.float64)).sum()), rel_tol=1e-9)
    if kind in CANONICAL:
        assert subject.encode(out_P) == encoded
    else:  # levels that no encoder chooses may add up to more than it takes
        assert refusal(lambda: subject.encode(out_P)) in (None, "too_large")
    return True


def refusal(read: Callable[[], object]) -> str | None:
    """The reason for which bytes are refused, None if they are not."""
    try:
        read()
    except CodecError as error:
        return error.reason
    return None


def mutate(kind: str, data: bytes, max_size: int, rng: random.Random) -> bytes:
    """Another input: `data` or a valid encoding, with a few changes or none.

    Decoders have few branches, so what coverage keeps is small; the valid ones bring size back.
    """
    changed = bytearray(valid(kind, rng) if rng.random() < 0.5 else data.ljust(FRONT.size + 1, b"\0"))
    for _ in range(rng.randrange(4)):
        change(changed, rng)
    return bytes(changed[:max_size])


def change(data: bytearray, rng: random.Random) -> None:
    """Change something in place, in ways that keep some of what decoders count."""
    choice = rng.randrange(8)
    at = rng.randrange(FRONT.size, len(data)) if len(data) > FRONT.size else 0
    bit = 1 << rng.randrange(8)
    if choice <= 3:  # two bits change places
        other = min(len(data) - 1, at + rng.randrange(2))
        other_bit = 1 << rng.randrange(8)
        if bool(data[at] & bit) != bool(data[other] & other_bit):
            data[at] ^= bit
            data[other] ^= other_bit
    elif choice <= 5:  # a number with a meaning
        number = rng.choice((0, 1, 0x0D80, 0x0D7F, 0x3F80, 0x7C00, 0x7F7F, 0x7F80, 0x7FFF, 0x8000, 0xFFFF))
        data[at : at + 2] = struct.pack("<H", number)
    elif choice == 6:
        data[at] ^= bit
    else:
        data[rng.randrange(FRONT.size)] = rng.randrange(256)


def valid(kind: str, rng: random.Random) -> bytes:
    """The input that stands for a valid encoding of a drawn vector."""
    choices = variants(kind)
    which = rng.randrange(len(choices))
    numel = rng.choice((0, 1, 2, 33, 64, 70, 100, 300, 1000, 4096, 4196))
    while choices[which].encoded_size(numel) > HEADER.size + MAX_BODY:
        numel //= 2
    draw = np.random.default_rng(rng.randrange(2**32))
    values = draw.standard_normal(numel) * draw.choice((0.0, 1e-35, 1e-3, 1.0, 60.0))
    values[draw.random(numel) < draw.choice((0.0, 0.5, 0.99))] = 0.0
    if draw.random() < 0.5:
        values = np.round(values)
    data = choices[which].encode(torch.from_numpy(values.astype(np.float32)))
    return FRONT.pack(which, 0, numel) + data[HEADER.size :]
