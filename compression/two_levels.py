"""Two levels for the magnitudes of a chunk: the best split of sorted numbers in two, by integers.

Magnitudes are keys: the bits of positive normal float32 numbers, whose order is the numbers' order. 0 stands
for no number. Lloyd's iteration stops at one of the splits of the sorted magnitudes; here all of them are
compared, so the result is the one with the least squared error, and nothing depends on a start.

Sums are of integers, exact in any order; then follow single, correctly rounded float64 operations.
"""

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int32]

MAX_LEVEL_BITS = 0x7F7F
"""bf16 bits of the largest finite number; means that round to more are cut to it."""
GUARD_BITS = 16
"""Bits below the last place of a group's largest magnitude that its sum still counts.
2**10 sums of 2**(24 + 16) stay below 2**53, so float64 holds them."""

_MANTISSA_BITS = 23
_DOUBLE_TO_BF16 = 52 - 7
"""Bits that the mantissa of a float64 is longer than that of a bf16."""
_EXPONENT_SHIFT = 127 - 1023 - 127 - _MANTISSA_BITS - GUARD_BITS
"""From the float64 exponent field of a sum to the bf16 one of a mean, less the group's own exponent."""


def fit(keys_NK: Keys) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Levels (bf16 bits, lower one first, `(N, 2)`) and for each key whether it takes the upper level.

    K is at most 1024. If no two keys of a row differ (or their levels do not, once rounded), the levels are
    equal and all take the lower one; a row without keys has levels 0.
    """
    upper_NK = keys_NK >= _smallest_upper(keys_NK)[:, np.newaxis]
    low_N = _mean_bits(np.where(upper_NK, 0, keys_NK))
    high_N = np.maximum(_mean_bits(np.where(upper_NK, keys_NK, 0)), low_N)
    upper_NK &= (high_N > low_N)[:, np.newaxis]
    return np.stack((low_N, high_N), axis=1), upper_NK


def _smallest_upper(keys_NK: Keys) -> Keys:
    """The smallest key of the upper group in each row; if a row cannot be split, more than any key."""
    down_NK = np.sort(keys_NK, axis=1)[:, ::-1]
    size_K = np.arange(1, keys_NK.shape[1] + 1)
    sums_NK = np.cumsum(_integers(down_NK), axis=1)
    upper_NK = sums_NK.astype(np.float64)
    lower_NK = (sums_NK[:, -1:] - sums_NK).astype(np.float64)
    others_NK = np.maximum(np.count_nonzero(keys_NK, axis=1)[:, np.newaxis] - size_K, 1)
    # The squared error is a constant less this; a split between equal keys or before a missing one is none.
    gain_NK = upper_NK * upper_NK / size_K + lower_NK * lower_NK / others_NK
    gain_NK[:, -1] = -1.0
    gain_NK[:, :-1][(down_NK[:, :-1] == down_NK[:, 1:]) | (down_NK[:, 1:] == 0)] = -1.0
    row_N = np.arange(len(keys_NK))
    best_N = np.argmax(gain_NK, axis=1)  # the first of equal ones
    splits_N = gain_NK[row_N, best_N] >= 0.0
    return np.where(splits_N, down_NK[row_N, best_N], np.iinfo(np.int32).max)


def _mean_bits(keys_NK: Keys) -> NDArray[np.int32]:
    """bf16 bits of the mean magnitude of each row, nearest, ties to even; 0 for a row without keys."""
    count_N = np.count_nonzero(keys_NK, axis=1)
    sum_N = _integers(keys_NK).sum(axis=1)
    bits_N = (sum_N.astype(np.float64) / np.maximum(count_N, 1)).view(np.int64)
    half = (1 << (_DOUBLE_TO_BF16 - 1)) - 1
    bits_N = (bits_N + half + ((bits_N >> _DOUBLE_TO_BF16) & 1)) >> _DOUBLE_TO_BF16
    bits_N += (_exponents(keys_NK).max(axis=1) + _EXPONENT_SHIFT) << 7
    return np.where(count_N > 0, np.minimum(bits_N, MAX_LEVEL_BITS), 0).astype(np.int32)


def _integers(keys_NK: Keys) -> NDArray[np.int64]:
    """Magnitudes in units of 2**(-23 - GUARD_BITS) of the row's largest power of two, cut to whole ones."""
    exponent_NK = _exponents(keys_NK)
    mantissa_NK = (keys_NK & ((1 << _MANTISSA_BITS) - 1) | (1 << _MANTISSA_BITS)).astype(np.int64)
    shift_NK = np.minimum(exponent_NK.max(axis=1, keepdims=True) - exponent_NK, 63)
    return np.where(keys_NK > 0, (mantissa_NK << GUARD_BITS) >> shift_NK, 0)


def _exponents(keys_NK: Keys) -> NDArray[np.int64]:
    """Biased exponents; 0 where there is no number."""
    return (keys_NK >> _MANTISSA_BITS).astype(np.int64)
