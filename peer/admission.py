"""Invite keys: a founder's signed permission for one more peer, and the joiner's proof that it holds one.

A *token* is an Ed25519 key made for one invite. The founder signs its public half; the invite carries the
private half; a joiner signs its own peer key with it. The proof shows no secret: who copies it can only
admit the same peer again. That a token admits a single peer is for the swarm's ledger to see.
"""

import time
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from talkoot.dht.identity import KEY_BYTES, SIGNATURE_BYTES, Identity, verify

MAX_PROOF_BYTES = 512
"""Longest proof that is parsed."""

_Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
_Signature = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
_Time = Annotated[int, Meta(ge=0, le=2**40)]


class AdmissionError(ValueError):
    """A proof that does not hold; `reason` is `malformed`, `foreign`, `expired` or `signature`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class UnknownInviteError(ValueError):
    """No invite that this peer can revoke has the name that was given."""


class Token(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A founder's permission for the holder of `key` to name one peer of the swarm."""

    key: _Key
    """Public key of the token; what a ledger remembers as used."""
    issuer: _Key
    """Key of the founder that signed."""
    expires: _Time
    """Unix time in seconds until which peers let it in."""
    max_uses: Annotated[int, Meta(ge=1, le=1)]
    """Peers that it admits: one."""
    signature: _Signature
    """The issuer's, over `permission`."""

    def permission(self, swarm: bytes) -> bytes:
        """The bytes that the issuer signs."""
        return b"talkoot invite token\0" + msgspec.msgpack.encode(
            [swarm, self.key, self.issuer, self.expires, self.max_uses]
        )


class _Terms(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a token says besides who issued it and its key."""

    expires: _Time
    max_uses: Annotated[int, Meta(ge=1, le=1)]
    signature: _Signature


class _Proof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    token: Token
    signature: _Signature
    """The token's, over the swarm and the peer that it admits."""


def _admitted(swarm: bytes, key: bytes) -> bytes:
    return b"talkoot admission\0" + msgspec.msgpack.encode([swarm, key])


def issue(founder: Identity, *, swarm: bytes, seed: bytes, expires: int) -> Token:
    """The permission for the token with the given 32-byte seed. Raises ValueError for out-of-range values."""
    if not 0 <= expires <= 2**40:
        raise ValueError("expires must be a Unix time in seconds")
    token = Token(Identity.from_seed(seed).key, founder.key, expires, 1, bytes(SIGNATURE_BYTES))
    return msgspec.structs.replace(token, signature=founder.sign(token.permission(swarm)))


def prove(token: Token, *, swarm: bytes, seed: bytes, key: bytes) -> bytes:
    """The proof that the holder of `seed` admits the peer `key`; at most `MAX_PROOF_BYTES`."""
    return msgspec.msgpack.encode(_Proof(token, Identity.from_seed(seed).sign(_admitted(swarm, key))))


def check(proof: bytes, *, swarm: bytes, key: bytes, founders: tuple[bytes, ...], now: float | None) -> bytes:
    """The public key of the token that admits the peer `key`.

    `now` is the Unix time, or None where all peers must come to the same answer (clocks differ, so
    expiry is for the door, not for the ledger). Raises AdmissionError.
    """
    if len(proof) > MAX_PROOF_BYTES:
        raise AdmissionError("malformed", f"proof of {len(proof)} bytes")
    try:
        parsed = msgspec.msgpack.decode(proof, type=_Proof)
    except (ValueError, RecursionError) as error:
        raise AdmissionError("malformed", "not a proof of admission") from error
    token = parsed.token
    if token.issuer not in founders:
        raise AdmissionError("foreign", "not issued by a founder of this swarm")
    if now is not None and now > token.expires:
        raise AdmissionError("expired", "the invite has expired")
    if not verify(token.issuer, token.permission(swarm), token.signature):
        raise AdmissionError("signature", "the founder's signature does not hold")
    if not verify(token.key, _admitted(swarm, key), parsed.signature):
        raise AdmissionError("signature", "the proof is not for this peer")
    return token.key


def terms_of(token: Token) -> bytes:
    """What `issued_rule` asks for beside the issuer and the key."""
    return msgspec.msgpack.encode(_Terms(token.expires, token.max_uses, token.signature))


def issued_rule(swarm: bytes, founders: tuple[bytes, ...]) -> Callable[[bytes, bytes, bytes], bool]:
    """The rule of `talkoot.averaging.rules.Issued`: whether a founder issued a key, by the token's terms."""

    def issued(founder: bytes, key: bytes, terms: bytes) -> bool:
        try:
            parsed = msgspec.msgpack.decode(terms, type=_Terms)
        except (ValueError, RecursionError):
            return False
        token = Token(key, founder, parsed.expires, parsed.max_uses, parsed.signature)
        return founder in founders and verify(founder, token.permission(swarm), parsed.signature)

    return issued


def door_rule(
    swarm: bytes, founders: tuple[bytes, ...], clock: Callable[[], float] = time.time
) -> Callable[[bytes, bytes], str | None]:
    """The rule of `talkoot.averaging.rules.Door`: why a peer is not let in now (by `clock`), or None."""

    def refusal(key: bytes, proof: bytes) -> str | None:
        try:
            check(proof, swarm=swarm, key=key, founders=founders, now=clock())
        except AdmissionError as error:
            return error.reason if proof else "uninvited"
        return None

    return refusal


def admit_rule(swarm: bytes, founders: tuple[bytes, ...]) -> Callable[[bytes, bytes], bytes | None]:
    """The rule of `talkoot.averaging.rules.Admit`: (peer key, proof) -> token or None, on any clock."""

    def admit(key: bytes, proof: bytes) -> bytes | None:
        try:
            return check(proof, swarm=swarm, key=key, founders=founders, now=None)
        except AdmissionError:
            return None

    return admit
