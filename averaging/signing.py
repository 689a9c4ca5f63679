"""Signatures as the protocol sees them: somebody who signs, and a function that checks.

The keys themselves belong to the network layer; here a peer is its raw 32-byte Ed25519 public key.
"""

from collections.abc import Callable
from typing import Protocol

Verify = Callable[[bytes, bytes, bytes], bool]
"""(key, message, signature) -> whether `key` signed `message`."""


class Signer(Protocol):
    """Who we are and how we sign."""

    @property
    def key(self) -> bytes:
        """Our raw public key, 32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Signature over `message`, 64 bytes."""
        ...
