"""Reads `config.toml`, with errors that name the file, the line and what was probably meant."""

import tomllib
from pathlib import Path

from talkoot.dht.errors import ConfigError
from talkoot.peer.config.layers import Given, Layer, hint
from talkoot.peer.config.table import BY_KEY, SECTIONS
from talkoot.peer.toml_lines import line_of, syntax_line

FILE_NAME = "config.toml"

MAX_FILE_BYTES = 64 * 1024
"""Longest file that is parsed."""


def read_text(path: Path) -> str:
    """The file's text, empty where there is none. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error


def of_file(path: Path) -> Layer:
    """What the file gives. Raises ConfigError."""
    return of_text(read_text(path), name=str(path))


def of_text(text: str, *, name: str) -> Layer:
    """What a text gives; `name` stands for the file in errors. Raises ConfigError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(syntax_line(name, text, error)) from error
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deeply") from error

    def place(path: tuple[str, ...]) -> str:
        line = line_of(text, path)
        return f"{name}:{line}" if line else name

    found: dict[str, Given] = {}
    for section, entries in values.items():
        if section not in SECTIONS:
            raise ConfigError(f"{place((section,))}: [{section}] is unknown; {hint(section, list(SECTIONS))}")
        if not isinstance(entries, dict):
            raise ConfigError(f"{place((section,))}: {section} must be a section: [{section}]")
        for key, value in entries.items():
            _require_known(section, key, place((section, key)) if f"{section}.{key}" not in BY_KEY else "")
            found[f"{section}.{key}"] = Given(
                value,
                "file",
                lambda section=section, key=key: place((section, key)),  # type: ignore[misc]
            )
    return found


def _require_known(section: str, name: str, place: str) -> None:
    if f"{section}.{name}" in BY_KEY:
        return
    here = [key.partition(".")[2] for key in BY_KEY if key.startswith(section + ".")]
    elsewhere = [key for key in BY_KEY if key.partition(".")[2] == name]
    words = f"did you mean {elsewhere[0]}?" if elsewhere else hint(name, here)
    raise ConfigError(f"{place}: [{section}] {name} is unknown; {words}")
