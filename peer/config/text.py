"""`config.toml` as text: written with all explained, and changed without losing a comment."""

import re
from collections.abc import Iterator, Mapping
from textwrap import wrap

import tomlkit

from talkoot.peer.config.table import PROFILE_WORDS, SECTIONS, TABLE, Setting

_WIDTH = 100
_INTRODUCTION = """\
Settings of a talkoot node. One that stands here as a comment has its default. To change one: talkoot config \
set KEY VALUE, which a running node takes at once (what is marked restart: after its next start); or edit \
this file, then: talkoot config apply. Flags of talkoot run and variables TALKOOT_SECTION_NAME win over it."""


def toml_text(values: Mapping[str, object]) -> str:
    """A whole file. `values`: {key: value} of what is set; all else stands there as a comment."""
    return "\n".join(_lines(values)) + "\n"


def _lines(values: Mapping[str, object]) -> Iterator[str]:
    yield from wrap(_INTRODUCTION, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    for section, about in SECTIONS.items():
        yield f"\n[{section}]\n# {about}\n"
        for setting in TABLE:
            if setting.section == section:
                yield from _entry(setting, values)


def _entry(setting: Setting, values: Mapping[str, object]) -> Iterator[str]:
    about = setting.about + ("" if setting.live else " (restart)")
    yield from wrap(about, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    if setting.key == "node.profile":
        yield from (f"#   {name}: {words}" for name, words in PROFILE_WORDS.items())
    set_here = setting.key in values
    yield ("" if set_here else "# ") + line_for(setting, values.get(setting.key, setting.default)) + "\n"


def line_for(setting: Setting, value: object) -> str:
    """`name = value` in TOML."""
    return f"{setting.name} = {tomlkit.item(setting.kind.write(value)).as_string()}"


def with_value(text: str, setting: Setting, value: object) -> str:
    """The same text, but for one value; in place of its comment where there is one. Raises ValueError if the
    text is no TOML."""
    if _value_in(text, setting) is None:
        text = _swapped(text, setting, r"#[ \t]*", f"{setting.name} = 0")
    document = tomlkit.parse(text)
    if setting.section not in document:
        document[setting.section] = tomlkit.table()
    document[setting.section][setting.name] = setting.kind.write(value)
    return tomlkit.dumps(document)


def without_value(text: str, setting: Setting) -> str:
    """The same text with the default of one setting, as a comment. Raises ValueError."""
    if _value_in(text, setting) is None:
        return text
    text = with_value(text, setting, setting.default)  # now on one line
    return _swapped(text, setting, "", f"# {line_for(setting, setting.default)}")


def _value_in(text: str, setting: Setting) -> object | None:
    section = tomlkit.parse(text).unwrap().get(setting.section)
    return section.get(setting.name) if isinstance(section, dict) else None


def _swapped(text: str, setting: Setting, before: str, line: str) -> str:
    """With `line` instead of the first line of its section that begins with `before` and its name."""
    pattern = re.compile(rf"{before}{re.escape(setting.name)}[ \t]*=.*")
    lines = text.split("\n")
    within = False
    for number, old in enumerate(lines):
        if old.startswith("["):
            within = old.partition("]")[0].strip("[ \t") == setting.section
        elif within and pattern.fullmatch(old):
            return "\n".join([*lines[:number], line, *lines[number + 1 :]])
    return text
