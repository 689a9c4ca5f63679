"""The codec `topk` once more: one value at a time, whole numbers and fractions only, no care for speed."""

import math
import struct
from fractions import Fraction

CHUNK = 4096
SMALLEST = 2.0**-100
LARGEST = (2.0 - 2.0**-7) * 2.0**127


def dumb_topk(values: list[float], k: int) -> tuple[bytes, list[float]]:
    """Body and decoded values."""
    records, decoded = [], []
    for start in range(0, len(values), CHUNK):
        record, part = dumb_chunk(values[start : start + CHUNK], k)
        records.append(record)
        decoded += part
    return b"".join(records), decoded


def dumb_chunk(values: list[float], k: int) -> tuple[bytes, list[float]]:
    slots = math.ceil(Fraction(k * len(values), CHUNK))
    by_size = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    kept = sorted(i for i in by_size[:slots] if abs(values[i]) >= SMALLEST)
    low, high, upper = dumb_levels([abs(values[i]) for i in kept])
    decoded = [0.0] * len(values)
    for i, is_upper in zip(kept, upper, strict=True):
        decoded[i] = math.copysign(high if is_upper else low, values[i])
    return dumb_record(kept, [values[i] < 0.0 for i in kept], upper, (low, high), slots, k), decoded


def dumb_levels(magnitudes: list[float]) -> tuple[float, float, list[bool]]:
    """The lower level, the upper one, and for each magnitude whether it takes the upper one."""
    numbers = in_units(magnitudes)
    total = sum(numbers)
    best, threshold = -1.0, math.inf
    down = sorted(zip(magnitudes, numbers, strict=True), reverse=True)
    for size in range(1, len(down)):
        top = float(sum(number for _, number in down[:size]))
        rest = float(total - sum(number for _, number in down[:size]))
        gain = top * top / size + rest * rest / (len(down) - size)
        if down[size - 1][0] > down[size][0] and gain > best:
            best, threshold = gain, down[size - 1][0]
    upper = [magnitude >= threshold for magnitude in magnitudes]
    low = dumb_mean([m for m, is_upper in zip(magnitudes, upper, strict=True) if not is_upper])
    high = dumb_mean([m for m, is_upper in zip(magnitudes, upper, strict=True) if is_upper])
    if high > low:
        return low, high, upper
    return low, low, [False] * len(magnitudes)


def in_units(magnitudes: list[float]) -> list[int]:
    """Whole multiples of 2**-39 of the largest power of two among the magnitudes."""
    return [int(Fraction(m) / unit(magnitudes)) for m in magnitudes]


def unit(magnitudes: list[float]) -> Fraction:
    return Fraction(2) ** (math.frexp(max(magnitudes))[1] - 1 - 39)


def dumb_mean(magnitudes: list[float]) -> float:
    """The mean as a bfloat16, ties to the even one."""
    if not magnitudes:
        return 0.0
    mean = float(unit(magnitudes)) * (sum(in_units(magnitudes)) / len(magnitudes))
    fraction, exponent = math.frexp(mean)
    return min(math.ldexp(round(fraction * 256), exponent - 8), LARGEST)


def dumb_record(
    kept: list[int],
    negative: list[bool],
    upper: list[bool],
    levels: tuple[float, float],
    slots: int,
    k: int,
) -> bytes:
    low_bits = (CHUNK // k).bit_length() - 1
    empty = slots - len(kept)
    bitmap = [0] * (2 * slots)
    for slot, position in enumerate(kept + [slots << low_bits] * empty):
        bitmap[slot + (position >> low_bits)] = 1
    planes = [list(map(int, negative)), list(map(int, upper))]
    planes += [[position >> bit & 1 for position in kept] for bit in range(low_bits)]
    packed = b"".join(pack(plane + [0] * empty) for plane in planes)
    return b"".join(struct.pack("<f", level)[2:] for level in levels) + pack(bitmap) + packed


def pack(bits: list[int]) -> bytes:
    """Eight bits a byte, the first one the lowest."""
    number = sum(bit << at for at, bit in enumerate(bits))
    return number.to_bytes(-(-len(bits) // 8), "little")
