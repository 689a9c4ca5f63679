"""The version of what peers say to each other.

A swarm speaks the version of its manifest. A release speaks the newest, N, and the one before it, so that
peers of both releases train together in a swarm of N-1.
"""

PROTOCOL_VERSION = 1
"""Newest version of everything on the wire."""


def speaks(protocol: int) -> bool:
    """Whether this release takes part in swarms of that protocol."""
    return max(1, PROTOCOL_VERSION - 1) <= protocol <= PROTOCOL_VERSION


def spoken() -> str:
    """The versions that it speaks, for people."""
    return f"{PROTOCOL_VERSION - 1} and {PROTOCOL_VERSION}" if PROTOCOL_VERSION > 1 else f"{PROTOCOL_VERSION}"
