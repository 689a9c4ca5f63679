"""How values of settings are written: sizes, rates, times and words, for people. Pure.

A `Kind` reads what TOML, an environment variable or a flag holds, and writes it so that it reads back equal.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 1000
"""Longest text of one value."""

MAX_ITEMS = 64
"""Most entries of a list."""

UNLIMITED = "none"
"""Written where there is no limit."""

_DECIMAL = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3}
_BINARY = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
_UNITS = {name.lower(): number for name, number in (_DECIMAL | _BINARY).items()} | {"b": 1, "": 1}
_UNITS |= {name.removesuffix("b"): number for name, number in _UNITS.items()}
_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "min": 60, "m": 60, "s": 1, "": 1}
_YES = frozenset({"true", "yes", "on", "1"})
_NO = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value."""

    wanted: str
    """What a value must be: goes on after "must be"."""
    read: Callable[[object], Any]
    """The value that is meant. Raises ValueError, with or without words of its own."""
    write: Callable[[Any], object]
    """What TOML holds for it: reads back equal."""
    separator: str = ","
    """Between the entries of a list in one text."""

    def words(self, value: Any) -> str:
        """For people."""
        written = self.write(value)
        if isinstance(written, bool):
            return "yes" if written else "no"
        return f"{self.separator} ".join(written) if isinstance(written, list) else str(written)


