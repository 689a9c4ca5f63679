"""A randomised Hadamard rotation of blocks: random signs, then butterflies of additions and subtractions.

After it the values of a block are nearly Gaussian, whatever they were. The transform works on integers that
stay below 2**24 in float32, where each sum is exact: no order of adding can change a bit. It is the
Walsh-Hadamard matrix without its factor 1 / sqrt(width), with its output in the order of a transposed matrix,
since butterflies are fast where neighbours stay neighbours.
"""

import hashlib

import numpy as np
import torch

from talkoot.compression.arithmetic import add_, sub_

WIDTH = 2**12
"""Largest width of a block."""


def random_signs(seed: int) -> torch.Tensor:
    """`WIDTH` signs, +1 or -1, that a seed of 64 bits stands for: the bits of SHAKE-128, 1 for -1."""
    octets = hashlib.shake_128(b"talkoot rotation" + seed.to_bytes(8, "little")).digest(WIDTH // 8)
    bits = np.unpackbits(np.frombuffer(octets, np.uint8), bitorder="little")
    return torch.from_numpy(1.0 - 2.0 * bits).to(torch.float32)


def rotate(values_NB: torch.Tensor, spare_NB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Transform each row, a power of two wide; both tensors are written, and returned with the result first.

    Coefficient i * columns + j of the natural order is at j * rows + i, where rows * columns is the width and
    rows is the largest power of two with rows <= columns.
    """
    rows, columns = _sides(values_NB)
    return _transform(values_NB, spare_NB, rows, columns)


def unrotate(values_NB: torch.Tensor, spare_NB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The transposed transform, which undoes `rotate` but for a factor of the width."""
    rows, columns = _sides(values_NB)
    return _transform(values_NB, spare_NB, columns, rows)


def _sides(values_NB: torch.Tensor) -> tuple[int, int]:
    width = values_NB.shape[1]
    rows = 1 << ((width.bit_length() - 1) // 2)
    return rows, width // rows


def _transform(
    values_NB: torch.Tensor, spare_NB: torch.Tensor, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Butterflies along the columns of each row seen as a matrix, a transposition, and the same again."""
    values_NB, spare_NB = _butterflies(values_NB, spare_NB, rows)
    _transpose(values_NB.view(-1, rows, columns), spare_NB.view(-1, columns, rows))
    return _butterflies(spare_NB, values_NB, columns)


def _butterflies(
    values_NB: torch.Tensor, spare_NB: torch.Tensor, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add and subtract halves, then halves of halves, down to single rows."""
    run = values_NB.shape[1]
    while rows > 1:
        rows, run = rows // 2, run // 2
        source, target = values_NB.view(-1, 2, run), spare_NB.view(-1, 2, run)
        add_(target[:, 0], source[:, 0], source[:, 1])
        sub_(target[:, 1], source[:, 0], source[:, 1])
        values_NB, spare_NB = spare_NB, values_NB
    return values_NB, spare_NB


def _transpose(source: torch.Tensor, target: torch.Tensor) -> None:
    """Transpose each matrix; on a CPU by numpy, which is faster."""
    if source.device.type == "cpu":
        np.copyto(target.numpy(), source.numpy().transpose(0, 2, 1))
    else:
        target.copy_(source.transpose(1, 2))
