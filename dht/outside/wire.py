"""Protobuf, as much as hivemind's and libp2p's messages need: flat fields, bounded before they are parsed.

Our own because py-libp2p and hivemind cannot be in one process, and because generated code takes any number
of fields. Pure.
"""

import struct
from collections.abc import Iterator

from talkoot.dht.multiaddr import varint

MAX_FIELDS = 8192
"""Most fields of one message, far above the two for each neighbour, address or result of an honest one."""
MAX_VARINT_BYTES = 10

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DOUBLE = struct.Struct("<d")


def bytes_field(number: int, data: bytes) -> bytes:
    """One field of bytes, text or a message."""
    return varint(number << 3 | _BYTES) + varint(len(data)) + data


def number_field(number: int, value: int) -> bytes:
    """One field of a whole number of 0 or more."""
    return varint(number << 3 | _VARINT) + varint(value)


def double_field(number: int, value: float) -> bytes:
    """One field of a float64."""
    return varint(number << 3 | _FIXED64) + _DOUBLE.pack(value)


class Message:
    """A parsed message. Fields of a wrong type are as good as missing."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError for bytes that are no message, or one of too many fields."""
        self._fields: dict[int, list[int | bytes]] = {}
        for count, (number, value) in enumerate(_fields(memoryview(data))):
            if count >= MAX_FIELDS:
                raise ValueError(f"message of more than {MAX_FIELDS} fields")
            self._fields.setdefault(number, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def all_bytes(self, number: int) -> list[bytes]:
        """The values of a repeated field."""
        return [value for value in self._fields.get(number, ()) if isinstance(value, bytes)]

    def bytes(self, number: int) -> bytes:
        """The value of a field, the last one if there are more; empty where it is missing."""
        values = self.all_bytes(number)
        return values[-1] if values else b""

    def number(self, number: int) -> int:
        """A whole number; 0 where it is missing."""
        values = [value for value in self._fields.get(number, ()) if isinstance(value, int)]
        return values[-1] if values else 0

    def numbers(self, number: int) -> list[int]:
        """A repeated whole number or truth value, packed or not. Raises ValueError."""
        found: list[int] = []
        for value in self._fields.get(number, ()):
            found += [value] if isinstance(value, int) else _packed(value)
        return found

    def double(self, number: int) -> float:
        """A float64; 0 where it is missing."""
        value = self.bytes(number)
        return float(_DOUBLE.unpack(value)[0]) if len(value) == _DOUBLE.size else 0.0


def read_varint(data: memoryview, start: int) -> tuple[int, int]:
    """The number at `start` and where it ends. Raises ValueError."""
    number = 0
    for position in range(start, min(start + MAX_VARINT_BYTES, len(data))):
        number |= (data[position] & 127) << 7 * (position - start)
        if data[position] < 128:
            return number, position + 1
    raise ValueError("a number without an end")


def _packed(data: bytes) -> list[int]:
    if len(data) > MAX_FIELDS:
        raise ValueError("too many packed numbers")
    view, position, found = memoryview(data), 0, []
    while position < len(view):
        number, position = read_varint(view, position)
        found.append(number)
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = read_varint(data, position)
            yield tag >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            size, position = read_varint(data, position)
        if size is None or size > len(data) - position:
            raise ValueError("a field that is cut or of an unknown kind")
        yield tag >> 3, bytes(data[position : position + size])
        position += size
