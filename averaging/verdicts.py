"""What an auditor says of one contribution of the round before: whether it helped.

Which contribution is no choice of the auditor: the state after that round, which nobody knew before all
contributions were fixed, and the keys of both decide. Anybody can repeat the draw. (A lottery by signature,
as elsewhere, would be one that the auditor can enter again and again: an Ed25519 signer is free to choose its
nonces, so it has many signatures for one message.)
"""

from collections.abc import Collection, Iterable

import msgspec
from blake3 import blake3

from talkoot.averaging.signing import Signer, Verify

MAX_SCORE = 1000
"""Largest score, of either sign."""

_DRAW = "talkoot 2026 audit draw"
_TURN = "talkoot 2026 audit turn"


class Verdict(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One auditor's word on one contribution."""

    auditor: bytes
    subject: bytes
    """Key of the contributor."""
    score: int
    """-1000 to 1000; above 0: it helped, 0: no change that is significant, below 0: it hurt."""
    signature: bytes = b""

    @property
    def sizes_ok(self) -> bool:
        """Whether all fields are in bounds, and the auditor speaks of another."""
        lengths = (len(self.auditor), len(self.subject), len(self.signature))
        return lengths == (32, 32, 64) and self.auditor != self.subject and abs(self.score) <= MAX_SCORE


def verdict_bytes(swarm: bytes, round_number: int, prior: bytes, verdict: Verdict) -> bytes:
    """The bytes that the auditor signs. `round_number` is the round whose certificate the verdict enters, and
    `prior` the digest before it: the state after the round whose contribution was scored."""
    fields = (swarm, round_number, prior, verdict.auditor, verdict.subject, verdict.score)
    return b"talkoot verdict\0" + msgspec.msgpack.encode(fields)


def sign_verdict(
    signer: Signer, *, swarm: bytes, round_number: int, prior: bytes, subject: bytes, score: int
) -> Verdict:
    """Our verdict; see `verdict_bytes` for the round and the digest."""
    verdict = Verdict(signer.key, subject, score)
    signature = signer.sign(verdict_bytes(swarm, round_number, prior, verdict))
    return msgspec.structs.replace(verdict, signature=signature)


def check(verdict: Verdict, *, swarm: bytes, round_number: int, prior: bytes, verify: Verify) -> bool:
    """Whether it is in bounds and its auditor's. That the auditor votes and the subject is the one that was
    drawn is for those to check who know the ledger (`talkoot.averaging.context`)."""
    if not verdict.sizes_ok:
        return False
    return verify(verdict.auditor, verdict_bytes(swarm, round_number, prior, verdict), verdict.signature)


def drawn(
    prior: bytes, auditor: bytes, subjects: Iterable[bytes], first: Collection[bytes] = ()
) -> bytes | None:
    """Whom an auditor scores after the round that led to the digest `prior`; None when there is nobody else.

    The subject with the lowest hash, never the auditor itself. About every other auditor draws among those
    `subjects` that come `first`, where there are any: the few of whom the swarm should know more.
    """
    others = [subject for subject in subjects if subject != auditor]
    turn = blake3(prior + auditor, derive_key_context=_TURN).digest()
    fresh = [subject for subject in others if subject in first] if turn[0] % 2 else []

    def lot(subject: bytes) -> bytes:
        return blake3(prior + auditor + subject, derive_key_context=_DRAW).digest()

    return min(fresh or others, key=lot, default=None)
