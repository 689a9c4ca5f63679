"""Proofs against reducers: every lie gives one, whatever an honest reducer does gives none."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Literal

import msgspec
import pytest
from averaging_help import peers
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import Node, Swarm, ToySigner, toy_verify

from talkoot.averaging import outputs
from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.claims import Claim, Claims, sign_claim
from talkoot.averaging.digest import content_hash, root, state_tree
from talkoot.averaging.inquiry import ProofError
from talkoot.averaging.proof import (
    Basis,
    Charge,
    Equivocation,
    Lie,
    Proof,
    encode_head,
    max_head_bytes,
    open_proof,
)
from talkoot.averaging.robustness import Robustness
from talkoot.averaging.rules import Rules
from talkoot.compression.codec import CodecError

NUMEL, CHUNK = 5 * 2**6 - 20, 2**6

Tamper = Callable[[EncodedPart], EncodedPart]


def tampered(part: EncodedPart, chunk: int, bit: int) -> EncodedPart:
    """One bit of one chunk is another."""
    data = bytearray(part.chunks[chunk % len(part.chunks)])
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    chunks = list(part.chunks)
    chunks[chunk % len(chunks)] = bytes(data)
    return EncodedPart(tuple(chunks), tuple(content_hash(item) for item in chunks))


@dataclass(frozen=True)
class Accusation:
    """A proof in the making: what an auditor holds of one scope."""

    lie: Lie
    first: int
    """The chunk with which the scope begins."""
    indexes: tuple[bytes, ...]
    rows: tuple[tuple[bytes, ...], ...]
    """For each chunk of the scope, that of each contribution."""

    def encode(self) -> bytes:
        body = b"".join(chunk for row in self.rows for chunk in row)
        return encode_head(self.lie, self.first) + b"".join(self.indexes) + body


class Court(Swarm):
    """A swarm whose members keep what a proof needs; a reducer may lie."""

    def __init__(
        self, *, tamper: Tamper | None = None, seed: int = 0, robustness: Robustness | None = None
    ) -> None:
        super().__init__(3, numel=NUMEL, chunk_size=CHUNK, seed=seed)
        self.rules = replace(self.rules, robustness=robustness or Robustness())
        self.tamper = tamper
        self.liar = min(self.nodes)
        node = next(iter(self.nodes.values()))
        tree = state_tree(node.theta, node.momentum, node.ledger.encode())
        self.basis = Basis(root(tree.theta), root(tree.momentum), node.ledger.encode())

    def begin(self) -> None:
        self.start_round()
        for node in self.nodes.values():
            give = node.machine.aggregated

            def give_other(
                attempt: int,
                part: EncodedPart,
                now: float,
                node: Node = node,
                give: Callable[..., object] = give,
            ) -> object:
                lies = self.tamper is not None and node.key == self.liar
                return give(attempt, self.tamper(part) if lies and self.tamper else part, now)

            node.machine.aggregated = give_other  # type: ignore[assignment, method-assign]
        self.close()

    def _perform(self, node: Node, out: outputs.Output) -> None:
        with suppress(CodecError):  # what does not decode is not waited for
            super()._perform(node, out)

    def claims(self) -> list[Claim]:
        """All that were made, each once."""
        notes = (note for node in self.nodes.values() for note in node.notes)
        found = {note.claim.signature: note.claim for note in notes if isinstance(note, outputs.Claimed)}
        return list(found.values())

    def accusations(self, claim: Claim) -> list[Accusation]:
        """What an auditor would put together from the bytes that the reducer holds, for each scope."""
        held = sorted(self.nodes[claim.reducer].machine.slices.whole().items())
        pieces = [piece for _, piece in held]
        notes = (note for node in self.nodes.values() for note in node.notes)
        hashes = next(n.hashes for n in notes if isinstance(n, outputs.Claimed) and n.claim == claim)
        cut = tuple(piece.contribution for piece in pieces)
        lie = Lie(claim=claim, basis=self.basis, cut=cut, hashes=hashes)
        indexes = tuple(piece.index.encode() for piece in pieces if piece.index is not None)
        chunks = list(claim.part.chunks)
        scopes = [chunks] if self.rules.robustness.compares else [[chunk] for chunk in chunks]
        return [
            Accusation(
                lie, scope[0], indexes, tuple(tuple(bytes(p.chunks[c]) for p in pieces) for c in scope)
            )
            for scope in scopes
        ]


@cache
def honest(rule: Literal["mean", "centered_clip"] = "mean") -> tuple[Accusation, Rules]:
    """What an accuser might make of an honest reducer's claim."""
    court = Court(robustness=Robustness(rule=rule))
    court.begin()
    court.run(30.0)
    claim = max(court.claims(), key=lambda claim: claim.num_chunks)
    assert claim.num_chunks > 1
    return court.accusations(claim)[0], court.rules


