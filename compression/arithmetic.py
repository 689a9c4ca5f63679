"""Consensus arithmetic: operations that give the same bits on every machine, thread count and device.

Elementwise operations are one correctly rounded operation a kernel: never a fused form (`addcmul`,
`add(alpha=)`, `lerp`), which becomes a fused multiply-add on some machines. A sum is a fixed tree of
elementwise additions, then `math.fsum`; library reductions over floats depend on vector width and threads.
Flush-to-zero must be off. `self_test` proves it on the machine at hand.

Each operation writes `out` (which may be one of the operands) and returns it. Operands are tensors of the
type and device of `out` that broadcast to it, or numbers, rounded to that type first.
"""

import math
from typing import TypeAlias

import numpy as np
import torch

ARITHMETIC_VERSION = 2
"""That of new swarms. Changes whenever any result here, in a codec or in a ledger would change by one bit.
2: the steps of a round are a median (`talkoot.averaging.succession`); all else is as in 1."""

KNOWN_VERSIONS = (1, 2)
"""Those that this software computes: a swarm keeps the one that it was founded with."""

SUM_BLOCK = 2**16
"""Elements that `squares` folds together."""

SUM_LANES = 2**6
"""Sums that are left of a block."""

Operand: TypeAlias = torch.Tensor | float


def add_(out: torch.Tensor, a: Operand, b: Operand) -> torch.Tensor:
    """out = a + b."""
    return torch.add(_tensor(a, out), _tensor(b, out), out=out)


def sub_(out: torch.Tensor, a: Operand, b: Operand) -> torch.Tensor:
    """out = a - b."""
    return torch.sub(_tensor(a, out), _tensor(b, out), out=out)


def mul_(out: torch.Tensor, a: Operand, b: Operand) -> torch.Tensor:
    """out = a * b."""
    return torch.mul(_tensor(a, out), _tensor(b, out), out=out)


def div_(out: torch.Tensor, a: Operand, b: Operand) -> torch.Tensor:
    """out = a / b."""
    return torch.div(_tensor(a, out), _tensor(b, out), out=out)


def sqrt_(out: torch.Tensor, a: Operand) -> torch.Tensor:
    """out = square root of a.

    On a CPU by numpy: torch hands contiguous tensors to MKL there, whose roots are not correctly rounded.
    """
    a = _tensor(a, out)
    if out.device.type == "cpu":
        np.sqrt(a.numpy(), out=out.numpy())
        return out
    return torch.sqrt(a, out=out)


def minimum_(out: torch.Tensor, a: Operand, b: Operand) -> torch.Tensor:
    """out = the smaller of a and b; NaN if either is. Of two zeros with different signs either one."""
    return torch.minimum(_tensor(a, out), _tensor(b, out), out=out)


def maximum_(out: torch.Tensor, a: Operand, b: Operand) -> torch.Tensor:
    """out = the larger of a and b; NaN if either is. Of two zeros with different signs either one."""
    return torch.maximum(_tensor(a, out), _tensor(b, out), out=out)


def round_(out: torch.Tensor, a: Operand) -> torch.Tensor:
    """out = the integer nearest to a; halves go to the even one."""
    return torch.round(_tensor(a, out), out=out)


def normalise_zeros_(values: torch.Tensor) -> torch.Tensor:
    """Replace each -0.0 in `values` by 0.0, in place; nothing else changes."""
    return add_(values, values, 0.0)


def sum_squares(values_P: torch.Tensor) -> float:
    """Sum of the squares of the float32 `values_P`, on any device; infinite or NaN if a value is."""
    return math.fsum(squares(values_P))


def squares(values_P: torch.Tensor) -> list[float]:
    """Partial sums of squares, to be added by `math.fsum`; slices of whole `SUM_BLOCK`s give the same ones.

    Squares are exact in float64. Each block (the last one filled up with zeros) is folded by adding its
    second half to its first until `SUM_LANES` elements are left.
    """
    numel = values_P.numel()
    size = min(SUM_BLOCK, max(SUM_LANES, 1 << max(numel - 1, 0).bit_length()))
    block = torch.empty(size, dtype=torch.float64, device=values_P.device)
    lanes: list[float] = []
    for start in range(0, numel, SUM_BLOCK):
        lanes += _fold_squares(values_P[start : start + SUM_BLOCK], block)
    return lanes


def add_products_(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """out += a * b in float64, where `a` and `b` hold values of float32; they broadcast to `out`.

    The one fused form that is safe: such a product is exact in float64 (48 of 53 bits), so a fused
    multiply-add rounds once, and so do two kernels.
    """
    assert out.dtype == a.dtype == b.dtype == torch.float64
    return out.addcmul_(a, b)


def fold_(sums: torch.Tensor) -> list[float]:
    """Sum over the last dimension, a power of two: its second half is added to its first until one is left.

    Flattened; `sums` is used up.
    """
    while (width := sums.shape[-1]) > 1:
        half = width // 2
        sums = torch.add(sums[..., :half], sums[..., half:], out=sums[..., :half])
    totals: list[float] = sums.flatten().tolist()
    return totals


def self_test() -> None:
    """Raise ArithmeticError if codecs or operations give other bits on this machine than they should."""
    from talkoot.compression.selftest import run  # it tests the codecs, which import this module

    run()


def _tensor(value: Operand, like: torch.Tensor) -> torch.Tensor:
    """`value` as an operand of one kernel on the device of `like`.

    A number becomes a tensor of one element: divided by a plain number, a GPU multiplies by the reciprocal.
    """
    if isinstance(value, torch.Tensor):
        assert value.dtype == like.dtype, "mixed types round in ways that depend on the machine"
        return value
    return torch.full((1,), value, dtype=like.dtype, device=like.device)


def _fold_squares(values: torch.Tensor, block: torch.Tensor) -> list[float]:
    """The `SUM_LANES` sums of up to `len(block)` values, with `block` as scratch."""
    block[: len(values)].copy_(values)
    block[len(values) :].zero_()
    torch.mul(block, block, out=block)
    while len(block) > SUM_LANES:
        half = len(block) // 2
        block = torch.add(block[:half], block[half:], out=block[:half])
    lanes: list[float] = block.tolist()
    return lanes
