"""Signatures of simulated swarms: a keyed hash instead of Ed25519, since nobody there forges one.

Ed25519 takes a third of a simulation's time. The stand-in tells a changed message or another signer as well,
but whoever knows a public key could sign with it. Some seeds keep the real ones (`run.REAL_SIGNATURES`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from blake3 import blake3
from cryptography.exceptions import InvalidSignature

from talkoot.dht import identity
from talkoot.dht.identity import SIGNATURE_BYTES, Identity


class SimIdentity(Identity):
    """An identity that tells a witness what it signs."""

    __slots__ = ("_real", "_witness")

    def __init__(self, seed: bytes, witness: Callable[[bytes, bytes], None], *, real: bool) -> None:
        """`real`: with Ed25519; otherwise use it inside `stand_in_signatures` only."""
        super().__init__(seed)
        self._witness = witness
        self._real = real

    def sign(self, message: bytes) -> bytes:
        """As `Identity.sign`."""
        self._witness(self.key, message)
        return super().sign(message) if self._real else _stand_in(self.key, message)


class _StandInKey:
    """In the place of `Ed25519PublicKey`, as far as `identity.verify` uses it."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_public_bytes(cls, key: bytes) -> Self:
        return cls(key)

    def verify(self, signature: bytes, message: bytes) -> None:
        if signature != _stand_in(self._key, message):
            raise InvalidSignature


def _stand_in(key: bytes, message: bytes) -> bytes:
    return blake3(message, key=key).digest(SIGNATURE_BYTES)


@contextmanager
def stand_in_signatures() -> Iterator[None]:
    """Let `identity.verify` check stand-ins while it lasts."""
    name = "Ed25519PublicKey"
    real = getattr(identity, name)
    setattr(identity, name, _StandInKey)
    try:
        yield
    finally:
        setattr(identity, name, real)
