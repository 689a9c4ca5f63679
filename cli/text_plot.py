"""Curves in a terminal: braille dots, two by four in a character. Enough for a loss curve."""

from collections.abc import Sequence
from itertools import pairwise

Points = Sequence[tuple[float, float]]
"""(x, y), in order of x, finite."""

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of the dot in row y, column x of a braille character (Unicode 15, block 2800)."""


def text_plot(curves: Sequence[tuple[str, Points, bool]], *, width: int = 64, height: int = 14) -> str:
    """Draw (label, points, joined) curves in one frame with the bounds of both axes written on it.

    A joined curve is a line, the others are separate crosses. Without any point: an empty string.
    """
    points = [point for _, curve, _ in curves for point in curve]
    if not points:
        return ""
    low_x, high_x = _bounds([x for x, _ in points])
    low_y, high_y = _bounds([y for _, y in points])
    cells = [[0] * width for _ in range(height)]
    crosses: set[tuple[int, int]] = set()

    def dot(x: float, y: float) -> tuple[int, int]:
        return (
            round((x - low_x) / (high_x - low_x) * (2 * width - 1)),
            round((high_y - y) / (high_y - low_y) * (4 * height - 1)),
        )

    for _, curve, joined in curves:
        dots = [dot(*point) for point in curve]
        if not joined:
            crosses |= {(y // 4, x // 2) for x, y in dots}
            continue
        for x, y in [*dots[:1], *(step for pair in pairwise(dots) for step in _line(*pair))]:
            cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    rows = []
    for row, line in enumerate(cells):
        axis = f"{high_y:8.3f}" if row == 0 else f"{low_y:8.3f}" if row == height - 1 else " " * 8
        marks = ["×" if (row, column) in crosses else chr(0x2800 + bits) for column, bits in enumerate(line)]  # noqa: RUF001
        rows.append(f"{axis} ┤{''.join(marks).rstrip(chr(0x2800))}")
    rows.append(" " * 9 + "└" + "─" * width)
    rows.append(" " * 10 + f"{low_x:<{width // 2}g}{high_x:>{width - width // 2}g}")
    legend = "   ".join(f"{'⠒⠒' if joined else '×'} {label}" for label, _, joined in curves)  # noqa: RUF001
    return "\n".join([*rows, " " * 10 + legend])


def _bounds(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """Dots from `start` (left out) to `end`."""
    (x0, y0), (x1, y1) = start, end
    num = max(abs(x1 - x0), abs(y1 - y0))
    return [(round(x0 + (x1 - x0) * i / num), round(y0 + (y1 - y0) * i / num)) for i in range(1, num + 1)]
