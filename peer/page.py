"""The page at `/`: static files of this package, served from memory, that show what the JSON API says.

No script, style or picture comes from elsewhere and none stands in the HTML, so that the policy below holds
without exceptions; with Trusted Types a browser refuses to make markup of any text at all.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy of everything that a node serves."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """One file of the page."""

    content: bytes
    content_type: str


def assets() -> dict[str, Asset]:
    """The files by the path under which they are served; the page itself under `/`. Reads the disk."""
    found = dict(_below(files("talkoot.peer") / "web", "/web/"))
    return {"/": found.pop("/web/index.html"), **found}


def _below(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = prefix + entry.name
        if entry.is_dir():
            found += _below(entry, f"{path}/")
        elif content_type := _TYPES.get(entry.name[entry.name.rfind(".") :]):
            found.append((path, Asset(entry.read_bytes(), content_type)))
    return found
