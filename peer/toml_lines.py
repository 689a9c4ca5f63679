"""On which line of a TOML text something is wrong: tomllib's values no longer know it."""

import tomllib
from typing import Any


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """Line (from 1) where the key at `path` begins in valid TOML; of its nearest parent if it is not there.

    The key begins on the line after the longest prefix of whole lines that parses without it. Quadratic in
    the number of lines: for error messages only.
    """
    lines = text.splitlines(keepends=True)
    good = 0
    for end in range(1, len(lines) + 1):
        try:
            values: Any = tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue
        for key in path:
            values = values.get(key) if isinstance(values, dict) else None
        if values is not None:
            return good + 1
        good = end
    return line_of(text, path[:-1]) if len(path) > 1 else None


def syntax_line(name: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    """File, line and words of a text that is no TOML.

    tomllib says "... (at line 3, column 7)" or "... (at end of document)".
    """
    words, _, place = str(error).rpartition(" (at ")
    place = place.rstrip(")")
    line = place.split(" ")[1].rstrip(",") if place.startswith("line ") else str(text.count("\n") + 1)
    return f"{name}:{line}: {words or error}"
