"""False accusations: everything short of a proof, told to everybody as if it were one.

An accuser goes on training and voting. It knows the protocol, signs with its own key, and may have seen its
victims in other swarms.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from talkoot.averaging.claims import Claim, sign_claim
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.proof import Basis, Equivocation, Lie, Proof, encode_proof, offender_of
from talkoot.dht.identity import Identity
from talkoot.peer.audits.auditor import Auditor, Ended
from talkoot.peer.audits.protocol import PIECE_BYTES, AskChunk, AskIndex, AskProof, TellProof
from talkoot.peer.node import Node

Victims = Mapping[bytes, Identity]
"""Whom to accuse; identities only to have them sign in another swarm, honestly."""

Forger = Callable[[Identity, Victims, Sequence[Claim]], Proof | None]
"""From the true claims of victims that an accuser heard, the latest last; None: they do not do for it."""


def unsigned_lie(_accuser: Identity, _victims: Victims, claims: Sequence[Claim]) -> Proof:
    """A wrong claim that nobody signed."""
    claim = msgspec.structs.replace(claims[-1], root=bytes(32), signature=bytes(64))
    return Lie(claim=claim, basis=Basis(bytes(32), bytes(32), b""), slices=())


def forged_claim(accuser: Identity, _victims: Victims, claims: Sequence[Claim]) -> Proof:
    """A true claim, and another about the same that the accuser signed in its victim's name."""
    other = msgspec.structs.replace(claims[-1], root=bytes(32), signature=b"")
    return Equivocation(first=claims[-1], second=sign_claim(other, accuser))


def two_rounds(_accuser: Identity, _victims: Victims, claims: Sequence[Claim]) -> Proof | None:
    """Two true claims of one reducer, about different rounds."""
    last = claims[-1]
    for claim in claims:
        if claim.reducer == last.reducer and claim.round != last.round:
            return Equivocation(first=claim, second=last)
    return None


def two_swarms(_accuser: Identity, victims: Victims, claims: Sequence[Claim]) -> Proof:
    """Two true claims of one reducer, in different swarms."""
    there = msgspec.structs.replace(claims[-1], swarm=bytes(32), root=bytes(32), signature=b"")
    return Equivocation(first=claims[-1], second=sign_claim(there, victims[claims[-1].reducer]))


FORGERS: tuple[Forger, ...] = (unsigned_lie, forged_claim, two_rounds, two_swarms)


class Accuser:
    """One accusation a round, made in each way in turn, and one over each true claim that it has audited."""

    def __init__(self, node: Node, victims: Victims, first: int) -> None:
        """Makes an accuser of a node; it begins with this forger."""
        self._node, self._victims, self._turn = node, victims, first
        self._told: dict[bytes, bytes] = {}
        self._heard: list[Claim] = []
        self._listens = False
        self.made = 0
        """Accusations."""
        proofs = node.proofs
        self._held, self._remind = proofs.held, proofs.remind
        proofs.held = self._hold  # type: ignore[method-assign]
        proofs.remind = self._accuse  # type: ignore[method-assign]

    def _hold(self, request: AskIndex | AskChunk | AskProof) -> Bytes | None:
        """In the place of `Proofs.held`."""
        if isinstance(request, AskProof) and request.offender in self._told:
            return self._told[request.offender][request.offset : request.offset + PIECE_BYTES]
        return self._held(request)

    def _accuse(self) -> None:
        """In the place of `Proofs.remind`, which is called once a round."""
        self._remind()
        auditor = self._node.runner.auditor
        if auditor is not None and not self._listens:
            self._listens = True
            self._listen(auditor)
        if not self._heard:
            return
        forge, self._turn = FORGERS[self._turn % len(FORGERS)], self._turn + 1
        proof = forge(self._node.identity, self._victims, self._heard)
        if proof is not None:
            self._tell(proof)

    def _listen(self, auditor: Auditor) -> None:
        claimed = auditor.claimed

        def heard(claim: Claim) -> None:
            claimed(claim)
            if claim.reducer in self._victims:
                self._heard.append(claim)

        async def audit(ended: Ended, claim: Claim) -> str:
            slices = await auditor.slices(ended, claim)
            if slices is not None and claim.reducer in self._victims:
                self._tell(Lie(claim=claim, basis=ended.basis, slices=tuple(slices)))
            return "right"

        auditor.claimed = heard  # type: ignore[method-assign]
        auditor.audit = audit  # type: ignore[method-assign]

    def _tell(self, proof: Proof) -> None:
        """Everybody but its victim."""
        offender = offender_of(proof)
        self._told[offender] = data = encode_proof(proof)
        self.made += 1
        for peer in sorted(self._node.links.connected - {offender}):
            self._node.proofs.tell(peer, TellProof(offender, len(data)))
