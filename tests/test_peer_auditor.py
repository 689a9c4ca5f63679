"""What audits take from others is bounded and checked; whom that leads to trust less, and for how long."""

import asyncio
import errno
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from averaging_help import make_contribution, peers
from disk_rig import faulty_disks
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import Swarm, toy_verify

from talkoot.averaging.certificate import CertificateError
from talkoot.averaging.claims import MAX_CLAIMS, Claim, sign_claim
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.inquiry import Inquiry
from talkoot.averaging.leader import Leader
from talkoot.averaging.messages import MessageError
from talkoot.averaging.proof import Equivocation, decode_head, encode_head
from talkoot.averaging.slices import Slice
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.peer.audits import convictions, evidence, proof_files
from talkoot.peer.audits.auditor import Auditor
from talkoot.peer.audits.convictions import GRACE_ROUNDS, ROLE_ROUNDS, Convictions, decode_convictions
from talkoot.peer.audits.evidence import Evidence
from talkoot.peer.audits.gathering import Gathering, GoneError
from talkoot.peer.audits.proof_files import ROOM_BYTES, ProofFiles
from talkoot.peer.audits.proofs import Proofs
from talkoot.peer.audits.protocol import (
    MAX_PROOF_BYTES,
    AskChunk,
    AskIndex,
    AskProof,
    AuditClient,
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


def test_more_rounds_stay_where_all_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    own = local(Swarm(1, numel=1000, chunk_size=256))
    piece = Slice(make_contribution(peers(1)[0]), own.index, {1: bytes(500)})
    for room, rounds in ((10**9, evidence.KEEP_SMALL_ROUNDS), (3 * (500 + own.chunks.nbytes), 3), (1, 2)):
        monkeypatch.setattr(evidence, "SMALL_BYTES", room)
        kept = Evidence()
        for number in range(12):
            kept.keep(bytes([number]) * 32, {KEY: piece}, own)
        assert sum(kept.find(bytes([number]) * 32, KEY) is not None for number in range(12)) == rounds
    assert evidence.due_rounds(evidence.KEEP_BYTES) == 1
    assert evidence.due_rounds(1) == 2


def test_the_newest_round_is_checked_first_and_a_few_older_ones_wait(tmp_path: Path) -> None:
    async def check() -> list[int]:
        proofs = proofs_in(tmp_path, frozenset())
        auditor = Auditor(
            cast(Any, peers(1)[0]), cast(Any, None), Swarm(1).rules, cast(Any, None), proofs,
            parts=1, busy=lambda: False, connected=frozenset, count=lambda _: None,
        )  # fmt: skip
        checked: list[int] = []

        async def note(ended: Any, _claim: Claim, _hashes: tuple[bytes, ...]) -> str:
            checked.append(ended.number)
            if ended.number == 9:
                end(10)  # while it runs
            if ended.number == 6:
                done.set()
            return "right"

        def end(number: int) -> None:
            auditor._waiting.append(cast(Any, SimpleNamespace(number=number, drawn=((CLAIM, ()),))))
            auditor._wake.set()

        done = asyncio.Event()
        auditor._audit = note  # type: ignore[method-assign, assignment]
        for number in range(10):
            end(number)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(auditor.run())
            await done.wait()
            running.cancel()
        return checked

    assert asyncio.run(check()) == [9, 10, 8, 7, 6]


def test_doubt_ends_and_conviction_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convictions, "MAX_CONVICTED", 2)
    book = Convictions()
    a, b, c, d = (bytes([number]) * 32 for number in range(4))
    book.doubt(d, 5)
    book.convict(a, "lied", 5)
    book.convict(b, "two_claims", 6)
    book.convict(b, "lied", 9)
    assert a in book
    assert book.barred(5 + ROLE_ROUNDS) == {a, b, d}
    assert book.barred(6 + ROLE_ROUNDS) == {a, b}
    assert book.known_to_all(5 + GRACE_ROUNDS) == {a}
    again = decode_convictions(book.encode())
    assert again.convicted == {a, b}
    assert again.since(b) == 6
    assert (again.offence(a), again.offence(b), again.offence(c)) == ("lied", "two_claims", None)
    book.convict(c, "lied", 9)
    assert book.convicted == {b, c}


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


def proofs_in(folder: Path, connected: frozenset[bytes] = frozenset(), key: bytes = KEY) -> Proofs:
    network = SimpleNamespace(key=key, serve=lambda *_: None)
    return Proofs(
        cast(Any, network), KEY, Gate(), folder=folder / "proofs", note=folder / "convictions.json",
        proven=lambda *_: None, connected=lambda: connected,
    )  # fmt: skip


def test_slices_that_are_not_what_was_signed_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = Swarm(1, numel=1000, chunk_size=256)
    own = local(swarm)
    ledger = next(iter(swarm.nodes.values())).ledger
    index = own.index.encode()
    chunks = [bytes(own.chunks[number]) for number in range(4)]
    claim = msgspec.structs.replace(CLAIM, prior=own.header.prior, num_chunks=4)
    inquiry = Inquiry(claim, [own.header], [KEY] * 4, ledger, swarm.rules)
    doubted: list[bytes] = []

    def gather(answers: list[bytes | None]) -> list[bytes] | None:
        left = iter(answers)

        async def ask(_request: Request) -> bytes | None:
            return next(left)

        async def connect(*_: object) -> Any:
            return SimpleNamespace(ask=ask, close=lambda: asyncio.sleep(0))

        async def all_of_it() -> list[bytes]:
            monkeypatch.setattr(AuditClient, "connect", connect)
            network = cast(Any, SimpleNamespace(key=own.header.key))  # nobody but the reducer to ask
            made = Gathering(network, inquiry, Evidence(), busy=lambda: False, doubt=doubted.append)
            async with made:
                data, entries = await made.index(0)
                return [data, *[bytes(await made.chunk(0, number, entries)) for number in range(4)]]

        with suppress(GoneError):
            return asyncio.run(all_of_it())
        return None

    own.header.check(toy_verify)
    assert gather([index, *chunks]) == [index, *chunks]
    assert not doubted
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
    for number, answers in enumerate(bad, 1):
        assert gather(answers) is None
        assert doubted == [KEY] * number


def test_a_proof_is_fetched_once_from_each_and_only_about_who_may_reduce(tmp_path: Path) -> None:
    voters = [bytes([number]) * 32 for number in range(8)]
    proofs = proofs_in(tmp_path, frozenset(voters))
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
    assert not proofs.told(voters[0], TellProof(voters[1], proofs.files.max_bytes + 1))
    for teller, offender, taken in answers:
        assert proofs.told(teller, TellProof(offender, 9)) == taken
    assert len(begun) == 4
    proofs.convictions.convict(voters[1], "lied", 3)
    assert proofs.told(voters[6], TellProof(voters[1], 9))
    assert len(begun) == 4
    for task in begun:
        task.close()


def served(data: bytes) -> Any:
    """A peer that hands out these bytes as its proof."""

    async def ask(request: AskProof) -> bytes | None:
        return data[request.offset : request.offset + 100] or None

    async def connect(*_: object) -> Any:
        return SimpleNamespace(ask=ask, close=lambda: asyncio.sleep(0))

    return connect


def test_a_proof_is_taken_in_pieces_and_one_that_is_none_costs_its_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar, other = (Identity.from_seed(bytes([number]) * 32) for number in range(2))
    good = two_claims(liar)
    refused: list[str] = []
    length = len(good)

    def take(data: bytes, said: TellProof) -> list[str]:
        proofs = proofs_in(tmp_path)
        events = SimpleNamespace(reject=lambda reason, _peer, _source: refused.append(reason))
        proofs._network = cast(Any, SimpleNamespace(key=bytes(32), events=events))
        proofs.begin(replace(Swarm(1, numel=1000, chunk_size=256).rules, swarm=KEY), 9, lambda _key: True)
        monkeypatch.setattr(AuditClient, "connect", served(data))
        asyncio.run(proofs._fetch(KEY, said))
        assert not list((tmp_path / "proofs").glob(".*"))
        taken, refusals = [*map(bytes.hex, proofs.files.sizes)], [*refused]
        refused.clear()
        return taken + refusals

    forged = two_claims(liar)[:-1] + bytes([good[-1] ^ 1])
    assert take(good[:-1], TellProof(liar.key, length)) == []  # cut short: its line may have died
    assert take(good, TellProof(liar.key, length)) == [liar.key.hex()]
    assert take(good + b"x", TellProof(liar.key, length + 1)) == ["unproven"]
    assert take(good, TellProof(liar.key, length - 1)) == []  # pieces that do not fit what was said
    assert take(good, TellProof(other.key, length)) == ["unproven"]
    assert take(forged, TellProof(liar.key, length)) == ["unproven"]
    assert take(bytes(length), TellProof(liar.key, length)) == ["unproven"]
    assert take(b"\xff" * length, TellProof(liar.key, length)) == ["unproven"]
    assert take(good, TellProof(liar.key, 2**40)) == []  # no room for that


# -- what is on the disk -----------------------------------------------------------------------------------


def test_pieces_of_proofs_are_handed_out(tmp_path: Path) -> None:
    proofs = proofs_in(tmp_path)
    proofs.files.keep_bytes(b"proof", KEY)
    asked = [AskProof(KEY, 2), AskProof(KEY, 5), AskProof(KEY, -1), AskProof(bytes(32), 0)]
    assert [asyncio.run(proofs.held(request)) for request in asked] == [b"oof", None, None, None]


def test_proofs_on_the_disk_are_bounded_and_the_oldest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_files, "MAX_PROOFS", 3)
    files = ProofFiles(tmp_path / "proofs")
    files.max_bytes = 100
    keys = [bytes([number]) * 32 for number in range(5)]
    for number, key in enumerate(keys):
        files.keep_bytes(bytes(10 + number), key)
    assert list(files.sizes) == keys[2:]
    files.keep_bytes(bytes(80), keys[0])
    assert files.sizes == {keys[4]: 14, keys[0]: 80}
    with files.draft(60) as draft:
        draft.write(50, b"x")
        with pytest.raises(OSError, match="quota"), files.draft(41):
            pass
    with pytest.raises(OSError, match="descriptor"):  # whoever still writes does so into no other file
        draft.write(0, b"late")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=ROOM_BYTES + 9))
    with pytest.raises(OSError, match="No space"), files.draft(10):
        pass
    (tmp_path / "proofs" / ".00000009.draft").touch()  # a killed process left it
    assert ProofFiles(tmp_path / "proofs").found() == {keys[4]: 14, keys[0]: 80}
    assert {path.name for path in (tmp_path / "proofs").iterdir()} == {
        f"{key.hex()}.proof" for key in (keys[0], keys[4])
    }


def two_claims(signer: Identity) -> bytes:
    made = [
        sign_claim(msgspec.structs.replace(CLAIM, reducer=signer.key, root=bytes([number]) * 32), signer)
        for number in range(2)
    ]
    return encode_head(Equivocation(first=made[0], second=made[1]))


def test_a_disk_that_refuses_costs_the_proof_and_not_the_conviction(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    liar, told = (Identity.from_seed(bytes([number]) * 32) for number in range(2))
    proofs = proofs_in(tmp_path, frozenset({KEY}))
    proofs.begin(replace(Swarm(1, numel=1000, chunk_size=256).rules, swarm=KEY), 9, lambda _key: True)
    pair = decode_head(two_claims(liar))[0]
    assert isinstance(pair, Equivocation)

    async def refused() -> None:
        with faulty_disks() as disks:
            disks.fail(tmp_path, "", errno.ENOSPC)
            await proofs.convict(pair)
            await proofs._fetch(KEY, TellProof(told.key, 99))
            assert disks.hits
        proofs.round_over()  # not begun: nothing happens
        await proofs._save()

    asyncio.run(refused())
    assert proofs.convictions.convicted == {liar.key}
    assert proofs.files.sizes == {}
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]  # of the liar, the disk
    again = proofs_in(tmp_path)
    again.load()
    assert again.convictions.convicted == {liar.key}


def test_what_was_proven_outlives_a_restart(tmp_path: Path) -> None:
    liars = [Identity.from_seed(bytes([number]) * 32) for number in range(4)]
    noted, killed, rotten, forgotten = liars
    first = proofs_in(tmp_path)
    for liar in (noted, rotten):
        first.convictions.convict(liar.key, "two_claims", 7)
    first.convictions.convict(forgotten.key, "lied", 2)  # its proof had to go
    for liar in (noted, killed):  # of one the process was killed before it wrote whom it convicts
        first.files.keep_bytes(two_claims(liar), liar.key)
    first.files.keep_bytes(two_claims(noted), rotten.key)
    asyncio.run(first._save())
    again = proofs_in(tmp_path)
    proven: list[bytes] = []
    again._proven = lambda key, _why: proven.append(key)

    async def start() -> None:
        rules = replace(Swarm(1, numel=1000, chunk_size=256).rules, swarm=KEY)
        again.load()
        assert again.convictions.convicted == {noted.key, rotten.key, forgotten.key}
        again.begin(rules, 9, lambda _key: True)
        await again.look_again()
        assert bytes(await again.held(AskProof(noted.key, 0)) or b"") == two_claims(noted)
        assert await again.held(AskProof(rotten.key, 0)) is None

    asyncio.run(start())
    assert proven == [killed.key]
    assert again.convictions.convicted == {liar.key for liar in liars}
    assert again.convictions.since(noted.key) == 7
    assert set(again.files.sizes) == {noted.key, killed.key}
    (tmp_path / "convictions.json").write_bytes(b"[{]")  # is read from the proofs, then
    third = proofs_in(tmp_path)
    third.load()
    assert (third.convictions.convicted, set(third._earlier)) == (frozenset(), {noted.key, killed.key})


def test_what_is_large_is_checked_less_often() -> None:
    """Ten contributions and two reducers: each part's inputs are as much as five contributions."""
    rules = Swarm(1, numel=1000, chunk_size=100).rules
    auditor = Auditor(
        cast(Any, peers(1)[0]), cast(Any, None), rules, cast(Any, None), cast(Any, None),
        parts=1, busy=lambda: False, connected=frozenset, count=lambda _: None,
    )  # fmt: skip

    def share(num_chunks: int, contributions: int) -> float:
        claim = cast(Any, SimpleNamespace(part=SimpleNamespace(num_chunks=num_chunks), reducer=KEY))
        values = (
            SimpleNamespace(digest=bytes([n // 256, n % 256] * 16), cut=(None,) * contributions)
            for n in range(1000)
        )
        return sum(auditor._affords(claim, cast(Any, value)) for value in values) / 1000

    assert 0.15 < share(5, 10) < 0.25
    assert share(1, 10) == share(2, 5) == share(1, 3) == 1.0
