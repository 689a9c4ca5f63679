"""Directory records: what a peer announces about itself, and the signed envelope around it.

Envelope: format (1 byte), issue time and expiration (float64 each, Unix seconds, big-endian), signature
(64 bytes, Ed25519 over a domain prefix and everything but the signature), body (msgpack of PeerRecord).
The fixed layout makes it non-malleable: one record, one byte string.
"""

import math
import re
import struct
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import SIGNATURE_BYTES, Identity, verify

MAX_RECORD_BYTES = 2048
"""Longest envelope that is accepted."""
MAX_TTL_S = 600.0
"""Longest time between issue and expiration."""
MAX_SKEW_S = 3.0
"""How far a peer's clock may be ahead of ours; hivemind's DHT has the same limit."""
MAX_ADDRESSES = 8

_FORMAT = 1
_HEAD = struct.Struct(">Bdd64s")
_DOMAIN = b"talkoot 2026 peer record\0"
_PRINTABLE = re.compile(r"[ -~]*")
_ADDRESS = re.compile(r"(/[A-Za-z0-9.:_%-]+)+")

Hash: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Address: TypeAlias = Annotated[str, Meta(min_length=2, max_length=256)]


class PeerRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one peer says about itself; claims, which only its signature binds to it.

    Building or decoding one raises ValueError for a value out of bounds.
    """

    swarm: Hash
    key: Hash
    protocol: Annotated[int, Meta(ge=0, le=2**16)]
    version: Annotated[str, Meta(max_length=32)]
    addresses: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]
    role: Literal["full", "client", "observer", "relay"]
    """A relay (`talkoot relay`) only says where it can be dialled: it trains, votes and holds nothing."""
    round: Count
    digest: Hash
    """Head of its outer state."""
    steps: Count
    """Inner steps since the snapshot that the round will count."""
    tokens: Count
    speed: float
    """Inner steps a second."""
    upload: float
    """Bytes a second; 0: not measured."""
    download: float
    """Bytes a second; 0: not measured."""
    corpus: Annotated[bytes, Meta(max_length=32)]
    loss: float
    state: Annotated[str, Meta(max_length=16)]

    def __post_init__(self) -> None:
        for name in ("speed", "upload", "download"):
            if not 0 <= getattr(self, name) < 1e15:
                raise ValueError(f"{name} must be 0 or more and finite")
        if not math.isfinite(self.loss):
            raise ValueError("loss must be finite")
        if not all(_PRINTABLE.fullmatch(text) for text in (self.version, self.state)):
            raise ValueError("version and state must be printable ASCII")
        if not all(_ADDRESS.fullmatch(address) for address in self.addresses):
            raise ValueError("addresses must be multiaddrs")


_decoder = msgspec.msgpack.Decoder(PeerRecord)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record with the times that its owner signed."""

    record: PeerRecord
    issued: float
    expires: float


def seal(identity: Identity, record: PeerRecord, *, issued: float, expires: float) -> bytes:
    """The signed envelope of our own record. Raises ValueError if it is not ours or out of bounds."""
    if record.key != identity.key:
        raise ValueError("a record is signed by the key that it describes")
    if not 0 < expires - issued <= MAX_TTL_S:
        raise ValueError(f"a record lives for at most {MAX_TTL_S:.0f} seconds")
    body = _encoder.encode(record)
    _decode_body(body)  # bounds are checked on decoding only, so decode our own, too
    signature = identity.sign(_signed_bytes(issued, expires, body))
    envelope = _HEAD.pack(_FORMAT, issued, expires, signature) + body
    if len(envelope) > MAX_RECORD_BYTES:
        raise ValueError(f"record of {len(envelope)} bytes; at most {MAX_RECORD_BYTES} are allowed")
    return envelope


