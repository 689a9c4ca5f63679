"""Invites: the one line of text with which a volunteer joins, `talkoot://` and base64url.

The bytes: protocol version (1), length of the body (2, big-endian), body (msgpack), checksum (4, BLAKE3
over all before). The version comes first so that an invite of another version is recognised as one.
"""

import base64
import binascii
import re
from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import Meta

from talkoot.dht.identity import key_of_peer_id
from talkoot.peer.admission import Token
from talkoot.peer.protocol import PROTOCOL_VERSION, speaks, spoken

SCHEME = "talkoot://"
MAX_INVITE_CHARS = 4096
"""Longest text that is decoded."""
MAX_ADDRESSES = 8
MAX_RELAYS = 4
MAX_ADDRESS_CHARS = 256

_CHECKSUM_BYTES = 4
_HEADER_BYTES = 3
_Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Count = Annotated[int, Meta(ge=0, le=2**40)]
_Address = Annotated[str, Meta(min_length=1, max_length=MAX_ADDRESS_CHARS)]


class Anchor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A final round that the inviter vouches for; the joiner follows the voters' hand-overs from there."""

    round: _Count
    """Number of committed rounds."""
    digest: _Hash
    """Digest of the outer state after them."""
    voters: _Hash
    """Hash of the set of voters of the next round."""
    date: _Count
    """Unix time in seconds at which the invite was made."""


class InviteKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A single-use key: whoever holds the seed may name one peer (`talkoot.peer.admission`)."""

    seed: _Hash
    token: Token


class Invite(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a joiner needs to know; the manifest itself is fetched and checked against `swarm`."""

    swarm: _Hash
    """Swarm id."""
    addresses: Annotated[tuple[_Address, ...], Meta(min_length=1, max_length=MAX_ADDRESSES)]
    """Multiaddrs of peers, each ending in /p2p/<peer id>."""
    anchor: Anchor | None = None
    key: InviteKey | None = None
    relays: Annotated[tuple[_Address, ...], Meta(max_length=MAX_RELAYS)] = ()
    """Multiaddrs of relays, each ending in /p2p/<peer id>. Left out where there are none, as before there
    were any: such an invite is read by every version."""


class OtherProtocolError(ValueError):
    """An invite for another version of the protocol."""

    def __init__(self, theirs: int) -> None:
        super().__init__(
            f"the invite is for protocol version {theirs}, this talkoot speaks {spoken()}; "
            f"{'update talkoot' if theirs > PROTOCOL_VERSION else 'ask for a new invite'}"
        )
        self.theirs = theirs


def encode(invite: Invite, *, protocol: int = PROTOCOL_VERSION) -> str:
    """The invite as text, to a swarm of that protocol. Raises ValueError when a field is out of bounds."""
    values = [getattr(invite, name) for name in invite.__struct_fields__]
    body = msgspec.msgpack.encode(values if invite.relays else values[:-1])
    try:
        _check(msgspec.msgpack.decode(body, type=Invite))
    except msgspec.ValidationError as error:
        raise ValueError(f"invite out of bounds: {error}") from error
    data = bytes([protocol]) + len(body).to_bytes(2, "big") + body
    text = SCHEME + base64.urlsafe_b64encode(data + _checksum(data)).decode().rstrip("=")
    if len(text) > MAX_INVITE_CHARS:
        raise ValueError(f"invite of {len(text)} characters; at most {MAX_INVITE_CHARS} are read")
    return text


def decode(text: str) -> Invite:
    """The invite in `text`; white space (line breaks of a mail, say) does not matter.

    Raises ValueError, in one line for the person who pasted it, when the text is no invite, was cut or
    changed, or is for another protocol version.
    """
    if len(text) > 2 * MAX_INVITE_CHARS:
        raise ValueError("the invite is too long to be one")
    text = "".join(text.split())
    if text[: len(SCHEME)].lower() != SCHEME:
        raise ValueError(f"not an invite: it must begin with {SCHEME}")
    if len(text) > MAX_INVITE_CHARS:
        raise ValueError("the invite is too long to be one")
    data = _from_base64(text[len(SCHEME) :])
    if len(data) < _HEADER_BYTES:
        raise ValueError("the invite was cut short; copy it again, whole")
    if not speaks(data[0]):
        raise OtherProtocolError(data[0])
    body_end = _HEADER_BYTES + int.from_bytes(data[1:_HEADER_BYTES], "big")
    if len(data) < body_end + _CHECKSUM_BYTES:
        raise ValueError("the invite was cut short; copy it again, whole")
    if len(data) > body_end + _CHECKSUM_BYTES:
        raise ValueError("there is something after the invite's end; copy it again, alone")
    if _checksum(data[:body_end]) != data[body_end:]:
        raise ValueError("the invite was changed on its way (checksum); copy it again")
    try:
        invite = msgspec.msgpack.decode(data[_HEADER_BYTES:body_end], type=Invite)
    except (ValueError, RecursionError) as error:
        raise ValueError("the invite's content is not valid; ask for a new one") from error
    _check(invite)
    return invite


def _check(invite: Invite) -> None:
    for address in (*invite.addresses, *invite.relays):
        head, marker, peer_id = address.rpartition("/p2p/")
        if not (marker and head.startswith("/") and address.isascii() and address.isprintable()):
            raise ValueError("the invite has an address that is none of a peer")
        key_of_peer_id(peer_id)


def _checksum(data: bytes) -> bytes:
    return blake3(data, derive_key_context="talkoot 2026 invite checksum").digest(_CHECKSUM_BYTES)


def _from_base64(text: str) -> bytes:
    if not re.fullmatch(r"[A-Za-z0-9_-]*=*", text):
        raise ValueError("the invite has characters that do not belong there; copy it again")
    text = text.rstrip("=")
    if len(text) % 4 == 1:  # no whole number of bytes ends there
        text = text[:-1]
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("the invite has characters that do not belong there; copy it again") from error
