"""Messages of circuit relay v2 (libp2p specs, relay/circuit-v2.md): hop, stop and the reservation voucher.
Pure."""

from dataclasses import dataclass
from enum import IntEnum

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity, multihash_of
from talkoot.dht.multiaddr import varint
from talkoot.dht.outside.wire import Message, bytes_field, number_field

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
MAX_MESSAGE_BYTES = 4096
"""Longest message of the other side."""
MAX_PEER_ID_BYTES = 64

_VOUCHER_DOMAIN = b"libp2p-relay-rsvp"
_VOUCHER_TYPE = b"\x03\x02"
_P2P = 421  # in a multiaddr: a PeerID


class Status(IntEnum):
    """How a request went."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


_RESERVE, _CONNECT, _STATUS = range(3)
_STOP_CONNECT, _STOP_STATUS = range(2)


@dataclass(frozen=True, slots=True)
class Reserve:
    """A wish for a reservation."""


@dataclass(frozen=True, slots=True)
class Connect:
    """A wish for a circuit to a peer, by its PeerID as bytes."""

    peer: bytes


def parse_hop(data: bytes, asker: bytes) -> Reserve | Connect:
    """Raises RemoteError (`malformed`)."""
    try:
        message = Message(data)
        kind = message.number(1) if 1 in message else None
        if kind == _RESERVE:
            return Reserve()
        if kind == _CONNECT:
            peer = Message(message.bytes(2)).bytes(1)
            if 0 < len(peer) <= MAX_PEER_ID_BYTES:
                return Connect(peer)
    except ValueError as error:
        raise RemoteError(asker, "malformed", f"hop: {error}") from error
    raise RemoteError(asker, "malformed", "hop: neither a reservation nor a circuit")


def parse_stop_status(data: bytes, peer: bytes) -> int:
    """What a target answered. Raises RemoteError (`malformed`)."""
    try:
        message = Message(data)
    except ValueError as error:
        raise RemoteError(peer, "malformed", f"stop: {error}") from error
    if message.number(1) != _STOP_STATUS:
        raise RemoteError(peer, "malformed", "stop: no status")
    return message.number(4)


def status(value: Status) -> bytes:
    """An answer on a hop stream. It names no limit: go-libp2p would take the circuit for one that only
    carries a few bytes, and open no stream on it."""
    return number_field(1, _STATUS) + number_field(5, value)


def reserved(relay: Identity, peer: bytes, expires: int, addresses: list[bytes]) -> bytes:
    """The answer with a reservation for `peer`, which lasts until `expires`, Unix seconds.

    `addresses` are the relay's, in binary form and without its PeerID.
    """
    name = multihash_of(relay.key)
    end = varint(_P2P) + varint(len(name)) + name
    reservation = number_field(1, expires)
    reservation += b"".join(bytes_field(2, address + end) for address in addresses)
    reservation += bytes_field(3, voucher(relay, peer, expires))
    return number_field(1, _STATUS) + bytes_field(3, reservation) + number_field(5, Status.OK)


def stop_connect(source: bytes) -> bytes:
    """What the target is told: who wants to reach it."""
    return number_field(1, _STOP_CONNECT) + bytes_field(2, bytes_field(1, source))


def voucher(identity: Identity, peer: bytes, expires: int) -> bytes:
    """A signed envelope (libp2p RFC 0002) that says: this relay holds a reservation for `peer`."""
    payload = bytes_field(1, multihash_of(identity.key)) + bytes_field(2, peer) + number_field(3, expires)
    return envelope(identity, _VOUCHER_DOMAIN, _VOUCHER_TYPE, payload)


def envelope(identity: Identity, domain: bytes, kind: bytes, payload: bytes) -> bytes:
    """A payload with its signature, as libp2p has it."""
    signed = b"".join(varint(len(part)) + part for part in (domain, kind, payload))
    fields = (
        bytes_field(1, public_key(identity.key)),
        bytes_field(2, kind),
        bytes_field(3, payload),
        bytes_field(5, identity.sign(signed)),
    )
    return b"".join(fields)


def public_key(key: bytes) -> bytes:
    """libp2p's message of an Ed25519 key."""
    return number_field(1, 1) + bytes_field(2, key)
