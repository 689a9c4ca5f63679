"""What was given for settings, and by whom: a file, the environment, flags. Later layers win."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from talkoot.dht.errors import ConfigError
from talkoot.peer.config.table import BY_KEY, BY_VARIABLE, PROFILE_VALUES, TABLE, Setting

Source = Literal["default", "profile", "file", "environment", "flag"]

MAX_SHOWN = 40
"""Characters of a bad value that are repeated."""

_PREFIX = "TALKOOT_"


@dataclass(frozen=True, slots=True)
class Given:
    """One value as it was written."""

    value: object
    source: Source
    place: Callable[[], str]
    """Where: `config.toml:12`, a variable, a flag, or nothing. Looked up for an error only."""


Layer = Mapping[str, Given]
"""{key: what was given}"""


@dataclass(frozen=True, slots=True)
class Value:
    """A setting as it holds."""

    now: Any
    source: Source
    place: Callable[[], str]


def resolve(*layers: Layer) -> dict[str, Value]:
    """Every setting: built in, then of its profile, then of the layers, the last one first asked.

    Raises ConfigError, one line that begins with the place, for a value that is none of its kind.
    """
    given: dict[str, Given] = {}
    for layer in layers:
        given |= layer
    found = {setting.key: _default(setting) for setting in TABLE}
    for key, value in given.items():
        found[key] = read(BY_KEY[key], value)
    profile = found["node.profile"]
    for key, preset in PROFILE_VALUES[profile.now].items():
        if key not in given:
            found[key] = Value(preset, "profile", profile.place)
    return found


def _default(setting: Setting) -> Value:
    return Value(setting.default, "default", lambda: "built in")


def read(setting: Setting, given: Given) -> Value:
    """The value that was meant. Raises ConfigError."""
    try:
        return Value(setting.kind.read(given.value), given.source, given.place)
    except ConfigError as error:
        raise ConfigError(f"{_before(given)}{setting.key}: {error}") from error
    except ValueError as error:
        wanted = str(error) or setting.kind.wanted
        words = f"{setting.key} must be {wanted}, not {_shown(given.value)}"
        raise ConfigError(f"{_before(given)}{words}") from error


def _before(given: Given) -> str:
    place = given.place()
    return f"{place}: " if place else ""


def _shown(value: object) -> str:
    words = "true" if value is True else "false" if value is False else repr(value)
    return words if len(words) <= MAX_SHOWN else words[:MAX_SHOWN] + "..."


def of_environment(environment: Mapping[str, str]) -> Layer:
    """The variables `TALKOOT_SECTION_NAME`; an empty one is none. Raises ConfigError for one that looks like
    a setting and is none."""
    found: dict[str, Given] = {}
    for name, text in environment.items():
        if not name.startswith(_PREFIX) or not text:
            continue
        if name in BY_VARIABLE:
            found[BY_VARIABLE[name].key] = Given(text, "environment", lambda name=name: name)  # type: ignore[misc]
        elif _looks_like_one(name):
            raise ConfigError(f"{name} is no setting; {hint(name, list(BY_VARIABLE))}")
    return found


def _looks_like_one(name: str) -> bool:
    sections = {setting.section.upper() for setting in TABLE}
    return name.removeprefix(_PREFIX).partition("_")[0] in sections or bool(
        get_close_matches(name, BY_VARIABLE, n=1, cutoff=0.9)
    )


def of_flags(flags: Mapping[str, tuple[str, object]]) -> Layer:
    """`flags`: {key: (the flag, its value)}."""
    return {
        key: Given(value, "flag", lambda flag=flag: flag)  # type: ignore[misc]
        for key, (flag, value) in flags.items()
    }


def setting_of(key: str, place: str = "") -> Setting:
    """The setting of that key. Raises ConfigError with a suggestion."""
    if key in BY_KEY:
        return BY_KEY[key]
    named = [known for known in BY_KEY if known.partition(".")[2] == key]
    words = f"did you mean {named[0]}?" if named else hint(key, list(BY_KEY))
    raise ConfigError(f"{place}{key} is no setting; {words}")


def hint(name: str, known: list[str]) -> str:
    """What was probably meant."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else "`talkoot config list` shows all"