def charged(data: bytes, rules: Rules) -> Charge:
    """Raises ProofError where it proves nothing."""

    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length <= max_head_bytes(rules)
        return data[offset : offset + length]

    charge = open_proof(read, rules, toy_verify)
    if charge.num_bytes != len(data):
        raise ProofError("of another length")
    charge.prove(read)
    return charge


def holds(proof: Accusation | Proof, rules: Rules) -> bool:
    try:
        charged(proof.encode() if isinstance(proof, Accusation) else encode_head(proof), rules)
    except ProofError:
        return False
    return True


def test_a_lie_is_believed_by_everybody_until_it_is_proven() -> None:
    court = Court(tamper=lambda part: tampered(part, 0, 8 * 40))
    truth = Court()
    for swarm in (court, truth):
        swarm.begin()
        swarm.run(30.0)
    digests = {node.digest for node in court.nodes.values()}
    assert len(digests) == 1
    assert all(node.commits[0].kind == "final" for node in court.nodes.values())
    assert digests != {node.digest for node in truth.nodes.values()}


@examples(8)
@given(
    chunk=st.integers(0, 4),
    bit=st.integers(0, 8 * CHUNK),
    robustness=st.sampled_from(
        [
            Robustness(),
            Robustness(norm_cap="part", rule="trimmed_mean"),
            Robustness(before="buckets", rule="coordinate_median"),
            Robustness(rule="centered_clip", clip_center="coordinate_median"),
            Robustness(before="nearest_neighbors"),
        ]
    ),
)
def test_a_lie_in_any_bit_is_proven_and_nobody_else_is(chunk: int, bit: int, robustness: Robustness) -> None:
    court = Court(tamper=lambda part: tampered(part, chunk, bit), robustness=robustness)
    court.begin()
    court.run(30.0)
    claims = court.claims()
    assert {claim.reducer for claim in claims} == set(court.nodes)
    for claim in claims:
        proven = [accused for accused in court.accusations(claim) if holds(accused, court.rules)]
        assert len(proven) == (claim.reducer == court.liar)
        for accused in proven:
            charge = charged(accused.encode(), court.rules)
            assert (charge.offender, charge.offence) == (claim.reducer, "lied")
    assert len({node.digest for node in court.nodes.values()}) == 1


def _other_bytes(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place % len(changed)] ^= 1 + place % 255
    return bytes(changed)


ACCUSATIONS: dict[str, Callable[[Accusation, int], Accusation]] = {
    "as it is": lambda case, _: case,
    "another root": lambda case, n: _claims(case, root=_other_bytes(case.lie.claim.root, n)),
    "another part": lambda case, n: _claims(case, first_chunk=n % 7),
    "another length": lambda case, n: _claims(case, num_chunks=1 + n % 7),
    "another cut": lambda case, n: _claims(case, cut=_other_bytes(case.lie.claim.cut, n)),
    "another state": lambda case, n: _claims(case, prior=_other_bytes(case.lie.claim.prior, n)),
    "another round": lambda case, n: _claims(case, round=n),
    "another parameter": lambda case, n: _basis(case, theta=_other_bytes(case.lie.basis.theta, n)),
    "another ledger": lambda case, n: _basis(case, ledger=_other_bytes(case.lie.basis.ledger, n)),
    "a short state": lambda case, n: _basis(case, momentum=case.lie.basis.momentum[: n % 32]),
    "fewer": lambda case, n: _lies(case, cut=case.lie.cut[: n % len(case.lie.cut)]),
    "repeated": lambda case, n: _lies(case, cut=(*case.lie.cut, case.lie.cut[n % len(case.lie.cut)])),
    "another order": lambda case, n: _lies(case, cut=case.lie.cut[::-1]),
    "another header": lambda case, n: _header(case, tokens=n),
    "a foreign header": lambda case, n: _header(case, codec="fp16", steps=-n),
    "another hash": lambda case, n: _lies(
        case, hashes=(_other_bytes(case.lie.hashes[0], n), *case.lie.hashes[1:])
    ),
    "hashes cut elsewhere": lambda case, n: _lies(
        case, hashes=_cut_elsewhere(b"".join(case.lie.hashes), len(case.lie.hashes), n)
    ),
    "fewer hashes": lambda case, n: _lies(case, hashes=case.lie.hashes[: n % len(case.lie.hashes)]),
    "another scope": lambda case, n: replace(case, first=n % 9),
    "another chunk": lambda case, n: replace(
        case, rows=((_other_bytes(case.rows[0][0], n), *case.rows[0][1:]), *case.rows[1:])
    ),
    "no chunk": lambda case, _: replace(case, rows=()),
    "exchanged chunks": lambda case, _: replace(case, rows=(case.rows[0][::-1], *case.rows[1:])),
    "another index": lambda case, n: replace(
        case, indexes=(_other_bytes(case.indexes[0], n), *case.indexes[1:])
    ),
    "a short index": lambda case, n: replace(case, indexes=(case.indexes[0][: n % 100], *case.indexes[1:])),
}


