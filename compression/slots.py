"""Which few of many values, and two bits for each: a fixed number of slots, in a record of fixed size.

Positions are Elias-Fano coded. A position below `width` is split at `low_bits`; the upper parts are a bitmap
of two bits a slot, in which the one of slot i stands at place i + upper part; the lower parts are packed.
A chunk that fills fewer slots leaves the last ones empty: their upper part is the number of slots, one more
than any position has, and their other bits are zero. So the bitmap always has as many ones as zeros.

Record: the two levels (bf16, little-endian), the bitmap, then planes of one bit a slot: sign (1: negative),
level (1: upper), and the low bits of positions, lowest plane first. Each is padded with zeros to whole bytes;
the first bit of a byte is its lowest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talkoot.compression.base import CodecError, Octets

LEVELS_BYTES = 4
PLANES = 2
"""Sign and level, beside those of the low bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A record's sizes."""

    width: int
    """Values in the chunk."""
    low_bits: int
    """A slot stands for 2**low_bits values, the last one perhaps for fewer."""

    @property
    def slots(self) -> int:
        """S, or K where the codec's k is meant: ceil(width / 2**low_bits)."""
        return -(-self.width >> self.low_bits)

    @property
    def bitmap_bytes(self) -> int:
        return -(-2 * self.slots // 8)

    @property
    def plane_bytes(self) -> int:
        return -(-self.slots // 8)

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return LEVELS_BYTES + self.bitmap_bytes + (PLANES + self.low_bits) * self.plane_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunks:
    """N chunks of one layout, K slots each."""

    positions: NDArray[np.int64]
    """NK. Strictly increasing and below `width`; in empty slots `slots << low_bits`."""
    negative: NDArray[np.bool_]
    """NK. False in empty slots."""
    upper: NDArray[np.bool_]
    """NK. Whether the value has the upper level; False in empty slots."""
    levels: NDArray[np.int32]
    """N2. bf16 bits, the lower level first."""


def write(chunks: Chunks, layout: Layout, records: Octets) -> None:
    """Fill `records`, `(N, layout.size)`."""
    num, slots = chunks.positions.shape
    place_NK = (chunks.positions >> layout.low_bits) + np.arange(slots)
    ones = np.zeros((num, 8 * layout.bitmap_bytes), np.uint8)
    np.put_along_axis(ones, place_NK, 1, axis=1)
    planes = np.empty((num, PLANES + layout.low_bits, slots), np.uint8)
    planes[:, 0] = chunks.negative
    planes[:, 1] = chunks.upper
    for bit in range(layout.low_bits):
        planes[:, PLANES + bit] = (chunks.positions >> bit) & 1
    levels, bitmap, packed = _split(records, layout)
    levels[:] = chunks.levels.astype("<u2").view(np.uint8)
    bitmap[:] = np.packbits(ones, axis=1, bitorder="little")
    packed[:] = np.packbits(planes, axis=2, bitorder="little").reshape(num, -1)


def read(records: Octets, layout: Layout) -> Chunks:
    """The chunks in `records`, `(N, layout.size)`.

    Raises CodecError("position") or ("code") for what `write` does not write; levels are not looked at.
    """
    levels, bitmap, packed = _split(records, layout)
    upper_part_NK = _upper_parts(bitmap, layout)
    planes = np.unpackbits(packed.reshape(len(records), -1, layout.plane_bytes), axis=2, bitorder="little")
    low_NK = np.zeros(upper_part_NK.shape, np.int64)
    for bit in range(layout.low_bits):
        low_NK |= planes[:, PLANES + bit, : layout.slots].astype(np.int64) << bit
    empty_NK = upper_part_NK == layout.slots
    # Slots are in the order of their upper parts, so the empty ones are the last.
    set_NK = planes[:, :, : layout.slots].max(axis=1)
    if planes[:, :, layout.slots :].any() or set_NK[empty_NK].any():
        raise CodecError("code", "bits are set where no value is")
    position_NK = upper_part_NK << layout.low_bits | low_NK
    if ((position_NK >= layout.width) & ~empty_NK).any():
        raise CodecError("position", "a position is behind the end of its chunk")
    if ((position_NK[:, 1:] <= position_NK[:, :-1]) & ~empty_NK[:, 1:]).any():
        raise CodecError("position", "positions do not increase")
    return Chunks(
        positions=position_NK,
        negative=planes[:, 0, : layout.slots].view(np.bool_),
        upper=planes[:, 1, : layout.slots].view(np.bool_),
        levels=np.ascontiguousarray(levels).view("<u2").astype(np.int32),
    )


def _split(records: Octets, layout: Layout) -> tuple[Octets, Octets, Octets]:
    """Views of levels, bitmap and planes."""
    cut = LEVELS_BYTES + layout.bitmap_bytes
    return records[:, :LEVELS_BYTES], records[:, LEVELS_BYTES:cut], records[:, cut:]


def _upper_parts(bitmap: Octets, layout: Layout) -> NDArray[np.int64]:
    """Upper parts of all slots, 0 to `slots`, none smaller than the one before."""
    ones = np.flatnonzero(np.unpackbits(bitmap, axis=1, bitorder="little"))
    if len(ones) != len(bitmap) * layout.slots:
        raise CodecError("position", f"a bitmap must have {layout.slots} bits set")
    row_N = np.arange(len(bitmap))[:, np.newaxis]
    place_NK = ones.reshape(len(bitmap), -1) - row_N * (8 * layout.bitmap_bytes)
    # With too many ones in one row and too few in another, places leave their row.
    if (place_NK < 0).any() or (place_NK >= 2 * layout.slots).any():
        raise CodecError("position", f"a bitmap must have {layout.slots} bits set, and no padding")
    return place_NK - np.arange(layout.slots)