def _number(given: object, pattern: str) -> tuple[float, str]:
    """(number, unit in lower case) of a number or of a text such as `6 GB`. Raises ValueError."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError
    if isinstance(given, str):
        match = re.fullmatch(r"(\d{1,19}(?:\.\d{1,9})?)\s*(" + pattern + ")", given.strip().lower())
        if match is None:
            raise ValueError
        return float(match[1]), match[2]
    if not math.isfinite(given) or given < 0:
        raise ValueError
    return float(given), ""


def _exact(number: float, units: dict[str, int]) -> str:
    """With the largest unit that leaves no fraction."""
    for name, factor in sorted(units.items(), key=lambda unit: -unit[1]):
        if number % factor == 0:
            return f"{int(number // factor)} {name}"
    return f"{int(number)} B"


def _read_size(given: object) -> int:
    number, unit = _number(given, "[kmgt]?i?b?")
    if unit in ("i", "ib"):
        raise ValueError
    return int(number * _UNITS[unit])


def _read_rate(given: object) -> float:
    number, unit = _number(given, r"(?:[kmgt]?i?b?|[kmg]?bit)(?:/s)?")
    unit = unit.removesuffix("/s")
    return number * _BITS[unit] / 8 if unit in _BITS else number * _UNITS[unit]


def _within(number: float, least: float, most: float) -> None:
    if not least <= number <= most:
        raise ValueError


def write_size(num_bytes: float) -> object:
    """A size so that it reads back equal: `6 GB`, `1 GiB`."""
    return _exact(num_bytes, _DECIMAL | _BINARY) if num_bytes else 0


def size(least: int = 0) -> Kind:
    """Bytes, at least `least`."""

    def read(given: object) -> int:
        number = _read_size(given)
        _within(number, least, 2**60)
        return number

    bound = f", at least {write_size(least)}" if least else ""
    return Kind(f"a size such as 6 GB or 512 MiB{bound}", read, write_size)


def rate(least: int = 0) -> Kind:
    """Bytes a second, at least `least`."""

    def read(given: object) -> float:
        number = _read_rate(given)
        _within(number, least, 1e12)
        return number

    bound = f", at least {write_size(least)}/s" if least else ""

    def write(number: float) -> object:
        return f"{write_size(round(number))}/s" if number else 0

    return Kind(f"a rate such as 2 MB/s or 16 Mbit/s{bound}", read, write)


def limit(kind: Kind) -> Kind:
    """The same, or `none`, which is kept as 0. A limit of 0 is refused: nothing works with it, and it could
    be read as either."""

    def read(given: object) -> Any:
        if isinstance(given, str) and given.strip().lower() == UNLIMITED:
            return 0
        found = kind.read(given)
        if not found:
            raise ValueError
        return found

    def write(value: Any) -> object:
        return kind.write(value) if value else UNLIMITED

    return Kind(f"{kind.wanted}, or {UNLIMITED}", read, write)


def line_rate(least: float, most: float) -> Kind:
    """Bytes a second of a connection; numbers alone are Mbit/s."""

    def read(given: object) -> float:
        bare = not isinstance(given, str) or re.search("[a-z]", given.lower()) is None
        number = _number(given, "")[0] * 125_000 if bare else _read_rate(given)
        if number and not least <= number <= most:
            raise ValueError
        return number

    def write(number: float) -> object:
        return f"{number / 125_000:.15g} Mbit/s" if number else 0

    bounds = f"{least / 125_000:g} to {most / 125_000:.0f} Mbit/s"
    return Kind(f"{bounds}; 0: measured", read, write)


def seconds(least: float, most: float) -> Kind:
    """A length of time."""

    def read(given: object) -> float:
        number, unit = _number(given, "s|m|min|h|d|w|")
        found = number * _SECONDS[unit]
        if not least <= found <= most:
            raise ValueError
        return found

    return Kind(f"a time from {write_seconds(least)} to {write_seconds(most)}", read, write_seconds)


def write_seconds(number: float) -> str:
    """A length of time so that it reads back equal."""
    for unit in ("d", "h", "min"):
        if number and number % _SECONDS[unit] == 0:
            return f"{int(number // _SECONDS[unit])} {unit}"
    return f"{number:.15g} s"


def share(names: dict[str, float]) -> Kind:
    """A share over 0 to 1, in percent or by a name."""

    def read(given: object) -> float:
        if isinstance(given, str) and given.strip().lower() in names:
            return names[given.strip().lower()]
        number, unit = _number(given, "%|")
        found = number / 100 if unit else number
        if not 0 < found <= 1:
            raise ValueError
        return found

    def write(number: float) -> str:
        named = [name for name, value in names.items() if value == number]
        return named[0] if named else f"{number * 100:.15g} %"

    return Kind(f"{', '.join(names)}, or a share over 0 % to 100 % such as 50 %", read, write)


def celsius(least: float, most: float) -> Kind:
    """A temperature."""

    def read(given: object) -> float:
        number, _ = _number(given, "°?c|")
        _within(number, least, most)
        return number

    return Kind(f"{least:g} to {most:g} °C", read, lambda number: f"{number:.15g} °C")


def number(least: float, most: float) -> Kind:
    """Any number within bounds."""

    def read(given: object) -> float:
        found, _ = _number(given, "")
        if not least <= found <= most:
            raise ValueError
        return found

    return Kind(f"a number from {least:g} to {most:g}", read, float)


def whole(least: int, most: int) -> Kind:
    """A whole number within bounds."""

    def read(given: object) -> int:
        if isinstance(given, bool) or not isinstance(given, int | str):
            raise ValueError
        if isinstance(given, str) and re.fullmatch(r"-?\d{1,15}", given.strip()) is None:
            raise ValueError
        if not least <= int(given) <= most:
            raise ValueError
        return int(given)

    return Kind(f"{least} to {most}", read, int)


def _read_switch(given: object) -> bool:
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and given.strip().lower() in _YES | _NO:
        return given.strip().lower() in _YES
    raise ValueError


SWITCH = Kind("true or false", _read_switch, bool)


def _read_text(given: object) -> str:
    if not isinstance(given, str) or len(given) > MAX_TEXT or not given.isprintable():
        raise ValueError
    return given


def choice(*names: str) -> Kind:
    """One of some words."""

    def read(given: object) -> str:
        if given not in names:
            raise ValueError
        return str(given)

    return Kind("one of " + ", ".join(names), read, str)


def text(wanted: str, check: Callable[[str], object] = str) -> Kind:
    """A line of text; `check` raises ValueError for what is none of the wanted."""

    def read(given: object) -> str:
        found = _read_text(given)
        check(found)
        return found

    return Kind(wanted, read, str)


def texts(wanted: str, check: Callable[[tuple[str, ...]], object] = tuple, *, separator: str = ",") -> Kind:
    """A list of lines; in one text they are set apart by `separator`."""

    def read(given: object) -> tuple[str, ...]:
        items = given.split(separator) if isinstance(given, str) else given
        if not isinstance(items, list | tuple) or len(items) > MAX_ITEMS:
            raise ValueError
        found = tuple(stripped for item in items if (stripped := _read_text(item).strip()))
        if not isinstance(given, str) and len(found) < len(items):
            raise ValueError  # an entry that says nothing is a mistake, in a text it is a comma too many
        check(found)
        return found

    return Kind(wanted, read, list, separator)


def perhaps(kind: Kind, otherwise: str) -> Kind:
    """The same, or nothing: then `otherwise` holds."""

    def read(given: object) -> Any:
        return None if given == otherwise else kind.read(given)

    def write(value: Any) -> object:
        return otherwise if value is None else kind.write(value)

    return Kind(f"{kind.wanted}; {otherwise}: as its name says", read, write)
