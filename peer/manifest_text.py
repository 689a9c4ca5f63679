"""The manifest in words: commented TOML and the reference page, both from the strings under the fields.

The sources of its classes are parsed once for these strings, so that neither can drift from them.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from textwrap import wrap
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from talkoot.averaging import audits as audits_module
from talkoot.averaging import robustness as robustness_module
from talkoot.peer import manifest as manifest_module
from talkoot.peer.manifest import Manifest
from talkoot.peer.protocol import PROTOCOL_VERSION

FILLED_IN = frozenset(
    {("swarm", "founders"), ("model", "layout"), ("model", "numel"), ("data", "tokenizer_hash")}
)
"""(section, field) pairs that founding the swarm fills in; a draft leaves them out."""

_WIDTH = 100
_INTRODUCTION = """\
A swarm is founded from a TOML file, its manifest: data, never code. `talkoot init DIR` writes one with
these explanations as comments. Unknown and ill-typed keys are refused with their line and the nearest
known name. When the swarm is founded, the fields marked *filled in* get their values; from then on the
manifest is *sealed*: the hash of its canonical form (msgpack with sorted keys) is the swarm's id, so
every peer trains by the same rules.
Relative paths are taken from the folder of the file."""


@cache
def field_docs() -> dict[tuple[str, str], str]:
    """{(class name, field name): its string} for every field of the manifest's classes."""
    found: dict[tuple[str, str], str] = {}
    sources = [inspect.getsource(owner) for owner in (manifest_module, robustness_module, audits_module)]
    for node in ast.parse("\n".join(sources)).body:
        if isinstance(node, ast.ClassDef):
            for statement, after in zip(node.body, node.body[1:], strict=False):
                match statement, after:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        found[node.name, name] = " ".join(text.split())
    return found


def sections() -> Iterator[tuple[str, type[Any]]]:
    """(name, class) of every section, in order."""
    for item in fields(Manifest):
        if isinstance(item.type, type) and is_dataclass(item.type):
            yield item.name, item.type


def section_title(section: type[Any]) -> str:
    """What the section is about: its class's docstring without the leading `Section [x]: `."""
    title = (section.__doc__ or "").split(": ", 1)[-1].strip()
    return title[:1].upper() + title[1:]


def type_words(kind: Any) -> str:
    """A field's type as an operator would say it."""
    if get_origin(kind) is Literal:
        choices = [f'"{choice}"' for choice in get_args(kind)]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    if get_origin(kind) is tuple:
        return "a list of strings"
    if get_origin(kind) in (Union, UnionType):
        return ", or ".join(type_words(part) for part in get_args(kind))
    if isinstance(kind, type) and get_origin(kind) is None:
        words = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
        return words.get(kind, "a table")
    return "a table"


def toml_text(manifest: Manifest) -> str:
    """The manifest as commented TOML that `talkoot.peer.manifest_file.load` reads back unchanged."""
    if manifest.sealed:
        lines = ["# A swarm of talkoot. Every peer holds exactly these values: a change makes another swarm."]
    else:
        lines = [
            "# Draft of a swarm of talkoot. It is founded by `talkoot run` with this file; until then",
            "# change what you like.",
        ]
    lines += ["", *_comment(field_docs()["Manifest", "protocol"]), f"protocol = {manifest.protocol}"]
    for name, section in sections():
        lines += ["", "", *_comment(section_title(section)), f"[{name}]"]
        values = getattr(manifest, name)
        tables: list[str] = []
        for item in fields(section):
            if not manifest.sealed and (name, item.name) in FILLED_IN:
                continue
            value = getattr(values, item.name)
            comment = _comment(field_docs()[section.__name__, item.name])
            if isinstance(value, dict):
                tables += ["", *comment, *_table(f"{name}.{item.name}", value)]
            else:
                number = float(value) if item.type is float else value
                lines += ["", *comment, f"{item.name} = {_toml_value(number)}"]
        lines += tables
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return ["# " + line for line in wrap(text.replace("`", ""), _WIDTH)]


def _table(path: str, values: dict[str, Any]) -> list[str]:
    lines = [f"[{path}]"]
    lines += [f"{_key(k)} = {_toml_value(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", *_table(f"{path}.{_key(key)}", value)]
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    """Raises TypeError for what TOML cannot say (the manifest's checks keep that out)."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case int() | float():
            return repr(value)
        case list() | tuple():
            return "[" + ", ".join(_toml_value(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{_key(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
        case _:
            raise TypeError(f"no TOML for {type(value).__name__}")


def reference_page() -> str:
    """docs/manifest.md: every section and field with type, default and meaning."""
    lines = [
        "# The manifest",
        "",
        "<!-- Generated: python -m talkoot.peer.manifest_text > docs/manifest.md -->",
        "",
        _INTRODUCTION,
        "",
        f"Top level: `protocol` (default `{PROTOCOL_VERSION}`). {field_docs()['Manifest', 'protocol']}",
    ]
    for name, section in sections():
        lines += ["", f"## [{name}]", "", section_title(section), "", "| key | type | default | meaning |"]
        lines += ["|---|---|---|---|"]
        for item in fields(section):
            meaning = field_docs()[section.__name__, item.name].replace("|", "\\|")
            kind = type_words(item.type).replace('"', "`")
            lines.append(f"| `{item.name}` | {kind} | {_default(name, item)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(section: str, item: Field[Any]) -> str:
    if (section, item.name) in FILLED_IN:
        return "*filled in*"
    if item.default_factory is not MISSING:
        return "empty"
    return "required" if item.default is MISSING else f"`{_toml_value(item.default)}`"


if __name__ == "__main__":
    print(reference_page(), end="")  # noqa: T201 - its only purpose
