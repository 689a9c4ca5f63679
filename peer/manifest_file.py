"""Reads a manifest from TOML, with errors that name the file, the line and what was probably meant."""

import os
import tomllib
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import MAX_MANIFEST_BYTES, Manifest
from talkoot.peer.manifest_text import sections, toml_text, type_words
from talkoot.peer.protocol import PROTOCOL_VERSION, speaks, spoken
from talkoot.peer.toml_lines import line_of, syntax_line

FILE_NAME = "talkoot.toml"
"""Name of the manifest in the folder that `talkoot init` makes."""


def load(path: Path) -> tuple[Manifest, Path]:
    """Read a draft or sealed manifest; also the folder from which its relative paths are taken.

    A folder stands for the `talkoot.toml` in it.

    Raises ConfigError, one line that begins with the file (and the line, where there is one), when the
    file cannot be read, is no TOML, or a section or key is missing, unknown, ill-typed or out of bounds.
    """
    if path.is_dir():
        path = path / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    if b'"talkoot_checkpoint"' in data[:1024]:
        raise ConfigError(f"{path}: a checkpoint, not a manifest; `talkoot verify` looks at it")
    if len(data) > MAX_MANIFEST_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_MANIFEST_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    return parse(text, name=str(path)), path.resolve().parent


def parse(text: str, *, name: str) -> Manifest:
    """The manifest in `text`. Raises ConfigError as `load` does, with `name` for the file."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(syntax_line(name, text, error)) from error
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deeply") from error
    return _Reader(text, name).manifest(values)


def require_codecs(manifest: Manifest, path: Path) -> None:
    """Raise ConfigError as `load` does unless both codecs exist or are `auto`. Apart from `load`: it imports
    torch."""
    from talkoot.compression import codec

    for name in ("codec", "aggregate_codec"):
        chosen = getattr(manifest.compression, name)
        try:
            codec.get("int8" if chosen == "auto" else chosen)
        except codec.CodecError as error:
            file = path / FILE_NAME if path.is_dir() else path
            line = line_of(file.read_text(encoding="utf-8"), ("compression", name))
            raise ConfigError(f"{file}:{line}: [compression] {name}: {error}") from error


def save(manifest: Manifest, path: Path) -> None:
    """Write commented TOML; the file is there completely or not at all. Raises OSError."""
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(toml_text(manifest))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


class _Reader:
    """Turns the values of one file into a Manifest; knows the text only to say on which line it failed."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name

    def manifest(self, values: dict[str, Any]) -> Manifest:
        known = dict(sections())
        self._refuse_unknown(values, [*known, "protocol"], ())
        protocol = self._convert(values.get("protocol", PROTOCOL_VERSION), int, ("protocol",))
        if not speaks(protocol):
            words = f"made for protocol {protocol}; this version of talkoot speaks {spoken()}"
            raise self._error(("protocol",), words)
        parts = {}
        for section, kind in known.items():
            if section not in values and any(
                item.name == section and _required(item) for item in fields(Manifest)
            ):
                raise ConfigError(f"{self._name}: section [{section}] is missing")
            parts[section] = self._section(section, kind, values.get(section, {}))
        try:
            return Manifest(**parts, protocol=protocol)
        except ValueError as error:  # of what does not go together: "section.field must be <what>"
            raise self._error(tuple(str(error).split(" ", 1)[0].split(".")), str(error)) from error

    def _section(self, section: str, kind: type[Any], values: object) -> Any:
        if not isinstance(values, dict):
            raise self._error((section,), f"{section} must be a section: [{section}]")
        self._refuse_unknown(values, [item.name for item in fields(kind)], (section,))
        arguments = {}
        for item in fields(kind):
            if item.name in values:
                arguments[item.name] = self._convert(values[item.name], item.type, (section, item.name))
            elif _required(item):
                raise self._error((section,), f"[{section}] {item.name} is missing")
        try:
            result = kind(**arguments)
        except ValueError as error:  # "section.field must be <bound>"
            at = tuple(str(error).split(" ", 1)[0].split("."))
            raise self._error(at, str(error)) from error
        if section == "model" and result.kind == "transformers" and "model_type" not in result.config:
            raise self._error((section,), "[model.config] model_type is missing")
        return result

    def _refuse_unknown(self, values: dict[str, Any], known: list[str], at: tuple[str, ...]) -> None:
        for key in values:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "known here: " + ", ".join(known)
                where = f"[{at[0]}] {key}" if at else key
                raise self._error((*at, key), f"{where} is unknown; {hint}")

    def _convert(self, value: object, kind: Any, at: tuple[str, ...]) -> Any:
        try:
            return msgspec.convert(value, kind, strict=True)
        except msgspec.ValidationError as error:
            where = f"[{at[0]}] {at[1]}" if len(at) > 1 else at[0]
            raise self._error(at, f"{where} must be {type_words(kind)}") from error

    def _error(self, at: tuple[str, ...], words: str) -> ConfigError:
        line = line_of(self._text, at)
        return ConfigError(f"{self._name}:{line}: {words}" if line else f"{self._name}: {words}")


def _required(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING
