"""Proofs against reducers: every lie gives one, whatever an honest reducer does gives none."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache

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
from talkoot.averaging.proof import (
    Basis,
    Equivocation,
    Lie,
    ProofError,
    Slice,
    check_proof,
    decode_proof,
    encode_proof,
    offender_of,
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

    def accusation(self, claim: Claim) -> Lie:
        """What an auditor would put together from the bytes that the reducer holds."""
        held = self.nodes[claim.reducer].machine.slices.whole()
        slices = [
            Slice(
                piece.contribution,
                piece.index.encode(),
                tuple(bytes(piece.chunks[c]) for c in claim.part.chunks),
            )
            for _, piece in sorted(held.items())
            if piece.index is not None
        ]
        return Lie(claim=claim, basis=self.basis, slices=tuple(slices))


@cache
def honest() -> tuple[Lie, Rules]:
    """What an accuser might make of an honest reducer's claim."""
    court = Court()
    court.begin()
    court.run(30.0)
    return court.accusation(court.claims()[0]), court.rules


def holds(proof: Lie | Equivocation, rules: Rules) -> bool:
    try:
        check_proof(decode_proof(encode_proof(proof)), rules, toy_verify)
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
@given(chunk=st.integers(0, 4), bit=st.integers(0, 8 * CHUNK))
def test_a_lie_in_any_bit_is_proven_and_nobody_else_is(chunk: int, bit: int) -> None:
    court = Court(tamper=lambda part: tampered(part, chunk, bit))
    court.begin()
    court.run(30.0)
    claims = court.claims()
    assert {claim.reducer for claim in claims} == set(court.nodes)
    for claim in claims:
        proof = court.accusation(claim)
        assert holds(proof, court.rules) == (claim.reducer == court.liar)
        assert offender_of(proof) == claim.reducer
    assert len({node.digest for node in court.nodes.values()}) == 1


def _other_bytes(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place % len(changed)] ^= 1 + place % 255
    return bytes(changed)


ACCUSATIONS: dict[str, Callable[[Lie, int], Lie]] = {
    "as it is": lambda lie, _: lie,
    "another root": lambda lie, n: _claims(lie, root=_other_bytes(lie.claim.root, n)),
    "another part": lambda lie, n: _claims(lie, first_chunk=n % 7),
    "another length": lambda lie, n: _claims(lie, num_chunks=1 + n % 7),
    "another cut": lambda lie, n: _claims(lie, cut=_other_bytes(lie.claim.cut, n)),
    "another state": lambda lie, n: _claims(lie, prior=_other_bytes(lie.claim.prior, n)),
    "another round": lambda lie, n: _claims(lie, round=n),
    "another parameter": lambda lie, n: _basis(lie, theta=_other_bytes(lie.basis.theta, n)),
    "another ledger": lambda lie, n: _basis(lie, ledger=_other_bytes(lie.basis.ledger, n)),
    "a short state": lambda lie, n: _basis(lie, momentum=lie.basis.momentum[: n % 32]),
    "fewer": lambda lie, n: _replace(lie, slices=lie.slices[: n % len(lie.slices)]),
    "repeated": lambda lie, n: _replace(lie, slices=(*lie.slices, lie.slices[n % len(lie.slices)])),
    "another order": lambda lie, n: _replace(lie, slices=lie.slices[::-1]),
    "another chunk": lambda lie, n: _slice(lie, chunks=(_other_bytes(lie.slices[0].chunks[0], n),)),
    "no chunk": lambda lie, _: _slice(lie, chunks=()),
    "another index": lambda lie, n: _slice(lie, index=_other_bytes(lie.slices[0].index, n)),
    "a short index": lambda lie, n: _slice(lie, index=lie.slices[0].index[: n % 100]),
    "another header": lambda lie, n: _slice(
        lie, contribution=msgspec.structs.replace(lie.slices[0].contribution, tokens=n)
    ),
    "a foreign header": lambda lie, n: _slice(
        lie, contribution=msgspec.structs.replace(lie.slices[0].contribution, codec="fp16", steps=-n)
    ),
}


def _replace(lie: Lie, **changes: object) -> Lie:
    return msgspec.structs.replace(lie, **changes)


def _claims(lie: Lie, **changes: object) -> Lie:
    return _replace(lie, claim=msgspec.structs.replace(lie.claim, **changes))


def _basis(lie: Lie, **changes: object) -> Lie:
    return _replace(lie, basis=msgspec.structs.replace(lie.basis, **changes))


def _slice(lie: Lie, **changes: object) -> Lie:
    return _replace(lie, slices=(msgspec.structs.replace(lie.slices[0], **changes), *lie.slices[1:]))


@examples(40)
@given(name=st.sampled_from(sorted(ACCUSATIONS)), number=st.integers(0, 2**20))
def test_an_honest_reducer_cannot_be_convicted(name: str, number: int) -> None:
    lie, rules = honest()
    assert not holds(ACCUSATIONS[name](lie, number), rules)


@examples(30)
@given(st.data())
def test_bytes_that_are_no_proof_are_refused(data: st.DataObject) -> None:
    lie, rules = honest()
    whole = encode_proof(lie)
    cut = data.draw(st.integers(0, len(whole) - 1))
    garbage = data.draw(st.binary(max_size=20))
    for made in (whole[:cut] + garbage, whole[:cut] + garbage + whole[cut + len(garbage) :]):
        if made == whole:
            continue
        with pytest.raises(ProofError):
            check_proof(decode_proof(made), rules, toy_verify)


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
    lie, _ = honest()
    return sign_claim(msgspec.structs.replace(lie.claim, reducer=signer.key, **changes), signer)


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
