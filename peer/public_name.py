"""The name that a volunteer lets others show instead of the peer id: opt-in, short, plain ASCII, not unique.

It stands behind the release in the version text of the peer's signed announcement, `0.1.0 (Ada)`, which every
release understands; whoever gives no name says nothing more than before. Nothing depends on it.
"""

import re

MAX_NAME_CHARS = 16
"""Longest name: with its brackets, and a release of 13 characters, it fills the version text."""

MAX_VERSION_CHARS = 32
"""Of the version text (`talkoot.dht.records`)."""

_NAME = re.compile(r"[A-Za-z0-9]+(?:[ ._-][A-Za-z0-9]+)*")
_VERSION = re.compile(r"([0-9A-Za-z.+!-]{1,32})(?: \(([^()]{1,29})\))?")


def check_name(name: str) -> None:
    """Raises ValueError unless this may be a name."""
    if not is_name(name):
        raise ValueError(
            f"a public name has 1 to {MAX_NAME_CHARS} letters A to Z and digits, with single spaces, "
            "dots, hyphens or underscores between them"
        )


def is_name(name: object) -> bool:
    """Whether this may be shown as a peer's name."""
    return isinstance(name, str) and len(name) <= MAX_NAME_CHARS and _NAME.fullmatch(name) is not None


def version_text(release: str, name: str) -> str:
    """What is announced; the release alone where there is no name, or no room for it."""
    text = f"{release} ({name})" if name else release
    return text if len(text) <= MAX_VERSION_CHARS else release


def split_version(text: str) -> tuple[str, str | None]:
    """Release and name of what a peer announced; `?` and None for what no release of ours announces."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return "?", None
    return match[1], match[2] if is_name(match[2]) else None
