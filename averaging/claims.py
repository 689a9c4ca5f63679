"""What a reducer is answerable for: its signed word that a part of a cut adds up to certain bytes.

The arithmetic is exact, so state, cut and part leave no choice: a reducer that does its work signs the same
root in every attempt and after every restart. Two claims of one reducer about one subject that differ are a
proof that it lied, which anybody checks alone (`talkoot.averaging.proof`).
"""

from collections.abc import Iterable, Sequence

import msgspec

from talkoot.averaging.certificate import Contribution, Value
from talkoot.averaging.digest import content_hash, root
from talkoot.averaging.parts import Part
from talkoot.averaging.signing import Signer, Verify

MAX_CLAIMS = 64
"""Claims in one message, and claims of one attempt: one for each part."""

KEPT_ROUNDS = 2
"""Rounds whose claims are remembered, the running one not counted."""

MAX_REMEMBERED = 1024
"""Claims that are remembered at all: 64 parts in 16 attempts."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reducer has every slice of its part of the cut, and they aggregate to chunks with this root."""

    swarm: bytes
    round: int
    prior: bytes
    """Digest of the outer state before the round: what weights and codecs follow from."""
    cut: bytes
    """`cut_hash` of the contributions."""
    reducer: bytes
    first_chunk: int
    num_chunks: int
    root: bytes
    """Root over the content hashes of the encoded aggregate chunks."""
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the reducer signs."""
        return b"talkoot claim\0" + msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b""))

    @property
    def subject(self) -> tuple[bytes, int, bytes, bytes, bytes, int, int]:
        """What it is about: everything but the answer."""
        return (
            self.swarm,
            self.round,
            self.prior,
            self.cut,
            self.reducer,
            self.first_chunk,
            self.num_chunks,
        )

    @property
    def part(self) -> Part:
        """The part."""
        return Part(self.reducer, self.first_chunk, self.num_chunks)

    @property
    def sizes_ok(self) -> bool:
        """Whether all fields are in bounds."""
        names = (self.swarm, self.prior, self.cut, self.reducer, self.root)
        counts_ok = 0 <= self.first_chunk < 2**32 and 1 <= self.num_chunks < 2**32
        return all(len(name) == 32 for name in names) and counts_ok and 0 <= self.round <= 2**53

    def signed(self, verify: Verify) -> bool:
        """Whether it is in bounds and its reducer's."""
        return self.sizes_ok and verify(self.reducer, self.unsigned(), self.signature)


def cut_hash(cut: Iterable[Contribution]) -> bytes:
    """Names a cut by all that its contributors signed, in the order of the cut."""
    return content_hash(b"".join(content_hash(item.unsigned()) for item in cut))


def claim_of(
    part: Part,
    hashes: Sequence[bytes],
    cut: Iterable[Contribution],
    *,
    swarm: bytes,
    round_number: int,
    prior: bytes,
) -> Claim:
    """The claim, not signed, that a part of this cut aggregates to chunks with these hashes."""
    return Claim(
        swarm=swarm,
        round=round_number,
        prior=prior,
        cut=cut_hash(cut),
        reducer=part.reducer,
        first_chunk=part.first_chunk,
        num_chunks=part.num_chunks,
        root=root(hashes),
    )


def sign_claim(claim: Claim, signer: Signer) -> Claim:
    """The same claim with our signature."""
    return msgspec.structs.replace(claim, signature=signer.sign(claim.unsigned()))


class Claims:
    """The claims that reducers made to us. Those that others tell of are only held against them."""

    def __init__(self) -> None:
        self._claims: dict[tuple[bytes, int, bytes, bytes, bytes, int, int], list[Claim]] = {}
        self._told: set[bytes] = set()
        """Signatures of claims that `contradicted` has named."""

    def keep(self, claim: Claim) -> None:
        """Remember a claim that was checked, made to us in an attempt of a round."""
        if sum(map(len, self._claims.values())) < MAX_REMEMBERED:
            held = self._claims.setdefault(claim.subject, [])
            if len(held) < 2 and claim.root not in {other.root for other in held}:
                held.append(claim)

    def forget(self, running: int) -> None:
        """Forget what is long over; `running` is the number of the running round."""
        self._claims = {
            subject: held for subject, held in self._claims.items() if subject[1] + KEPT_ROUNDS >= running
        }
        there = {claim.signature for held in self._claims.values() for claim in held}
        self._told &= there

    def against(self, claim: Claim) -> tuple[Claim, Claim] | None:
        """Two claims about one subject that differ, if we hold another than this one. Check its signature
        afterwards: claims about what we know nothing of cost nothing so."""
        held = self._claims.get(claim.subject, [])
        return next(((mine, claim) for mine in held if mine.root != claim.root), None)

    def doubled(self) -> list[tuple[Claim, Claim]]:
        """Pairs that differ among those made to us."""
        return [(held[0], held[1]) for held in self._claims.values() if len(held) == 2]

    def about(self, value: Value) -> list[Claim]:
        """All that were made to us about this cut of this state, certified or not."""
        subject = (value.swarm, value.round, value.prior, cut_hash(value.cut))
        return [claim for about, held in self._claims.items() if about[:4] == subject for claim in held]

    def certified(self, value: Value) -> list[Claim]:
        """Those that the value counts, in the order of the vector."""
        cut = cut_hash(value.cut)
        out = []
        for item in value.parts:
            place = (item.reducer, item.first_chunk, item.num_chunks)
            subject = (value.swarm, value.round, value.prior, cut, *place)
            out += [claim for claim in self._claims.get(subject, []) if claim.root == item.root]
        return out

    def contradicted(self, value: Value) -> list[Claim]:
        """Those that say otherwise than the value about the same subject; each is named once."""
        cut = cut_hash(value.cut)
        out = []
        for item in value.parts:
            place = (item.reducer, item.first_chunk, item.num_chunks)
            subject = (value.swarm, value.round, value.prior, cut, *place)
            out += [claim for claim in self._claims.get(subject, []) if claim.root != item.root]
        return self._once(out)

    def of_round(self, number: int) -> list[Claim]:
        """All that were made to us in a round, up to as many as one message holds; each is named once."""
        found = [claim for held in self._claims.values() for claim in held if claim.round == number]
        return self._once(found)

    def _once(self, claims: list[Claim]) -> list[Claim]:
        new = [claim for claim in claims if claim.signature not in self._told][:MAX_CLAIMS]
        self._told |= {claim.signature for claim in new}
        return new
