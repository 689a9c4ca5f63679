"""Tables of plain text: aligned columns, never cut off, the same in a terminal and in a pipe."""

from collections.abc import Sequence

GAP = "  "


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = ()) -> str:
    """A line of headings and one for each row; columns are right-aligned but for those in `left`.

    The last column is not padded, so that long words in it cost no room elsewhere.
    """
    from rich.cells import cell_len

    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        GAP.join(
            _aligned(cell, width - cell_len(cell), heading in left)
            for cell, width, heading in zip(line, widths, headings, strict=True)
        ).rstrip()
        for line in lines
    )


def _aligned(cell: str, room: int, left: bool) -> str:
    return cell + " " * room if left else " " * room + cell
