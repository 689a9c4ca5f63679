"""False accusations: everything short of a proof, told to everybody as if it were one.

An accuser goes on training and voting. It knows the protocol, signs with its own key, and may have seen its
victims in other swarms.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from talkoot.averaging.claims import Claim, sign_claim
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.proof import Basis, Charge, Equivocation, Lie, Proof, encode_head
from talkoot.dht.identity import Identity
from talkoot.peer.audits.auditor import Auditor
from talkoot.peer.audits.proof_files import ProofFile
from talkoot.peer.audits.protocol import PIECE_BYTES, AskChunk, AskIndex, AskProof, TellProof
from talkoot.peer.node import Node

Victims = Mapping[bytes, Identity]
"""Whom to accuse; identities only to have them sign in another swarm, honestly."""

Forger = Callable[[Identity, Victims, Sequence[Claim]], Proof | None]
"""From the true claims of victims that an accuser heard, the latest last; None: they do not do for it."""


def unsigned_lie(_accuser: Identity, _victims: Victims, claims: Sequence[Claim]) -> Proof:
    """A wrong claim that nobody signed."""
    claim = msgspec.structs.replace(claims[-1], root=bytes(32), signature=bytes(64))
    return Lie(claim=claim, basis=Basis(bytes(32), bytes(32), b""), cut=(), hashes=())


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
    """One accusation a round, made in each way in turn; after those, one over a true claim that it audits."""

    def __init__(self, node: Node, victims: Victims, first: int) -> None:
        """Makes an accuser of a node; it begins after this way."""
        self._node, self._victims, self._turn = node, victims, first
        self._told: dict[bytes, bytes] = {}
        self._heard: list[Claim] = []
        self._listens = False
        self.made = 0
        """Accusations."""
        proofs = node.proofs
        self._held, self._judge, self._round_over = proofs.held, proofs.judge, proofs.round_over
        proofs.held = self._hold  # type: ignore[method-assign]
        proofs.judge = self._pass_on  # type: ignore[method-assign]
        proofs.round_over = self._accuse  # type: ignore[method-assign]

    async def _hold(self, request: AskIndex | AskChunk | AskProof) -> Bytes | None:
        """In the place of `Proofs.held`."""
        if isinstance(request, AskProof) and request.offender in self._told:
            return self._told[request.offender][request.offset : request.offset + PIECE_BYTES]
        return await self._held(request)

    async def _pass_on(self, charge: Charge, draft: ProofFile) -> None:
        """In the place of `Proofs.judge`: what the auditor takes for a lie of a victim is told of at once."""
        if charge.offender in self._victims:
            self._tell(charge.offender, bytes(draft.read(0, charge.num_bytes)))
        else:
            await self._judge(charge, draft)

    def _accuse(self) -> None:
        """In the place of `Proofs.round_over`."""
        self._round_over()
        auditor = self._node.runner.auditor
        if auditor is not None and not self._listens:
            self._listens = True
            self._listen(auditor)
        if not self._heard:
            return
        self._turn = (self._turn + 1) % (len(FORGERS) + 1)
        if self._turn == len(FORGERS):
            return  # the auditor's turn
        proof = FORGERS[self._turn](self._node.identity, self._victims, self._heard)
        if proof is not None:
            claim = proof.claim if isinstance(proof, Lie) else proof.first
            self._tell(claim.reducer, encode_head(proof))

    def _listen(self, auditor: Auditor) -> None:
        """Hear the true claims of victims, and call one wrong now and then."""
        claimed = auditor.claimed

        def heard(claim: Claim, hashes: tuple[bytes, ...]) -> None:
            claimed(claim, hashes)
            if claim.reducer in self._victims:
                self._heard.append(claim)

        auditor.claimed = heard  # type: ignore[method-assign]
        auditor.is_wrong = lambda *_scope: self._turn == len(FORGERS)  # type: ignore[method-assign]

    def _tell(self, victim: bytes, data: bytes) -> None:
        """Everybody but the victim."""
        self._told[victim] = data
        self.made += 1
        self._node.proofs.say(TellProof(victim, len(data)), but=frozenset({victim}))