def _cut_elsewhere(joined: bytes, count: int, number: int) -> tuple[bytes, ...]:
    """As many pieces that give the same bytes, and so the same root, one after the other."""
    shift = 1 + number % 31
    places = [0, *(32 * at + shift for at in range(1, count)), len(joined)]
    return tuple(joined[begin:end] for begin, end in pairwise(places))


def _lies(case: Accusation, **changes: object) -> Accusation:
    return replace(case, lie=msgspec.structs.replace(case.lie, **changes))


def _claims(case: Accusation, **changes: object) -> Accusation:
    return _lies(case, claim=msgspec.structs.replace(case.lie.claim, **changes))


def _basis(case: Accusation, **changes: object) -> Accusation:
    return _lies(case, basis=msgspec.structs.replace(case.lie.basis, **changes))


def _header(case: Accusation, **changes: object) -> Accusation:
    first, *rest = case.lie.cut
    return _lies(case, cut=(msgspec.structs.replace(first, **changes), *rest))


@examples(60)
@given(
    rule=st.sampled_from(["mean", "centered_clip"]),
    name=st.sampled_from(sorted(ACCUSATIONS)),
    number=st.integers(0, 2**20),
)
def test_an_honest_reducer_cannot_be_convicted(
    rule: Literal["mean", "centered_clip"], name: str, number: int
) -> None:
    case, rules = honest(rule)
    assert not holds(ACCUSATIONS[name](case, number), rules)


@examples(30)
@given(st.data())
def test_bytes_that_are_no_proof_are_refused(data: st.DataObject) -> None:
    case, rules = honest()
    whole = case.encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    garbage = data.draw(st.binary(max_size=20))
    for made in (whole[:cut] + garbage, whole[:cut] + garbage + whole[cut + len(garbage) :]):
        with pytest.raises(ProofError):
            charged(made, rules)


@examples(8)
@given(seed=st.integers(0, 2**16), victim=st.integers(0, 2), after=st.integers(5, 120))
def test_whatever_happens_to_an_honest_reducer_its_claims_agree(seed: int, victim: int, after: int) -> None:
    """Killed at some message and back with its disk: late, repeated, in another attempt, of another cut."""
    court = Court(seed=seed)
    key = sorted(court.nodes)[victim]

    def strike(count: int) -> None:
        if count == after:
            court.kill(key)
            court.at(court.now + 0.5, lambda: court.restart(key))

    court.on_delivery = strike
    court.begin()
    court.run(60.0)
    kept = Claims()
    for claim in court.claims():
        assert kept.against(claim) is None
        kept.keep(claim)
    assert kept.doubled() == []


def _claim(signer: ToySigner, **changes: object) -> Claim:
    case, _ = honest()
    return sign_claim(msgspec.structs.replace(case.lie.claim, reducer=signer.key, **changes), signer)


def test_two_claims_that_differ_are_a_proof_and_others_are_none() -> None:
    _, rules = honest()
    liar, other = peers(2)
    first = _claim(liar)
    assert holds(Equivocation(first=first, second=_claim(liar, root=b"x" * 32)), rules)
    innocent = [
        first,
        _claim(liar, root=b"x" * 32, round=7),
        _claim(liar, root=b"x" * 32, cut=b"c" * 32),
        _claim(liar, root=b"x" * 32, prior=b"c" * 32),
        _claim(liar, root=b"x" * 32, first_chunk=first.first_chunk + 1),
        _claim(other, root=b"x" * 32),
        msgspec.structs.replace(first, root=b"x" * 32),
        _claim(liar, root=b"x" * 31),
    ]
    for second in innocent:
        assert not holds(Equivocation(first=first, second=second), rules)
        assert not holds(Equivocation(first=second, second=first), rules)
    foreign = [_claim(liar, root=bytes([n]) * 32, swarm=b"f" * 32) for n in range(2)]
    assert not holds(Equivocation(first=foreign[0], second=foreign[1]), rules)


def test_claims_are_bounded_and_told_once() -> None:
    liar = peers(1)[0]
    kept = Claims()
    first, second = _claim(liar, round=5), _claim(liar, round=5, root=b"x" * 32)
    for claim in (first, first, second, _claim(liar, round=5, root=b"y" * 32)):
        kept.keep(claim)
    assert kept.doubled() == [(first, second)]
    assert kept.against(_claim(liar, round=5, root=b"z" * 32)) is not None
    assert kept.against(_claim(liar, round=6, root=b"z" * 32)) is None
    assert kept.of_round(5) == [first, second]
    assert kept.of_round(5) == []
    kept.forget(7)
    assert kept.doubled()
    kept.forget(8)
    assert kept.doubled() == []
    for number in range(3000):
        kept.keep(_claim(liar, cut=number.to_bytes(32, "little")))
    assert len(kept._claims) == 1024
