"""Proofs that a reducer lied: signed bundles that anybody who has the manifest checks alone.

Nothing in a proof is believed: the claims are signed by the reducer itself, a lie is computed again. What a
claim was about is bound to it: the state before the round by its digest, which the ledger in the proof must
hash to; the contributions by the hash of the cut, their indexes and chunks by the roots in their signed
headers. A reducer that does its work signs nothing that a proof could be made of, whatever is late, lost,
repeated or started again; `tests/test_averaging_proof.py` tries it.
"""

from collections.abc import Sequence

import msgspec

from talkoot.averaging.aggregate import aggregate_part
from talkoot.averaging.certificate import MAX_CONTRIBUTIONS, CertificateError, Contribution
from talkoot.averaging.claims import Claim, cut_hash
from talkoot.averaging.contribution import ENTRY_BYTES, Index, decode_index
from talkoot.averaging.digest import content_hash, root, state_digest
from talkoot.averaging.inputs import Bytes, Input, sources_of
from talkoot.averaging.ledger import MAX_LEDGER_BYTES, Ledger, LedgerError, decode_ledger
from talkoot.averaging.parts import Part
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.rules import Rules
from talkoot.averaging.signing import Verify
from talkoot.compression import codec as codecs
from talkoot.compression.codec import CodecError

MAX_PROOF_BYTES = 256 << 20
"""Longest proof. A part whose slices are longer together cannot be proven wrong, and is not audited."""

_HEADER_BYTES = 2048
"""More than a signed header and its place in a proof take."""


class ProofError(ValueError):
    """Bytes that prove nothing."""


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


class Slice(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one contribution brings into a part."""

    contribution: Contribution
    index: bytes
    """Of the whole contribution, encoded."""
    chunks: tuple[bytes, ...]
    """Encoded chunks of the part, in order."""


class Lie(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lie"):
    """A claim, and all that shows that it is wrong."""

    claim: Claim
    basis: Basis
    slices: tuple[Slice, ...]
    """Of the cut, in its order."""


class Equivocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="equivocation"):
    """Two claims of one reducer about one subject, of which one at least must be wrong."""

    first: Claim
    second: Claim


Proof = Lie | Equivocation


def offender_of(proof: Proof) -> bytes:
    """Whom it convicts, if it holds."""
    return proof.claim.reducer if isinstance(proof, Lie) else proof.first.reducer


class _Decoded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proof: Lie | Equivocation


_decoder = msgspec.msgpack.Decoder(_Decoded)


def encode_proof(proof: Proof) -> bytes:
    """Bytes for others, and for the disk."""
    return msgspec.msgpack.encode(_Decoded(proof))


def decode_proof(data: Bytes) -> Proof:
    """Parse a proof; says nothing about what it proves. Raises ProofError."""
    if len(data) > MAX_PROOF_BYTES:
        raise ProofError(f"a proof of {len(data)} bytes")
    try:
        return _decoder.decode(data).proof
    except (ValueError, RecursionError) as error:
        raise ProofError(str(error)) from error


def audit_bytes(part: Part, cut: Sequence[Contribution], rules: Rules) -> int:
    """About how long a proof about this part of this cut is, and what fetching its inputs takes. Raises
    CodecError."""
    per_item = rules.num_chunks * ENTRY_BYTES + _HEADER_BYTES
    sizes = [
        sum(codecs.get(item.codec).encoded_size(rules.chunk_numel(chunk)) for chunk in part.chunks)
        for item in cut
    ]
    return MAX_LEDGER_BYTES + sum(sizes) + per_item * len(cut)


def recompute(claim: Claim, ledger: Ledger, slices: Sequence[Slice], rules: Rules) -> bytes:
    """The root that an honest reducer would have claimed. Computes for long.

    Raises CertificateError or ProofError where the slices are not what the contributors signed, CodecError.
    """
    inputs = [_input(item, claim.part, rules) for item in slices]
    encoded = aggregate_part(
        claim.part,
        sources_of(inputs, ledger, rules),
        codec=codec_of(ledger.aggregate_codec, claim.prior, claim.reducer),
        rules=rules,
        seed=claim.prior,
    )
    return root(encoded.hashes)


def _input(item: Slice, part: Part, rules: Rules) -> Input:
    index = checked_index(item.index, item.contribution, rules)
    entries = [index.entries[chunk] for chunk in part.chunks]
    hashes = [entry.hash for entry in entries]
    if [content_hash(chunk) for chunk in item.chunks] != hashes:
        raise ProofError("a chunk is not what its contributor signed")
    return Input(item.contribution, entries, item.chunks)


def checked_index(data: Bytes, contribution: Contribution, rules: Rules) -> Index:
    """An index that its contributor signed. Raises CertificateError."""
    return decode_index(data, contribution, rules.num_chunks)


def check_proof(proof: Proof, rules: Rules, verify: Verify) -> None:
    """Raise ProofError unless this proves, to whoever has the swarm's rules, that its reducer lied.

    Computes for as long as the reducer did.
    """
    if isinstance(proof, Equivocation):
        first, second = proof.first, proof.second
        if first.swarm != rules.swarm or first.subject != second.subject or first.root == second.root:
            raise ProofError("two claims that may both be true")
        if not (first.signed(verify) and second.signed(verify)):
            raise ProofError("a claim that its reducer did not sign")
        return
    try:
        _check_lie(proof, rules, verify)
    except (CertificateError, LedgerError, CodecError) as error:
        raise ProofError(str(error)) from error


def _check_lie(proof: Lie, rules: Rules, verify: Verify) -> None:
    claim = proof.claim
    if claim.swarm != rules.swarm or rules.exchange != "dense" or not claim.signed(verify):
        raise ProofError("a claim of another swarm, or not signed by its reducer")
    if claim.first_chunk + claim.num_chunks > rules.num_chunks:
        raise ProofError("a claim about chunks that there are not")
    ledger = _ledger(proof.basis, claim)
    cut = [item.contribution for item in proof.slices]
    if not 1 <= len(cut) <= MAX_CONTRIBUTIONS or cut_hash(cut) != claim.cut:
        raise ProofError("other contributions than the claim's")
    for item in cut:
        item.check(verify)
        if (item.swarm, item.round, item.prior) != (claim.swarm, claim.round, claim.prior):
            raise ProofError("a contribution to another round")
        if (item.numel, item.codec) != (rules.numel, ledger.codec):
            raise ProofError("a contribution of another size or codec")
    if recompute(claim, ledger, proof.slices, rules) == claim.root:
        raise ProofError("the claim is true")


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
