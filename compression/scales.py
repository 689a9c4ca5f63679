"""Scales of blocks: bf16, rounded by integers and far from the denormals, so that every machine agrees.

Scales travel as the 16 upper bits of a float32. Zero stands for a block that is zero or too small.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from talkoot.compression.arithmetic import div_
from talkoot.compression.base import CodecError

MIN_SCALE_BITS = (127 - 100) << 7
"""bf16 bits of the smallest scale, 2**-100: blocks below it become zeros."""


def scale_bits(scale_N: torch.Tensor) -> torch.Tensor:
    """bf16 bits (int32) of finite float32 scales, none negative: to nearest even, and zero for small ones."""
    bits_N = scale_N.view(torch.int32)
    rounded_N = (bits_N + 0x7FFF + ((bits_N >> 16) & 1)) >> 16
    return rounded_N.masked_fill_(rounded_N < MIN_SCALE_BITS, 0)


def scale(scale_bits_N: torch.Tensor) -> torch.Tensor:
    """float32 values of bf16 bits (int32)."""
    return (scale_bits_N << 16).view(torch.float32)


def reciprocal(scale_bits_N: torch.Tensor) -> torch.Tensor:
    """1 / scale; zero where the scale is zero."""
    scale_N = scale(scale_bits_N)
    ones_N = torch.ones_like(scale_N)
    return div_(ones_N, ones_N, scale_N).masked_fill_(scale_bits_N == 0, 0.0)


def grid(absmax_N: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Powers of two (factor, 1 / factor as float64) for each row of finite values with these magnitudes.

    `round(value * factor)` is an integer of at most 2**bits, and at least 2**(bits - 1) for the largest value
    unless that is below the smallest scale. Denormals become zero, flushed or not.
    """
    exponent_N = (absmax_N.view(torch.int32) >> 23).clamp_(min=MIN_SCALE_BITS >> 7)
    factor_N = ((2 * 127 - 1 + bits - exponent_N) << 23).view(torch.float32)
    return factor_N, 1.0 / factor_N.to(torch.float64)


def check_scales(bits_N: NDArray[np.int32], largest: int, first: int) -> None:
    """Raise CodecError if bits are not those of a scale up to `largest`; the first block is `first`."""
    bad_N = (bits_N != 0) & ((bits_N < MIN_SCALE_BITS) | (bits_N > largest))
    if bad_N.any():
        block = int(bad_N.argmax())
        raise CodecError("scale", f"scale of block {first + block} has bits {int(bits_N[block]):#06x}")


def check_zero_blocks(bits_N: NDArray[np.int32], codes: NDArray[np.uint8]) -> None:
    """Raise CodecError if a block with scale zero has codes; `codes` are those of as many equal blocks."""
    zero_N = bits_N == 0
    if zero_N.any() and codes.reshape(len(bits_N), -1)[zero_N].any():
        raise CodecError("code", "a block with scale zero has codes that are not zero")
