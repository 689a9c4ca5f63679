"""Certificates: the signed statements of what each round consists of.

A certificate binds the state before a round, the cut, the aggregates, the state after it and the voters
of the next round. Voters sign it in two phases (`talkoot.averaging.voting`); whoever knows the voters can
check it alone.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from talkoot.averaging.digest import content_hash
from talkoot.averaging.ledger import MAX_VOTERS
from talkoot.averaging.quorum import quorum
from talkoot.averaging.revocations import MAX_REVOKED, Revocation
from talkoot.averaging.revocations import check as check_revocation
from talkoot.averaging.signing import Signer, Verify
from talkoot.averaging.verdicts import Verdict, check

GENESIS_ROUND = -1
"""Round number of the certificate with which a founder starts a swarm."""

MAX_CERTIFICATE_BYTES = 256 * 1024
"""Longest encoded certificate that is accepted."""

MAX_CONTRIBUTIONS = 64
MAX_PARTS = 64
MAX_ADMISSION_BYTES = 1024
MAX_CLAIM = 10**15
"""Most tokens that one contribution may claim."""
MAX_UPLOAD = 10**12
"""Most bytes/s that may be claimed."""
MAX_MILLISECONDS = 10**12
MAX_NORM2 = 1e100
"""Largest squared norm that is accepted: above 10**22 of the largest float32, and safe to add up."""

Kind = Literal["genesis", "final", "weak"]


class CertificateError(ValueError):
    """A certificate, contribution or vote that does not hold. `reason` is from a closed list."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Contribution(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Signed header of one peer's encoded pseudo-gradient; one for each (prior digest, peer)."""

    swarm: bytes
    round: int
    prior: bytes
    """Digest of the outer state that the pseudo-gradient starts from."""
    key: bytes
    root: bytes
    """Root of the tree over its chunks (`talkoot.averaging.contribution`)."""
    norm2: float
    """Squared L2 norm of the decoded contribution."""
    steps: int
    """Inner steps of this round that it stands for."""
    tokens: int
    """Tokens of those steps."""
    numel: int
    codec: str
    carried: int = 0
    """Rounds whose uncounted work it carries in addition."""
    carried_tokens: int = 0
    """Tokens of that work."""
    upload: int = 0
    """Measured upload in bytes/s, 0: not measured. A claim, bounded in its use, like steps and tokens."""
    milliseconds: int = 0
    """Time that the steps took, 0: not measured."""
    admission: bytes = b""
    """Proof of invitation of a peer that is not a voter yet."""
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the contributor signs."""
        body = msgspec.structs.replace(self, signature=b"")
        return b"talkoot contribution\0" + msgspec.msgpack.encode(body)

    @property
    def names(self) -> tuple[bytes, ...]:
        """Its fields of 32 bytes."""
        return self.swarm, self.prior, self.key, self.root

    def check(self, verify: Verify) -> None:
        """Raise CertificateError unless the fields are in bounds and the signature is the contributor's."""
        sizes_ok = all(len(name) == 32 for name in self.names)
        if not sizes_ok or len(self.admission) > MAX_ADMISSION_BYTES or len(self.codec) > 32:
            raise CertificateError("malformed", "contribution with a field of the wrong size")
        if not 0 <= self.norm2 <= MAX_NORM2:
            raise CertificateError("not_finite", "contribution with a norm that is no number")
        if not (1 <= self.steps <= 10**9 and 0 <= self.carried <= 10**6):
            raise CertificateError("malformed", "contribution with a count out of range")
        if not all(0 <= tokens <= MAX_CLAIM for tokens in (self.tokens, self.carried_tokens)):
            raise CertificateError("malformed", "contribution with a number of tokens out of range")
        if not (0 <= self.upload <= MAX_UPLOAD and 0 <= self.milliseconds <= MAX_MILLISECONDS):
            raise CertificateError("malformed", "contribution with a speed out of range")
        if not verify(self.key, self.unsigned(), self.signature):
            raise CertificateError("signature", "contribution not signed by its peer")


class PartDigest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one reducer's aggregate of one part hashes to."""

    reducer: bytes
    first_chunk: int
    num_chunks: int
    root: bytes
    """Root over the content hashes of the encoded aggregate chunks."""


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the voters agree on: everything that a round consists of."""

    swarm: bytes
    round: int
    prior: bytes
    cut: tuple[Contribution, ...]
    """Contributions that count, ascending by key."""
    present: tuple[bytes, ...]
    """Members of the roster, ascending."""
    parts: tuple[PartDigest, ...]
    digest: bytes
    """Digest of the outer state after the round."""
    voters: tuple[bytes, ...]
    """Voters of the next round, ascending."""
    verdicts: tuple[Verdict, ...] | UnsetType = UNSET
    """Swarms whose trainers are audited: those of the voters in the roster on the round before, ascending by
    auditor."""
    promoted: tuple[bytes, ...] | UnsetType = UNSET
    """The same swarms: contributors that become voters by what they earned, ascending."""
    revoked: tuple[Revocation, ...] | UnsetType = UNSET
    """Invite keys that founders in the roster take back, ascending, where there are any."""

    @property
    def hash(self) -> bytes:
        """The 32 bytes that votes are about."""
        return content_hash(msgspec.msgpack.encode(self))


class Signature(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One voter's signature over one vote."""

    voter: bytes
    signature: bytes


