"""The first half of libp2p's Noise handshake, from the side that dials: enough to learn who listens. Pure.

Pattern XX with Curve25519, ChaCha20-Poly1305 and SHA-256 (Noise revision 34; libp2p specs, noise/README.md).
After the second message the initiator knows the other's identity key, which signed the key of the exchange.
p2pd makes the connections that carry anything; this only asks a listener for its name.
"""

import hashlib
import hmac
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from talkoot.dht.identity import KEY_BYTES, SIGNATURE_BYTES, verify

MAX_ANSWER_BYTES = 1024
"""Longest second message: 200 bytes from p2pd, more with extensions."""

_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"  # as long as a hash: it is the first one
_STATIC_BYTES = KEY_BYTES + 16
_SIGNED = b"noise-libp2p-static-key:"
_ED25519 = bytes.fromhex("08011220")
# protobuf PublicKey{Type: Ed25519, Data: 32 bytes}


class Initiator:
    """Of one handshake, which is never finished."""

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        public = private.public_key().public_bytes_raw()
        self._chain = _NAME
        self._hash = _NAME
        self._mix_hash(b"")  # the prologue
        self._mix_hash(public)
        self._mix_hash(b"")  # the payload, not encrypted yet
        self.first = public
        """The first message."""

    @classmethod
    def fresh(cls) -> Self:
        """With a new key."""
        return cls(X25519PrivateKey.generate())

    def who(self, answer: bytes) -> bytes:
        """The Ed25519 key of who sent the second message. Raises ValueError for anything else than that."""
        if not KEY_BYTES + _STATIC_BYTES < len(answer) <= MAX_ANSWER_BYTES:
            raise ValueError("a handshake of another length")
        theirs, static = answer[:KEY_BYTES], answer[KEY_BYTES : KEY_BYTES + _STATIC_BYTES]
        self._mix_hash(theirs)
        static_key = self._open(self._mix_key(theirs), static)
        payload = self._open(self._mix_key(static_key), answer[KEY_BYTES + _STATIC_BYTES :])
        fields = _fields(payload)
        named, signature = fields.get(1, b""), fields.get(2, b"")
        if len(named) != len(_ED25519) + KEY_BYTES or not named.startswith(_ED25519):
            raise ValueError("an identity that is no Ed25519 key")
        key = named[len(_ED25519) :]
        if len(signature) != SIGNATURE_BYTES or not verify(key, _SIGNED + static_key, signature):
            raise ValueError("an identity that did not sign")
        return key

    def _mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def _mix_key(self, public: bytes) -> bytes:
        """HKDF with the secret shared with a key of theirs; the key of the next cipher text."""
        shared = self._private.exchange(X25519PublicKey.from_public_bytes(public))
        temporary = hmac.digest(self._chain, shared, "sha256")
        self._chain = hmac.digest(temporary, b"\x01", "sha256")
        return hmac.digest(temporary, self._chain + b"\x02", "sha256")

    def _open(self, key: bytes, data: bytes) -> bytes:
        try:
            plain = ChaCha20Poly1305(key).decrypt(bytes(12), data, self._hash)
        except InvalidTag as error:
            raise ValueError("a handshake that does not decrypt") from error
        self._mix_hash(data)
        return plain


def _fields(data: bytes) -> dict[int, bytes]:
    """The length-delimited fields of a protobuf message; each key and length in one byte or two."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        size, at = _number(data, at)
        if tag & 7 != 2 or size > len(data) - at:
            raise ValueError("a payload that does not parse")
        found[tag >> 3] = data[at : at + size]
        at += size
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in (0, 7):
        if at >= len(data):
            break
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return number, at
    raise ValueError("a payload that does not parse")
