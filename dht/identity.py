"""Ed25519 identities in the forms that libp2p and people use. All conversions are in this file.

A peer is its raw 32-byte public key inside the code. Its PeerID, for display and in addresses, is the
identity multihash of the protobuf-encoded public key (libp2p specs, peer-ids/peer-ids.md). The key file
is the protobuf-encoded private key with 64 bytes of seed and public key, which p2pd reads as it is.
"""

import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from talkoot.dht.errors import ConfigError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
PEER_ID_CHARS = 52
"""Characters of every Ed25519 PeerID: 38 bytes that begin with a zero, in base 58."""

_PEER_ID_PREFIX = bytes.fromhex("0024") + bytes.fromhex("08011220")
# identity multihash of 36 bytes; protobuf PublicKey{Type: Ed25519, Data: 32 bytes}
_KEY_FILE_PREFIX = bytes.fromhex("08011240")
# protobuf PrivateKey{Type: Ed25519, Data: 64 bytes}
_KEY_FILE_BYTES = len(_KEY_FILE_PREFIX) + 2 * KEY_BYTES
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Identity:
    """A private key with its names. Immutable."""

    __slots__ = ("_private", "_seed", "key", "peer_id")

    key: bytes
    peer_id: str

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.key = self._private.public_key().public_bytes_raw()
        self.peer_id = peer_id_of(self.key)

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @classmethod
    def generate(cls) -> Self:
        """A new identity from the system's entropy."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The identity of a 32-byte seed. Raises ValueError for another length."""
        return cls(seed)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Read the key file, or write a new one (mode 0600) where there is none.

        Raises ConfigError if the file cannot be read or written, can be read by other users, or holds
        anything else than an Ed25519 key.
        """
        try:
            return cls._load(path)
        except FileNotFoundError:
            return cls._create(path)
        except OSError as error:
            raise ConfigError(f"cannot read the key file {path}: {error.strerror}") from error

    @classmethod
    def _create(cls, path: Path) -> Self:
        identity = cls.generate()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, identity.libp2p_bytes())
        except OSError as error:
            raise ConfigError(f"cannot write the key file {path}: {error.strerror}") from error
        return identity

    @classmethod
    def _load(cls, path: Path) -> Self:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not make us wait
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"cannot read the key file {path}: no regular file")
            data = file.read(_KEY_FILE_BYTES + 1)
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(f"other users can read the key file {path}: run chmod 600 {path}")
        return cls._parse(data, path)

    @classmethod
    def _parse(cls, data: bytes, path: Path) -> Self:
        if len(data) != _KEY_FILE_BYTES or not data.startswith(_KEY_FILE_PREFIX):
            kind = "an RSA key" if data.startswith(b"\x08\x00") else "no Ed25519 key"
            raise ConfigError(f"the key file {path} holds {kind}: move it away to have a new one made")
        seed = data[len(_KEY_FILE_PREFIX) : len(_KEY_FILE_PREFIX) + KEY_BYTES]
        identity = cls(seed)
        if identity.key != data[-KEY_BYTES:]:
            raise ConfigError(f"the key file {path} is damaged: its two halves do not belong together")
        return identity

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature (RFC 8032) of `message`."""
        return self._private.sign(message)

    def libp2p_bytes(self) -> bytes:
        """The key file as p2pd reads it; secret."""
        return _KEY_FILE_PREFIX + self._seed + self.key

    def seed_bytes(self) -> bytes:
        """The 32 bytes that py-libp2p calls the private key; secret."""
        return self._seed


def _write_whole(path: Path, data: bytes) -> None:
    """Make the file with all of its content, or not at all: half a key would be refused for ever."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `key` over `message`; False for anything ill-formed, too."""
    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(1024)
def peer_id_of(key: bytes) -> str:
    """The PeerID (12D3Koo...) of a raw public key. Raises ValueError for another length."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a public key has {KEY_BYTES} bytes, not {len(key)}")
    return _base58_encode(_PEER_ID_PREFIX + key)


def key_of_peer_id(text: str) -> bytes:
    """The raw public key in an Ed25519 PeerID. Raises ValueError for anything else."""
    if len(text) != PEER_ID_CHARS:
        raise ValueError("not an Ed25519 PeerID: wrong length")
    return key_of_multihash(_base58_decode(text))


def key_of_multihash(data: bytes) -> bytes:
    """The raw public key in the binary form of an Ed25519 PeerID. Raises ValueError for anything else."""
    if len(data) != len(_PEER_ID_PREFIX) + KEY_BYTES or not data.startswith(_PEER_ID_PREFIX):
        raise ValueError("not an Ed25519 PeerID")
    return data[len(_PEER_ID_PREFIX) :]


def multihash_of(key: bytes) -> bytes:
    """The binary form of the PeerID of a raw public key."""
    return _PEER_ID_PREFIX + key


def _base58_encode(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    zeros = len(data) - len(data.lstrip(b"\0"))
    return _BASE58[0] * zeros + digits


def _base58_decode(text: str) -> bytes:
    number = 0
    for character in text:
        digit = _BASE58.find(character)
        if digit < 0:
            raise ValueError("not an Ed25519 PeerID: not base 58")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip(_BASE58[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