def next_times(now: float, ttl_s: float, last: tuple[float, float]) -> tuple[float, float]:
    """Issue time and expiration of our next record, given those of the `last`.

    Both are strictly later than before, even if the clock was set back a little or the time to live is
    shorter: only a later record replaces one. Set back by more than MAX_SKEW_S, they begin again: nobody
    whose clock is right took the last record, nor would take a later one before its time has come.
    Raises ValueError for a time to live that is not 0 to MAX_TTL_S.
    """
    if not 0 < ttl_s <= MAX_TTL_S:
        raise ValueError(f"a record lives for at most {MAX_TTL_S:.0f} seconds")
    if last[0] > now + MAX_SKEW_S:
        last = (0.0, 0.0)
    issued = max(now, last[0] + 1e-3)
    # A millisecond less than allowed, for the rounding of the difference.
    return issued, min(max(issued + ttl_s, last[1] + 1e-3), issued + MAX_TTL_S - 1e-3)


def parse(envelope: bytes, *, owner: bytes, swarm: bytes) -> SignedRecord:
    """Everything about a received envelope except its signature and the present time.

    Raises RemoteError: `oversized`, `malformed`, `foreign` (another swarm), `signature` (another owner).
    """
    if len(envelope) > MAX_RECORD_BYTES:
        raise RemoteError(owner, "oversized", f"record of {len(envelope)} bytes")
    if len(envelope) < _HEAD.size or envelope[0] != _FORMAT:
        raise RemoteError(owner, "malformed", "not a record envelope")
    _, issued, expires, _ = _HEAD.unpack_from(envelope)
    if not (issued > 0 and 0 < expires - issued <= MAX_TTL_S):  # also refuses NaN
        raise RemoteError(owner, "malformed", "record with impossible times")
    try:
        record = _decode_body(envelope[_HEAD.size :])
    except ValueError as error:
        raise RemoteError(owner, "malformed", f"record: {error}") from error
    if record.swarm != swarm:
        raise RemoteError(owner, "foreign", "record of another swarm")
    if record.key != owner:
        raise RemoteError(owner, "signature", "record of another key")
    return SignedRecord(record, issued, expires)


def newer(envelope: bytes, known: bytes) -> bool:
    """Whether an envelope was issued after a known one, by its own word; both as `seal` makes them."""
    return envelope is not known and _HEAD.unpack_from(envelope)[1] > _HEAD.unpack_from(known)[1]


def is_older(envelope: bytes, known: bytes) -> bool:
    """Whether whatever was received says of itself that it was issued no later than a known envelope."""
    return len(envelope) >= _HEAD.size and _HEAD.unpack_from(envelope)[1] <= _HEAD.unpack_from(known)[1]


def open_envelope(envelope: bytes, *, owner: bytes, swarm: bytes, now: float) -> SignedRecord:
    """A received record in full: parsed, in time, and signed by `owner`.

    Raises RemoteError as `parse` does, and `stale` (expired, or from the future), `signature`.
    """
    signed = parse(envelope, owner=owner, swarm=swarm)
    check_time(signed, now)
    check_signature(envelope, owner=owner)
    return signed


def is_from_the_future(signed: SignedRecord, now: float) -> bool:
    """Whether it was issued by a clock that is ahead of ours by more than is allowed."""
    return signed.issued > now + MAX_SKEW_S


def check_time(signed: SignedRecord, now: float) -> None:
    """Raises RemoteError (`stale`) for a record that expired or that comes from the future."""
    if now >= signed.expires or is_from_the_future(signed, now):
        raise RemoteError(signed.record.key, "stale", "record expired or from the future")


def check_signature(envelope: bytes, *, owner: bytes) -> None:
    """Raises RemoteError (`signature`) unless `owner` signed this envelope, which `parse` accepted."""
    _, issued, expires, signature = _HEAD.unpack_from(envelope)
    if not verify(owner, _signed_bytes(issued, expires, envelope[_HEAD.size :]), signature):
        raise RemoteError(owner, "signature", "record with a wrong signature")


def _decode_body(body: bytes) -> PeerRecord:
    return _decoder.decode(body)


def _signed_bytes(issued: float, expires: float, body: bytes) -> bytes:
    return _DOMAIN + struct.pack(">Bdd", _FORMAT, issued, expires) + body


assert _HEAD.size == 17 + SIGNATURE_BYTES