Phase = Literal["prepare", "commit"]


def vote_bytes(value: Value, value_hash: bytes, attempt: int, phase: Phase, weak: bool) -> bytes:
    """The bytes that a voter signs; a weak vote can never be taken for a final one."""
    fields = (value.swarm, value.round, value.prior, attempt, phase, weak, value_hash)
    return b"talkoot vote\0" + msgspec.msgpack.encode(fields)


class Prepared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A quorum of prepare votes: the only thing that may change a locked voter's mind."""

    value: Value
    attempt: int
    weak: bool
    votes: tuple[Signature, ...]


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value with the commit votes that make it final (or weak; then `weakly` gives others)."""

    value: Value
    attempt: int
    weak: bool
    votes: tuple[Signature, ...]

    @property
    def kind(self) -> Kind:
        """genesis, final or weak."""
        if self.value.round == GENESIS_ROUND:
            return "genesis"
        return "weak" if self.weak else "final"

    def encode(self) -> bytes:
        """Bytes for the wire and the log."""
        return msgspec.msgpack.encode(self)


def decode_certificate(data: bytes) -> Certificate:
    """Parse a certificate; says nothing about its signatures. Raises CertificateError."""
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise CertificateError("oversized", f"certificate of {len(data)} bytes")
    try:
        certificate = msgspec.msgpack.decode(data, type=Certificate)
    except (ValueError, RecursionError) as error:
        raise CertificateError("malformed", str(error)) from error
    check_value(certificate.value)
    return certificate


def check_value(value: Value) -> None:
    """Raise CertificateError unless sizes, counts and orders of a received value are in bounds."""
    keys = [value.swarm, value.prior, value.digest, *value.present, *value.voters]
    keys += [name for item in value.cut for name in item.names]
    keys += [name for part in value.parts for name in (part.reducer, part.root)]
    if any(len(key) != 32 for key in keys):
        raise CertificateError("malformed", "a key or hash is not 32 bytes long")
    if value.round < GENESIS_ROUND or len(value.cut) > MAX_CONTRIBUTIONS or len(value.parts) > MAX_PARTS:
        raise CertificateError("malformed", "a count is out of range")
    if not 1 <= len(value.voters) <= MAX_VOTERS or len(value.present) > MAX_CONTRIBUTIONS:
        raise CertificateError("malformed", "a count is out of range")
    for ordered in (value.present, value.voters, tuple(item.key for item in value.cut)):
        if list(ordered) != sorted(set(ordered)):
            raise CertificateError("malformed", "peers repeat or are not in ascending order")
    _check_audits(value)
    revoked = value.revoked if value.revoked is not UNSET else ()
    if len(revoked) > MAX_CONTRIBUTIONS * MAX_REVOKED or not all(item.sizes_ok for item in revoked):
        raise CertificateError("malformed", "a revocation is out of bounds, or there are too many")


def _check_audits(value: Value) -> None:
    verdicts = value.verdicts if value.verdicts is not UNSET else ()
    promoted = value.promoted if value.promoted is not UNSET else ()
    auditors = tuple(verdict.auditor for verdict in verdicts)
    if len(verdicts) > MAX_VOTERS or len(promoted) > MAX_VOTERS:
        raise CertificateError("malformed", "a count is out of range")
    if not all(verdict.sizes_ok for verdict in verdicts) or any(len(key) != 32 for key in promoted):
        raise CertificateError("malformed", "a verdict or a new voter's key is out of bounds")
    for ordered in (auditors, promoted):
        if list(ordered) != sorted(set(ordered)):
            raise CertificateError("malformed", "auditors or new voters repeat or are not in ascending order")


def check_votes(
    value: Value,
    votes: Iterable[Signature],
    *,
    attempt: int,
    phase: Phase,
    weak: bool,
    voters: tuple[bytes, ...],
    verify: Verify,
) -> None:
    """Raise CertificateError unless `votes` are a quorum of `voters` for `value`.

    A final certificate needs a quorum of all voters, a weak one a quorum of those that were present.
    """
    present = [voter for voter in voters if voter in value.present] if weak else list(voters)
    signed = list(votes)
    names = [vote.voter for vote in signed]
    if len(names) != len(set(names)):
        raise CertificateError("repeated_vote")
    if any(name not in present for name in names):
        raise CertificateError("not_a_voter")
    if not present or len(names) < quorum(len(present)):
        raise CertificateError("no_quorum", f"{len(names)} votes of {len(present)} voters")
    message = vote_bytes(value, value.hash, attempt, phase, weak)
    if not all(verify(vote.voter, message, vote.signature) for vote in signed):
        raise CertificateError("signature", "a vote is not signed by its voter")


def check_cut(value: Value, verify: Verify) -> None:
    """Raise CertificateError unless every counted contribution, verdict and revocation is its peer's, and of
    this round (but for revocations, which are of the swarm)."""
    for contribution in value.cut:
        contribution.check(verify)
        same = (contribution.swarm, contribution.round, contribution.prior)
        if same != (value.swarm, value.round, value.prior):
            raise CertificateError("wrong_round", "a counted contribution belongs to another round")
    number, prior = value.round, value.prior
    for verdict in value.verdicts if value.verdicts is not UNSET else ():
        if not check(verdict, swarm=value.swarm, round_number=number, prior=prior, verify=verify):
            raise CertificateError("signature", "a verdict not signed by its auditor for this round")
    for revocation in value.revoked if value.revoked is not UNSET else ():
        if not check_revocation(revocation, swarm=value.swarm, verify=verify):
            raise CertificateError("signature", "a revocation not signed by its founder")


def check_certificate(certificate: Certificate, voters: tuple[bytes, ...], verify: Verify) -> None:
    """Raise CertificateError unless `certificate` convinces somebody who knows its voters."""
    check_value(certificate.value)
    check_cut(certificate.value, verify)
    try:
        _check_all_votes(certificate, "commit", certificate.weak, voters, verify)
    except CertificateError:
        if not certificate.weak or not _is_prepared(certificate, voters, verify):
            raise


def _check_all_votes(
    certificate: Certificate, phase: Phase, weak: bool, voters: tuple[bytes, ...], verify: Verify
) -> None:
    check_votes(
        certificate.value,
        certificate.votes,
        attempt=certificate.attempt,
        phase=phase,
        weak=weak,
        voters=voters,
        verify=verify,
    )


def _is_prepared(certificate: Certificate, voters: tuple[bytes, ...], verify: Verify) -> bool:
    """Whether a quorum of all voters prepared the value: see `weakly`."""
    try:
        _check_all_votes(certificate, "prepare", False, voters, verify)
    except CertificateError:
        return False
    return True


def weakly(lock: Prepared) -> Certificate:
    """The weak certificate that a lock is good for when no quorum is left to commit its value.

    The value may be final already, unknown to those who are left, so they must go on with it or not at all.
    """
    return Certificate(value=lock.value, attempt=lock.attempt, weak=True, votes=lock.votes)


def genesis(swarm: bytes, digest: bytes, founders: Iterable[bytes], signer: Signer) -> Certificate:
    """The certificate of a new swarm: its first state and voters, signed by one founder."""
    value = Value(
        swarm=swarm,
        round=GENESIS_ROUND,
        prior=bytes(32),
        cut=(),
        present=(signer.key,),
        parts=(),
        digest=digest,
        voters=tuple(sorted(founders)),
    )
    message = vote_bytes(value, value.hash, 0, "commit", True)
    vote = Signature(voter=signer.key, signature=signer.sign(message))
    return Certificate(value=value, attempt=0, weak=True, votes=(vote,))


def check_genesis(certificate: Certificate, founders: tuple[bytes, ...], verify: Verify) -> None:
    """Raise CertificateError unless this is a founder's certificate for the founders as voters."""
    if certificate.value.round != GENESIS_ROUND or certificate.value.voters != tuple(sorted(founders)):
        raise CertificateError("wrong_genesis", "it does not start with the manifest's founders")
    check_certificate(certificate, tuple(sorted(founders)), verify)


def check_chain(start: Certificate, chain: Iterable[Certificate], verify: Verify) -> Certificate:
    """Follow hand-overs of voters from a trusted certificate; returns the last one.

    Raises CertificateError where a link is forged, missing, or of another branch.
    """
    head = start
    for certificate in chain:
        value = certificate.value
        if value.swarm != head.value.swarm:
            raise CertificateError("wrong_swarm")
        if value.round != head.value.round + 1 or value.prior != head.value.digest:
            raise CertificateError("broken_chain", f"round {value.round} after {head.value.round}")
        check_certificate(certificate, head.value.voters, verify)
        head = certificate
    return head
