"""The page at `/`: static files of this package, served from memory, that show what the JSON API says.

No script, style or picture comes from elsewhere. Those of our own that the page needs at first are put into
its HTML (`talkoot.peer.bundle`) and allowed there by their hashes, so the policy below runs nothing else;
with Trusted Types a browser refuses to make markup of any text at all.
"""

from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from talkoot.peer.bundle import bundled


def policy(*, scripts: Iterable[str] = (), styles: Iterable[str] = ()) -> str:
    """A Content-Security-Policy: files of this node, and what stands in the HTML with these hashes."""
    return "; ".join(
        (
            "default-src 'none'",
            " ".join(("script-src 'self'", *scripts)),
            " ".join(("style-src 'self'", *styles)),
            "img-src 'self'",
            "connect-src 'self'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


POLICY = policy()
"""Content-Security-Policy of everything that a node serves, but for the page itself."""

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
    policy: str = POLICY


def assets() -> dict[str, Asset]:
    """The files by the path under which they are served; the page itself under `/`. Reads the disk."""
    found = dict(_below(files("talkoot.peer") / "web", "/web/"))
    page = found.pop("/web/index.html")
    texts = {path: asset.content.decode() for path, asset in found.items()}
    whole = bundled(page.content.decode(), texts)
    allowed = policy(scripts=whole.scripts, styles=whole.styles)
    return {"/": Asset(whole.html, page.content_type, allowed), **found}


def _below(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = prefix + entry.name
        if entry.is_dir():
            found += _below(entry, f"{path}/")
        elif content_type := _TYPES.get(entry.name[entry.name.rfind(".") :]):
            found.append((path, Asset(entry.read_bytes(), content_type)))
    return found
