"""Where documents come from: the standard library, text files, JSON lines. Sources are generators of bytes.

Files are read piece by piece, so that neither a huge file nor a huge single line needs memory of its size.
All errors are the operator's: ConfigError, one line, with the file and where it matters the line.
"""

import glob
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from talkoot.dht.errors import ConfigError

MAX_DOCUMENT_BYTES = 256 * 1024
"""A longer text is cut into documents of about `PIECE_BYTES`, at line ends where there are any."""

PIECE_BYTES = 64 * 1024

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line of a JSON lines file."""

STDLIB_LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "idle_test", "encodings", "site-packages", "__pycache__"}
)
"""Folders of the standard library that are not read: tests, an application, and tables."""


def expand(patterns: Iterable[str], base: Path, *, name: str = "data.paths") -> list[Path]:
    """Files that match `patterns` (relative to `base`), sorted, each once; `name` is what errors call them.

    Raises ConfigError for a pattern that matches nothing or names a folder.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(str(base / pattern), recursive=True))
        files = [Path(match) for match in matches if Path(match).is_file()]
        if not files:
            hint = (
                "is a folder; write " + repr(pattern.rstrip("/") + "/**/*.txt")
                if matches
                else "matches no file"
            )
            raise ConfigError(f"{name}: {pattern!r} {hint} (looked from {base})")
        found.update(dict.fromkeys(files))
    return list(found)


def require_below(patterns: Iterable[str]) -> None:
    """Refuse paths that leave the manifest's folder: the founder does not choose what volunteers read.

    Raises ConfigError.
    """
    for pattern in patterns:
        path = Path(pattern)
        if path.is_absolute() or ".." in path.parts or pattern.startswith("~"):
            raise ConfigError(
                f"data.paths: {pattern!r} leaves the manifest's folder; give your own files with --data"
            )


def stdlib_files() -> list[Path]:
    """Source files of the running interpreter's standard library, sorted, about 10 MB."""
    root = Path(sysconfig.get_path("stdlib"))
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if not STDLIB_LEFT_OUT.intersection(path.relative_to(root).parts) and path.is_file()
    ]


def text(paths: Iterable[Path]) -> Iterator[bytes]:
    """Documents of text files, of any encoding; empty files give none."""
    for path in paths:
        try:
            with path.open("rb") as file:
                yield from _cut(iter(lambda file=file: file.read(PIECE_BYTES), b""))  # type: ignore[misc]
        except OSError as error:
            raise ConfigError(f"data: cannot read {path}: {error.strerror}") from error


def json_lines(paths: Iterable[Path], text_field: str) -> Iterator[bytes]:
    """Documents of files with one JSON object a line; blank lines are skipped.

    Raises ConfigError with file and line number for a line that is no object with that field as text.
    """
    for path in paths:
        try:
            with path.open("rb") as file:
                number = 0
                while line := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if line.strip():
                        document = _field_of(line, text_field, f"{path}:{number}")
                        yield from _cut(_pieces_of(document))
        except OSError as error:
            raise ConfigError(f"data: cannot read {path}: {error.strerror}") from error


def _field_of(line: bytes, text_field: str, where: str) -> bytes:
    if len(line) > MAX_LINE_BYTES:
        raise ConfigError(f"data: {where}: line of more than {MAX_LINE_BYTES} bytes")
    try:
        row = msgspec.json.decode(line)
    except (ValueError, RecursionError) as error:  # bad UTF-8 included
        raise ConfigError(f"data: {where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"data: {where}: a JSON object is expected")
    value = row.get(text_field)
    if not isinstance(value, str):
        raise ConfigError(f"data: {where}: no text in field {text_field!r} (data.text_field)")
    return value.encode("utf-8", "surrogatepass")


def _pieces_of(document: bytes) -> Iterator[bytes]:
    for start in range(0, len(document), PIECE_BYTES):
        yield document[start : start + PIECE_BYTES]


def _cut(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join small texts whole; cut long ones into documents, after a newline where one is near.

    At most `MAX_DOCUMENT_BYTES` + `PIECE_BYTES` are held.
    """
    held = bytearray()
    long = False
    for piece in pieces:
        held += piece
        long = long or len(held) > MAX_DOCUMENT_BYTES
        while long and len(held) >= 2 * PIECE_BYTES:
            newline = held.rfind(b"\n", 0, PIECE_BYTES)
            end = newline + 1 if newline >= PIECE_BYTES // 2 else PIECE_BYTES
            yield bytes(held[:end])
            del held[:end]
    if held:
        yield bytes(held)
