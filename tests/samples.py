"""Inputs for parsers of declared types: valid ones made from the type, and changed ones.

A parser that is written in C shows nothing to a fuzzer that looks at coverage, and random bytes rarely get
past its first octet. So an input is changed as the tree that it stands for, and written down again.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**64 - 1, -(2**63), 0.0, -0.5, 1e308, float("nan"),
    float("inf"), "", "x", "\0", "/ip4/1.2.3.4/tcp/1/p2p/x", "é" * 40, b"", bytes(31), bytes(32),
    bytes(33), bytes(64), [], {}, [[]], [None] * 300, {"x": {}}, [[[[[[[[[[]]]]]]]]]],
)  # fmt: skip
"""What may stand where something else is expected."""


def samples(declared: Any) -> Iterator[Any]:
    """Plain values that a parser of a type takes, of each kind that a union has."""
    yield from _samples(inspect.type_info(declared), 0)


def _samples(info: inspect.Type, depth: int) -> Iterator[Any]:
    """At least one."""
    match info:
        case inspect.UnionType(types=types):
            for member in types:
                yield from _samples(member, depth)
        case inspect.StructType():
            yield from _structs(info, depth)
        case inspect.BytesType():
            most = info.max_length if info.max_length is not None else 32
            yield bytes(max(info.min_length or 0, min(32, most)))
            if not depth:
                yield b""
        case inspect.StrType():
            yield "x" * max(1, info.min_length or 0)
        case inspect.IntType():
            yield max(1, info.ge or 0)
        case inspect.FloatType():
            yield 1.0
        case inspect.BoolType():
            yield True
        case inspect.LiteralType(values=values):
            yield values[0]
        case inspect.NoneType():
            yield None
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            yield [next(_samples(item, depth + 1))] * max(1, getattr(info, "min_length", None) or 0)
            yield []
        case inspect.TupleType(item_types=items):
            yield [next(_samples(item, depth + 1)) for item in items]
        case inspect.DictType(key_type=key, value_type=value):
            yield {next(_samples(key, depth + 1)): next(_samples(value, depth + 1))}
        case inspect.Metadata(type=inner):
            yield from _samples(inner, depth)
        case _:
            yield None


def _structs(info: inspect.StructType, depth: int) -> Iterator[Any]:
    choices = [(field.encode_name, list(_samples(field.type, depth + 1))) for field in info.fields]
    for number in range(max(len(found) for _, found in choices) if depth < 2 and choices else 1):
        values = {name: found[number % len(found)] for name, found in choices}
        if info.array_like:
            tag = [info.tag] if info.tag is not None else []
            yield [*tag, *values.values()]
        else:
            yield ({info.tag_field: info.tag} if info.tag_field else {}) | values


def written(value: Any, form: str) -> bytes:
    """A plain value as msgpack or JSON."""
    if form == "json":
        return json.dumps(value, default=lambda odd: odd.decode("latin-1")).encode()
    return msgspec.msgpack.encode(value)


def read(data: bytes, form: str) -> Any:
    """The opposite. Raises ValueError, RecursionError."""
    return json.loads(data) if form == "json" else msgspec.msgpack.decode(data)


def changed(data: bytes, form: str, rng: random.Random) -> bytes:
    """Something else, which is mostly still what its form says."""
    if form in ("msgpack", "json") and rng.random() < 0.8:
        try:
            return written(_with_odd(read(data, form), rng), form)
        except (ValueError, TypeError, RecursionError, OverflowError):
            pass
    at = rng.randrange(len(data) + 1)
    if rng.random() < 0.1:
        return (data[:at] + rng.choice((b"[", b"\x91", b"{", b"\x81\xa1x"))) * rng.choice((2, 5000))
    noise = rng.randbytes(rng.randrange(4))
    return data[:at] + noise + data[at + rng.randrange(4) :]


def _with_odd(value: Any, rng: random.Random) -> Any:
    """The value with something odd in one place."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: inner for name, inner in value.items() if name != key}
        return {**value, key: _with_odd(value[key], rng)} | ({"odd": 1} if rng.random() < 0.05 else {})
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:at] + value[at + 1 :]
        if rng.random() < 0.1:
            return value * rng.choice((2, 70, 300))
        return [*value[:at], _with_odd(value[at], rng), *value[at + 1 :]]
    if isinstance(value, bytes) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return value[:at] + bytes([rng.randrange(256)]) + value[at + 1 :]
    if isinstance(value, int | float) and rng.random() < 0.3:
        return value + rng.choice((-1, 1))
    return rng.choice(ODD)
