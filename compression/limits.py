"""What theory allows: the yardsticks of the codecs' benchmark.

Both are for a Gaussian source and relative to its variance. They serve for every distribution, because a
random rotation makes any vector look Gaussian: below 1 times a yardstick means that a codec uses the
vector's own shape.
"""

import math
from functools import cache
from itertools import pairwise

ITERATIONS = 300
"""Lloyd's iterations; from the starting point here the distortion is right to 2e-4 after these."""

MAX_LEVELS = 256
"""Largest quantiser that is computed; above it the asymptote is right to 1 %."""


def shannon(bits: float) -> float:
    """Least mean squared error that `bits` a value can reach: 2**(-2 bits) (Shannon 1959)."""
    return float(2.0 ** (-2.0 * bits))


def best_scalar(bits: float) -> float:
    """Least error of a scalar quantiser of fixed rate at `bits` a value.

    Where 2**bits is no whole number: between the two nearest Lloyd-Max quantisers, a share of the values with
    each (time sharing). Above 8 bits the asymptote pi sqrt(3)/2 * 2**(-2 bits) (Panter and Dite 1951).
    """
    if bits >= math.log2(MAX_LEVELS):
        return math.pi * math.sqrt(3) / 2 * shannon(bits)
    levels = int(2.0**bits)
    low, high = math.log2(levels), math.log2(levels + 1)
    share = (bits - low) / (high - low)
    return (1 - share) * lloyd_max(levels) + share * lloyd_max(levels + 1)


@cache
def lloyd_max(levels: int) -> float:
    """Mean squared error of the best quantiser with so many levels for a unit Gaussian (Max 1960).

    Lloyd's iteration, from the quantiser that is best for very many levels: quantiles of N(0, 3).
    """
    values = [math.sqrt(3) * _quantile((i + 0.5) / levels) for i in range(levels)]
    distortion = 1.0
    for _ in range(ITERATIONS):
        inner = [(low + high) / 2 for low, high in pairwise(values)]
        borders = [-math.inf, *inner, math.inf]
        cells = [_cell(low, high) for low, high in pairwise(borders)]
        values = [moment / mass for mass, moment in cells]
        distortion = 1.0 - math.fsum(moment * moment / mass for mass, moment in cells)
    return distortion


def _cell(low: float, high: float) -> tuple[float, float]:
    """Probability of the interval and first moment over it."""
    root = math.sqrt(2)
    if low >= 0:  # by the upper tail, which does not cancel
        mass = (math.erfc(low / root) - math.erfc(high / root)) / 2
    else:
        mass = (math.erfc(-high / root) - math.erfc(-low / root)) / 2
    return mass, _density(low) - _density(high)


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _quantile(p: float) -> float:
    """The point below which a unit Gaussian lies with probability `p`, by bisection."""
    low, high = -9.0, 9.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(-middle / math.sqrt(2)) / 2 < p else (low, middle)
    return low
