"""The limits of a running node in words: what is set, what is in use, and who said so."""

from typing import Any

from talkoot.cli.table import table
from talkoot.cli.words import printable, size

_BYTES = ("limits.gpu_memory", "limits.ram", "limits.disk", "limits.quota")
_RATES = ("limits.upload", "limits.download", "limits.serve_rate")
_SHOWN = ("limits.", "schedule.", "yield.")
_HEADINGS = ("limit", "set to", "in use", "from")


def limits_text(settings: dict[str, Any]) -> str:
    """A table of limits, and of what differs from the defaults; empty for a node without a configuration."""
    rows = [
        _row(key, entry)
        for key, entry in settings.items()
        if isinstance(entry, dict) and (key.startswith(_SHOWN) or not _is_default(entry))
    ]
    return table(_HEADINGS, rows, left=_HEADINGS) if rows else ""


def _is_default(entry: dict[str, Any]) -> bool:
    return entry.get("source") == "default" and not entry.get("pending")


def _row(key: str, entry: dict[str, Any]) -> tuple[str, ...]:
    words = str(entry.get("words") or "-")
    if words == "none" and key in _BYTES + _RATES + ("limits.max_celsius",):
        words = "no limit"
    pending = entry.get("pending")
    source = str(entry.get("source", "?")) + (f"; {pending} after a restart" if pending else "")
    used = used_words(key, entry.get("used"))
    if entry.get("holds"):
        used = f"{used}; paused: {entry['holds']}".removeprefix("; ")
    return key, words, printable(used), source


def used_words(key: str, used: object) -> str:
    """What is in use, in the limit's unit."""
    if isinstance(used, str):
        return used
    if isinstance(used, bool) or not isinstance(used, int | float):
        return ""
    if key in _BYTES or key in _RATES:
        return size(used) + ("/s" if key in _RATES else "")
    if key == "limits.power":
        return f"{100 * used:.1f} %"
    return f"{used:g} °C" if key == "limits.max_celsius" else f"{used:g}"
