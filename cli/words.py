"""Numbers as people read them, and JSON as they do."""

from typing import Any


def size(num_bytes: float) -> str:
    """Bytes with a decimal unit: 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def count(number: float) -> str:
    """A large count: 12.3 M."""
    for unit in ("", " k", " M", " G"):
        if abs(number) < 1000:
            return f"{number:.0f}" if unit == "" else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f} T"


def loss(value: object) -> str:
    """A loss, or a dash where there is none yet."""
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def duration(seconds: float) -> str:
    """1 h 02 min, 3 min 05 s or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def state_words(status: dict[str, Any]) -> str:
    """`paused (user, until 18:00)`; the state alone where there is no more to say."""
    reason = str(status.get("reason") or "").replace("_", " ")
    about = ", ".join(word for word in (reason, printable(str(status.get("detail") or ""))) if word)
    return f"{status.get('state', '?')}" + (f" ({about})" if about else "")


def printable(text: str) -> str:
    """A text from elsewhere, without anything that acts on a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def as_json(value: Any) -> str:
    """Indented JSON."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
