"""Proofs that a reducer lied: signed bundles that anybody who has the manifest checks alone.

Nothing in a proof is believed: the claims are signed by the reducer itself, a lie is computed again. What a
claim was about is bound to it: the state before the round by its digest, which the ledger in the proof must
hash to; the contributions by the hash of the cut, their indexes and chunks by the roots in their signed
headers; the chunks that it claims by its root. A reducer that does its work signs nothing that a proof could
be made of, whatever is late, lost, repeated or started again; `tests/test_averaging_proof.py` tries it.

A proof is a run of bytes: lengths, a short head, and for a lie a body that may be long (`Inquiry` says what
lies where). It is read in pieces, wherever it is, and never whole.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from talkoot.averaging.certificate import MAX_CONTRIBUTIONS, CertificateError, Contribution
from talkoot.averaging.claims import Claim, cut_hash
from talkoot.averaging.digest import HASH_BYTES, content_hash, root, state_digest
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.inquiry import Inquiry, ProofError
from talkoot.averaging.ledger import MAX_LEDGER_BYTES, Ledger, LedgerError, decode_ledger
from talkoot.averaging.rules import Rules
from talkoot.averaging.signing import Verify
from talkoot.compression.codec import CodecError

Read = Callable[[int, int], Bytes]
"""(offset, length) -> the bytes of a proof that are there; fewer where it ends."""

_LENGTHS = struct.Struct("<II")
"""Length of the head, and the chunk with which begins what is computed again."""

_FIELDS_BYTES = 4096
"""More than the head takes beside the ledger, signed headers and hashes."""

_HEADER_BYTES = 2048
"""More than a signed header takes."""


class Basis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state before a round, as far as aggregating depends on it; bound to the state's digest."""

    theta: bytes
    """Root over the leaves of the parameters."""
    momentum: bytes
    """Root over the leaves of the outer momentum."""
    ledger: bytes
    """The ledger, encoded."""

    @property
    def digest(self) -> bytes:
        """Digest of that state."""
        return state_digest(self.theta, self.momentum, content_hash(self.ledger))


class Lie(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lie"):
    """A claim that is wrong; the body shows it."""

    claim: Claim
    basis: Basis
    cut: tuple[Contribution, ...]
    """What the claim is about, in its order."""
    hashes: tuple[bytes, ...]
    """Of the chunks that the reducer claims; their root is in the claim."""


class Equivocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="equivocation"):
    """Two claims of one reducer about one subject, of which one at least must be wrong."""

    first: Claim
    second: Claim


Proof = Lie | Equivocation

Offence = Literal["lied", "two_claims"]


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proof: Lie | Equivocation


_decoder = msgspec.msgpack.Decoder(_Head)


def max_head_bytes(rules: Rules) -> int:
    """Longest head, with the lengths before it."""
    hashes = 40 * rules.num_chunks
    return _FIELDS_BYTES + MAX_LEDGER_BYTES + MAX_CONTRIBUTIONS * _HEADER_BYTES + hashes


def encode_head(proof: Proof, first: int = 0) -> bytes:
    """What a proof begins with; of an equivocation there is no more. `first`: where a lie's scope begins.
    The length does not depend on it."""
    head = msgspec.msgpack.encode(_Head(proof))
    return _LENGTHS.pack(len(head), first) + head


def head_bytes(start: Bytes, rules: Rules) -> int:
    """How long lengths and head are together, from a proof's first bytes. Raises ProofError."""
    if len(start) < _LENGTHS.size:
        raise ProofError("shorter than any proof")
    length = _LENGTHS.size + int(_LENGTHS.unpack(start[: _LENGTHS.size])[0])
    if length > max_head_bytes(rules):
        raise ProofError(f"a head of {length} bytes")
    return length


