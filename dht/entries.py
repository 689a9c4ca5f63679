"""How a swarm's directory is kept in hivemind's DHT: one key a swarm, one subkey a peer. Pure."""

import hashlib

import msgspec
from blake3 import blake3

from talkoot.dht.identity import KEY_BYTES

PLACE_BYTES = 20
"""Length of a place in hivemind's key space: a SHA-1."""

_SUBKEY_PREFIX = bytes([0xC4, KEY_BYTES])  # msgpack: bin 8 of 32 bytes


def directory_key(swarm: bytes) -> bytes:
    """The DHT key of a swarm's directory, from which its id cannot be told."""
    return blake3(swarm, derive_key_context="talkoot 2026 directory key").digest()


def directory_place(swarm: bytes) -> bytes:
    """Where that key is in hivemind's key space."""
    return hashlib.sha1(directory_key(swarm), usedforsecurity=False).digest()


def pack_subkey(owner: bytes) -> bytes:
    """The subkey of an owner's record as hivemind sends it: msgpack."""
    return _SUBKEY_PREFIX + owner


def unpack_subkey(subkey: bytes) -> bytes | None:
    """The owner in the only form that is accepted; None for anything else."""
    if len(subkey) != len(_SUBKEY_PREFIX) + KEY_BYTES or not subkey.startswith(_SUBKEY_PREFIX):
        return None
    return subkey[len(_SUBKEY_PREFIX) :]


def pack_envelope(envelope: bytes) -> bytes:
    """The value as hivemind stores it: msgpack."""
    return msgspec.msgpack.encode(envelope)


def unpack_envelope(value: object) -> bytes | None:
    """The bytes in a canonical msgpack byte string; None for anything else."""
    if not isinstance(value, bytes):
        return None
    try:
        envelope = msgspec.msgpack.decode(value, type=bytes)
    except ValueError:
        return None
    return envelope if pack_envelope(envelope) == value else None
