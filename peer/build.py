"""Which build of talkoot this is: its release, its protocol, and the commit where that is known."""

import json
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from talkoot.peer.protocol import PROTOCOL_VERSION

COMMIT_FILE = Path(__file__).with_name("commit.txt")
"""Written when a wheel is built from a repository."""

MAX_COMMIT = 40


def release() -> str:
    """Version of the package."""
    return distribution("talkoot").version


def commit() -> str | None:
    """The commit that this was built from, or runs from; None: nobody knows."""
    return _of_wheel() or _of_address() or _of_repository()


def build_words() -> str:
    """`talkoot 0.1.0, protocol 1, build 1a2b3c4d5e6f`."""
    return f"talkoot {release()}, protocol {PROTOCOL_VERSION}, build {(commit() or 'unknown')[:12]}"


def _of_wheel() -> str | None:
    with suppress(OSError):
        return COMMIT_FILE.read_text()[:MAX_COMMIT].strip() or None
    return None


def _of_address() -> str | None:
    """What pip notes of a package that it built from a repository's address."""
    with suppress(PackageNotFoundError, OSError):
        return noted_commit(distribution("talkoot").read_text("direct_url.json") or "")
    return None


def noted_commit(text: str) -> str | None:
    """The commit in a `direct_url.json`, if it is of a repository."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        return str(json.loads(text)["vcs_info"]["commit_id"])
    return None


def _of_repository() -> str | None:
    """Of the checkout that this runs from."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        ask = ["git", "-C", str(folder), "rev-parse", "HEAD"]  # the user's own git, in our folder
        done = subprocess.run(ask, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
        return done.stdout.strip()
    return None