def decode_head(data: Bytes) -> tuple[Proof, int]:
    """Parse lengths and head; says nothing about what they prove. Raises ProofError."""
    try:
        first = int(_LENGTHS.unpack(data[: _LENGTHS.size])[1])
        return _decoder.decode(data[_LENGTHS.size :]).proof, first
    except (struct.error, ValueError, RecursionError) as error:
        raise ProofError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Charge:
    """A proof whose head holds. `open_proof` makes it."""

    proof: Proof
    num_bytes: int
    """Of the whole proof."""
    _start: int
    _inquiry: Inquiry | None = None
    _scope: range = range(0)

    @property
    def offender(self) -> bytes:
        """Whom it convicts, if it holds."""
        return self.proof.claim.reducer if isinstance(self.proof, Lie) else self.proof.first.reducer

    @property
    def offence(self) -> Offence:
        """Of what."""
        return "lied" if isinstance(self.proof, Lie) else "two_claims"

    def prove(self, read: Read) -> None:
        """Raise ProofError unless the body proves it. Computes for as long as the reducer did."""
        if self._inquiry is None:
            return
        try:
            wrong = self._wrong(self._inquiry, read)
        except (CertificateError, CodecError) as error:
            raise ProofError(str(error)) from error
        if not wrong:
            raise ProofError("the claim is true")

    def _wrong(self, inquiry: Inquiry, read: Read) -> bool:
        def index(position: int) -> Bytes:
            return read(self._start + inquiry.index_at(position), inquiry.index_bytes)

        def chunk(position: int, number: int) -> Bytes:
            at = inquiry.chunk_at(position, number, self._scope)
            return read(self._start + at, inquiry.chunk_bytes(number))

        entries = [inquiry.entries(at, index(at)) for at in range(len(inquiry.cut))]
        return inquiry.wrong(self._scope, entries, chunk)


def open_proof(read: Read, rules: Rules, verify: Verify) -> Charge:
    """Read the head of a proof and check all that it says. Raises ProofError unless it proves, to whoever has
    the swarm's rules, that its reducer lied, provided that `Charge.prove` agrees."""
    start = head_bytes(read(0, _LENGTHS.size), rules)
    proof, first = decode_head(read(0, start))
    if isinstance(proof, Equivocation):
        _check_equivocation(proof, rules, verify)
        return Charge(proof, start, start)
    try:
        inquiry = _inquire(proof, rules, verify)
        scope = inquiry.scope_of(first)
    except (CertificateError, LedgerError, CodecError) as error:
        raise ProofError(str(error)) from error
    return Charge(proof, start + inquiry.body_bytes(scope), start, inquiry, scope)


def _check_equivocation(proof: Equivocation, rules: Rules, verify: Verify) -> None:
    first, second = proof.first, proof.second
    if first.swarm != rules.swarm or first.subject != second.subject or first.root == second.root:
        raise ProofError("two claims that may both be true")
    if not (first.signed(verify) and second.signed(verify)):
        raise ProofError("a claim that its reducer did not sign")


def _inquire(proof: Lie, rules: Rules, verify: Verify) -> Inquiry:
    claim = proof.claim
    if claim.swarm != rules.swarm or rules.exchange != "dense" or not claim.signed(verify):
        raise ProofError("a claim of another swarm, or not signed by its reducer")
    if claim.first_chunk + claim.num_chunks > rules.num_chunks:
        raise ProofError("a claim about chunks that there are not")
    sized = len(proof.hashes) == claim.num_chunks and all(
        len(digest) == HASH_BYTES for digest in proof.hashes
    )
    if not sized or root(proof.hashes) != claim.root:  # other lengths could give the same root
        raise ProofError("hashes of other chunks than the claim's")
    ledger = _ledger(proof.basis, claim)
    if not 1 <= len(proof.cut) <= MAX_CONTRIBUTIONS or cut_hash(proof.cut) != claim.cut:
        raise ProofError("other contributions than the claim's")
    for item in proof.cut:
        item.check(verify)
        if (item.swarm, item.round, item.prior) != (claim.swarm, claim.round, claim.prior):
            raise ProofError("a contribution to another round")
        if (item.numel, item.codec) != (rules.numel, ledger.codec):
            raise ProofError("a contribution of another size or codec")
    return Inquiry(claim, proof.cut, proof.hashes, ledger, rules)


def _ledger(basis: Basis, claim: Claim) -> Ledger:
    """The ledger before the claim's round."""
    if len(basis.theta) != 32 or len(basis.momentum) != 32 or len(basis.ledger) > MAX_LEDGER_BYTES:
        raise ProofError("a state with a field of the wrong size")
    if basis.digest != claim.prior:
        raise ProofError("another state than the claim's")
    ledger = decode_ledger(basis.ledger)
    if (ledger.swarm, ledger.round) != (claim.swarm, claim.round):
        raise ProofError("a ledger of another round")
    return ledger
