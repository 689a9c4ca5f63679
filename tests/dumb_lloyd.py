"""A deliberately dumb `lloyd2` and `lloyd4`: one value at a time, with Python's own integers."""

import hashlib
import math
import struct
from collections.abc import Iterator

import numpy as np

WIDTH = 4096
THRESHOLDS = {2: [49], 4: [13, 26, 40, 55, 72, 92, 120]}
LEVELS = {2: [58, 193], 4: [16, 50, 84, 121, 161, 207, 265, 350]}


def f32(value: float) -> float:
    return float(np.float32(value))


def dumb_lloyd(values: list[float], bits: int, seed: int) -> tuple[bytes, list[float]]:
    """Body and decoded values."""
    scales, codes, decoded = b"", list[int](), list[float]()
    for start, width in dumb_blocks(len(values)):
        scale_bits, block_codes = dumb_block(values[start : start + width], bits, seed)
        scales += struct.pack("<H", scale_bits)
        codes += block_codes
        decoded += dumb_decoded(scale_bits, block_codes, bits, seed)
    number = sum(code << bits * i for i, code in enumerate(codes))
    packed = number.to_bytes(-(-len(codes) * bits // 8), "little")
    return struct.pack("<Q", seed) + scales + packed, decoded


def dumb_blocks(numel: int) -> Iterator[tuple[int, int]]:
    """(start, width), each width the largest power of two up to `WIDTH` that is left."""
    start = 0
    while start < numel:
        width = WIDTH
        while width > numel - start:
            width //= 2
        yield start, width
        start += width


def dumb_block(values: list[float], bits: int, seed: int) -> tuple[int, list[int]]:
    """bf16 bits of the scale, and the codes."""
    width = len(values)
    exponent = max(-100, math.frexp(max(map(abs, values)))[1] - 1)
    unit = 2.0 ** (exponent - 11)
    integers = [round(value / unit) for value in values]
    energy = sum(number * number for number in integers)
    inverse = f32(50 / math.sqrt(energy)) if energy else 0.0
    rotated = permuted(hadamard([s * x for s, x in zip(dumb_signs(seed), integers, strict=False)]))
    codes = [dumb_code(math.floor(f32(number * inverse)), bits) for number in rotated]
    levels = levels_of(codes, bits)
    dots = dumb_tree([f32(number * level) for number, level in zip(rotated, levels, strict=True)])
    norms = sum(level * level for level in levels)
    scale = f32(dots / norms / width * unit)
    pattern = struct.unpack("<I", struct.pack("<f", scale))[0]
    pattern = (pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16
    return (pattern, codes) if pattern >= 27 << 7 else (0, [0] * width)


def dumb_decoded(scale_bits: int, codes: list[int], bits: int, seed: int) -> list[float]:
    scale = struct.unpack("<f", struct.pack("<I", scale_bits << 16))[0]
    sums = hadamard(unpermuted(levels_of(codes, bits)))
    return [f32(sign * total * scale) + 0.0 for sign, total in zip(dumb_signs(seed), sums, strict=False)]


def dumb_code(steps: int, bits: int) -> int:
    """The code of a number of steps, by counting the thresholds below it."""
    positive = THRESHOLDS[bits]
    return sum(steps >= threshold for threshold in [*(-t for t in positive), 0, *positive])


def levels_of(codes: list[int], bits: int) -> list[int]:
    levels = [*(-level for level in reversed(LEVELS[bits])), *LEVELS[bits]]
    return [levels[code] for code in codes]


def dumb_signs(seed: int) -> list[int]:
    octets = hashlib.shake_128(b"talkoot rotation" + struct.pack("<Q", seed)).digest(WIDTH // 8)
    return [1 - 2 * (octets[i // 8] >> i % 8 & 1) for i in range(WIDTH)]


def hadamard(values: list[int]) -> list[int]:
    """The Walsh-Hadamard transform in its natural order, by its definition."""
    if len(values) == 1:
        return values
    half = len(values) // 2
    first, second = hadamard(values[:half]), hadamard(values[half:])
    return [a + b for a, b in zip(first, second, strict=True)] + [
        a - b for a, b in zip(first, second, strict=True)
    ]


def permuted(values: list[int]) -> list[int]:
    """Coefficient i * columns + j at j * rows + i."""
    rows = 2 ** (int(math.log2(len(values))) // 2)
    columns = len(values) // rows
    return [values[i * columns + j] for j in range(columns) for i in range(rows)]


def unpermuted(values: list[int]) -> list[int]:
    rows = 2 ** (int(math.log2(len(values))) // 2)
    columns = len(values) // rows
    return [values[j * rows + i] for i in range(rows) for j in range(columns)]


def dumb_tree(values: list[float]) -> float:
    """Add second halves to first halves, rounding to float32 until 64 are left."""
    while len(values) > 1:
        half = len(values) // 2
        sums = [a + b for a, b in zip(values[:half], values[half:], strict=True)]
        values = [f32(total) for total in sums] if half >= 64 else sums
    return values[0]
