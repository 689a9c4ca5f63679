"""Keys and PeerIDs as py-libp2p has them. It reads a private Ed25519 key of 32 bytes, p2pd one of 64."""

from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.peer.id import ID

from talkoot.dht.identity import Identity, key_of_multihash, multihash_of


def key_pair(identity: Identity) -> KeyPair:
    """The same key, with the same PeerID."""
    private = Ed25519PrivateKey.from_bytes(identity.seed_bytes())
    return KeyPair(private, private.get_public_key())


def id_of(key: bytes) -> ID:
    """The PeerID of a raw public key."""
    return ID(multihash_of(key))


def key_of(peer: ID) -> bytes:
    """The raw public key in an Ed25519 PeerID. Raises ValueError for any other."""
    return key_of_multihash(peer.to_bytes())
