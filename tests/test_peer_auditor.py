"""What audits take from others is bounded and checked; whom that leads to trust less, and for how long."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from averaging_help import make_contribution, peers
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import Swarm, toy_verify

from talkoot.averaging.certificate import CertificateError
from talkoot.averaging.claims import MAX_CLAIMS, Claim
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.leader import Leader
from talkoot.averaging.messages import MessageError
from talkoot.averaging.proof import MAX_PROOF_BYTES
from talkoot.averaging.slices import Slice
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.peer.audits import convictions, evidence
from talkoot.peer.audits.auditor import Auditor
from talkoot.peer.audits.convictions import GRACE_ROUNDS, ROLE_ROUNDS, Convictions
from talkoot.peer.audits.evidence import Evidence
from talkoot.peer.audits.proofs import Proofs
from talkoot.peer.audits.protocol import (
    AskChunk,
    AskIndex,
    AskProof,
    Request,
    TellClaims,
    TellProof,
    decode_request,
)
from talkoot.peer.serving import Gate

KEY = b"k" * 32
CLAIM = Claim(
    swarm=KEY, round=1, prior=KEY, cut=KEY, reducer=KEY, first_chunk=0, num_chunks=1, root=KEY,
    signature=bytes(64),
)  # fmt: skip
REQUESTS: list[Request] = [
    AskIndex(KEY, KEY),
    AskChunk(KEY, KEY, 3),
    AskProof(KEY, 0),
    TellProof(KEY, 1),
    TellClaims((CLAIM,) * MAX_CLAIMS),
]
BAD: list[Request] = [
    AskIndex(KEY[1:], KEY),
    AskChunk(KEY, b"", 3),
    AskProof(b"", 0),
    TellProof(KEY, 0),
    TellProof(KEY, MAX_PROOF_BYTES + 1),
    TellClaims((CLAIM,) * (MAX_CLAIMS + 1)),
    TellClaims((msgspec.structs.replace(CLAIM, root=b""),)),
    TellClaims((msgspec.structs.replace(CLAIM, num_chunks=0),)),
]


@examples(60)
@given(st.sampled_from(REQUESTS), st.integers(0, 200), st.binary(max_size=8))
def test_requests_read_back_and_damage_is_refused(request: Request, place: int, noise: bytes) -> None:
    data = msgspec.msgpack.encode(request)
    assert decode_request(data, KEY) == request
    with suppress(RemoteError):
        decode_request(data[:place] + noise + data[place + len(noise) :], KEY)


@pytest.mark.parametrize("request_", BAD)
def test_requests_out_of_bounds_are_refused(request_: Request) -> None:
    with pytest.raises(RemoteError, match="out of range"):
        decode_request(msgspec.msgpack.encode(request_), KEY)


# -- what is kept ------------------------------------------------------------------------------------------


def local(swarm: Swarm) -> LocalContribution:
    swarm.start_round()
    swarm.close()
    swarm.run(30.0)
    made = next(iter(swarm.nodes.values())).machine.local
    assert made is not None
    return made


def test_the_newest_round_stays_and_older_ones_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    own = local(Swarm(1, numel=1000, chunk_size=256))
    monkeypatch.setattr(evidence, "KEEP_BYTES", 900)
    kept = Evidence()
    piece = Slice(make_contribution(peers(1)[0]), own.index, {1: bytes(500)})
    for number in range(4):
        kept.keep(bytes([number]) * 32, {KEY: piece}, own)
    assert kept.num_bytes == 500
    assert kept.find(b"\2" * 32, KEY) is None
    found, mine = kept.find(b"\3" * 32, KEY), kept.find(b"\3" * 32, own.header.key)
    assert found is not None
    assert mine is not None
    assert (found.chunk(1), found.chunk(0), found.chunk(2**70)) == (bytes(500), None, None)
    assert mine.chunk(0) == own.chunks[0]
    assert (mine.chunk(-1), mine.chunk(4)) == (None, None)


def test_doubt_ends_and_conviction_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convictions, "MAX_HELD_BYTES", 10)
    book = Convictions()
    book.doubt(b"d", 5)
    book.convict(b"a", b"12345678", 5)
    book.convict(b"b", b"12345678", 6)
    assert list(book.proofs) == [b"b"]
    assert b"a" in book
    assert book.barred(5 + ROLE_ROUNDS) == {b"a", b"b", b"d"}
    assert book.barred(6 + ROLE_ROUNDS) == {b"a", b"b"}
    assert book.known_to_all(5 + GRACE_ROUNDS) == {b"a"}


# -- what follows ------------------------------------------------------------------------------------------


def test_who_is_convicted_reduces_nothing_as_long_as_another_can() -> None:
    swarm = Swarm(3, numel=1000, chunk_size=256)
    swarm.start_round()
    swarm.close()
    swarm.run_until(lambda: all(node.machine.phase == "exchanging" for node in swarm.nodes.values()))
    node = next(iter(swarm.nodes.values()))
    running = node.machine.last
    assert running is not None
    roster = running.roster
    assert roster is not None
    context = node.machine.context
    liar = roster.parts[0].reducer
    context.check_roster(roster)
    knowing = replace(context, barred=frozenset({liar}), convicted=frozenset({liar}))
    with pytest.raises((MessageError, CertificateError), match="may not reduce"):
        knowing.check_roster(roster)
    replace(context, barred=frozenset({liar})).check_roster(roster)  # an opinion decides nothing for others
    replace(context, convicted=frozenset(swarm.nodes)).check_roster(roster)  # somebody must
    for asked in (knowing, replace(context, barred=frozenset({liar}))):
        leader = Leader(asked, 0, set(), set())
        assert liar not in {part.reducer for part in leader._parts(roster.members)}


def test_slices_that_are_not_what_was_signed_are_not_taken() -> None:
    swarm = Swarm(1, numel=1000, chunk_size=256)
    own = local(swarm)
    index = own.index.encode()
    chunks = [bytes(own.chunks[number]) for number in range(4)]
    network = SimpleNamespace(key=KEY, serve=lambda *_: None)
    proofs = Proofs(cast(Any, network), KEY, Gate(), proven=lambda *_: None, connected=frozenset)
    auditor = Auditor(
        Identity.from_seed(KEY), cast(Any, network), swarm.rules, cast(Any, None), proofs,
        parts=1, busy=lambda: False, connected=frozenset, count=lambda _result: None,
    )  # fmt: skip
    claim = msgspec.structs.replace(CLAIM, prior=own.header.prior, num_chunks=4)

    def ask(answers: list[bytes | None]) -> Any:
        left = iter(answers)

        async def answer(_request: Request) -> bytes | None:
            return next(left)

        client = SimpleNamespace(ask=answer)
        return asyncio.run(auditor._ask(cast(Any, client), own.header, claim))

    good = ask([index, *chunks])
    assert (good.index, good.chunks) == (index, tuple(chunks))
    assert own.header.signature
    own.header.check(toy_verify)
    bad: list[list[bytes | None]] = [
        [None],
        [index[:-1]],
        [index[:-1] + b"\1"],
        [bytes(len(index))],
        [index, None],
        [index, chunks[1]],
        [index, chunks[0], b""],
        [index, *chunks[:3], chunks[3] + b"\0"],
    ]
    for answers in bad:
        assert ask(answers) is None


def test_a_proof_is_fetched_once_from_each_and_only_about_who_may_reduce() -> None:
    network = SimpleNamespace(key=KEY, serve=lambda *_: None)
    voters = [bytes([number]) * 32 for number in range(8)]
    proofs = Proofs(
        cast(Any, network), KEY, Gate(), proven=lambda *_: None, connected=lambda: frozenset(voters)
    )
    assert not proofs.told(voters[0], TellProof(voters[1], 9))  # not begun
    swarm = Swarm(1, numel=1000, chunk_size=256)
    proofs.begin(swarm.rules, 3, lambda key: key in voters)
    begun: list[Any] = []
    proofs._group = cast(Any, SimpleNamespace(create_task=begun.append))
    strangers = [b"x" * 32, b"y" * 32]
    answers = [
        (strangers[0], strangers[0], False),  # lies about itself: who cares
        (strangers[0], voters[1], True),
        (strangers[1], voters[1], False),
        (voters[2], voters[1], True),  # no stranger holds the place of who votes
        (voters[2], voters[3], False),
        (voters[3], voters[1], True),
        (voters[4], voters[1], True),
        (voters[5], voters[1], False),
    ]
    for teller, offender, taken in answers:
        assert proofs.told(teller, TellProof(offender, 9)) == taken
    assert len(begun) == 4
    proofs.convictions.convict(voters[1], b"proof", 3)
    assert proofs.told(voters[6], TellProof(voters[1], 9))
    assert len(begun) == 4
    for task in begun:
        task.close()
    assert proofs.held(AskProof(voters[1], 2)) == b"oof"
    assert proofs.held(AskProof(voters[1], 5)) is None
    assert proofs.held(AskProof(voters[1], -1)) is None
    assert proofs.held(AskProof(voters[2], 0)) is None
