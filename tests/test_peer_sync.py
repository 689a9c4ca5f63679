"""A newcomer gets the state of the swarm from whoever has it, and nothing wrong from anybody."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from state_rig import (
    FOUNDERS,
    KEYS,
    MANIFEST,
    NUMEL,
    RULES,
    SERVERS,
    TOKENIZER,
    Answered,
    Lie,
    World,
    advance,
    blamed,
    certify,
    flip,
    found,
    keys,
    lying,
    make_manifest,
    run,
    same_state,
)

from talkoot.averaging.certificate import Certificate, decode_certificate
from talkoot.averaging.digest import CHUNK_BYTES
from talkoot.averaging.ledger import decode_ledger, voters_hash
from talkoot.dht.identity import Identity
from talkoot.peer.certlog import CertLog
from talkoot.peer.holdings import Holdings, number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.trainer.tokenizer import tokenizer_hash
from talkoot.peer.transfer import AskChain, AskChunk, AskHead, AskManifest, AskTokenizer, AskTree, Request


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable has tests of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def anchor_of(certificate: Certificate) -> Anchor:
    value = certificate.value
    return Anchor(number_of(certificate), value.digest, voters_hash(value.voters), 0)


def test_a_newcomer_downloads_everything_and_opens_it_again(tmp_path: Path) -> None:
    source = found(tmp_path / "source")
    chain = [advance(source) for _ in range(3)]

    async def main(made: World) -> None:
        await made.serve(source)
        joiner = await made.joiner(tmp_path / "new")
        assert await joiner.manifest(keys(1)) == MANIFEST
        assert await joiner.tokenizer(keys(1), tokenizer_hash(TOKENIZER)) == TOKENIZER
        got = await joiner.first_state(keys(1), RULES, KEYS)
        assert got is not None
        assert same_state(got, source)
        assert got.head == chain[-1]
        assert [number_of(item) for item in got.certificates(0)] == [0, 1, 2, 3]
        assert joiner.progress is None
        assert blamed(joiner) == {}
        store = OuterStore.open(tmp_path / "new" / "outer", NUMEL, verify=True)
        assert store.head.digest == source.digest

    run(main)


def test_trust_starts_at_the_invites_anchor(tmp_path: Path) -> None:
    source = found(tmp_path / "source")
    anchor = anchor_of([advance(source) for _ in range(4)][1])

    async def main(made: World) -> None:
        server = await made.serve(source)
        joiner = await made.joiner(tmp_path / "new", anchor)
        got = await joiner.first_state(keys(1), RULES, KEYS)
        assert got is not None
        assert [number_of(item) for item in got.certificates(0)] == [2, 3, 4]
        assert AskChain(2) in server.asked

    run(main)


def test_a_long_chain_comes_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = found(tmp_path / "source")
    for _ in range(5):
        advance(source)
    whole = source.certificates
    monkeypatch.setattr(source, "certificates", lambda first: whole(first)[:2])

    async def main(made: World) -> None:
        server = await made.serve(source)
        got = await (await made.joiner(tmp_path / "new")).first_state(keys(1), RULES, KEYS)
        assert got is not None
        assert [item for item in server.asked if isinstance(item, AskChain)] == [
            AskChain(0),
            AskChain(2),
            AskChain(4),
        ]

    run(main)


# -- liars -------------------------------------------------------------------------------------------------


def head_with(change: Callable[[Certificate], Certificate]) -> Callable[[bytes], bytes]:
    def rewrite(data: bytes) -> bytes:
        certificate, ledger = msgspec.msgpack.decode(data)
        return msgspec.msgpack.encode([change(decode_certificate(certificate)).encode(), ledger])

    return rewrite


def head_with_ledger(**changes: Any) -> Callable[[bytes], bytes]:
    def rewrite(data: bytes) -> bytes:
        certificate, ledger = msgspec.msgpack.decode(data)
        changed = msgspec.structs.replace(decode_ledger(ledger), **changes)
        return msgspec.msgpack.encode([certificate, changed.encode()])

    return rewrite


def chain_with(change: Callable[[list[Certificate]], list[Certificate]]) -> Callable[[bytes], bytes]:
    def rewrite(data: bytes) -> bytes:
        chain = [decode_certificate(item) for item in msgspec.msgpack.decode(data)]
        return msgspec.msgpack.encode([item.encode() for item in change(chain)])

    return rewrite


def forged(certificate: Certificate) -> Certificate:
    value = msgspec.structs.replace(certificate.value, digest=b"x" * 32)
    return msgspec.structs.replace(certificate, value=value)


def usurped(certificate: Certificate) -> Certificate:
    """Signed by strangers."""
    return certify(certificate.value, [Identity.from_seed(bytes([n]) * 32) for n in (41, 42, 43)])


def foreign(certificate: Certificate) -> Certificate:
    value = msgspec.structs.replace(certificate.value, swarm=bytes(32), cut=())
    return certify(value, FOUNDERS)


def ending(chain: list[Certificate]) -> list[Certificate]:
    return chain[:2] if number_of(chain[0]) == 0 else []


LIES: dict[str, tuple[Lie, str]] = {
    "a wrong byte in the parameters": (lying(AskChunk, flip(7)), "wrong_hash"),
    "a chunk that is too short": (lying(AskChunk, lambda data: data[:-1]), "wrong_hash"),
    "a chunk that is too long": (lying(AskChunk, lambda data: bytes(CHUNK_BYTES + 1)), "oversized"),
    "an empty chunk": (lying(AskChunk, lambda data: b""), "wrong_hash"),
    "a wrong tree": (lying(AskTree, flip(40)), "wrong_hash"),
    "a short tree": (lying(AskTree, lambda data: data[:-32]), "wrong_hash"),
    "a torn tree": (lying(AskTree, lambda data: data[:-1]), "wrong_hash"),
    "a long tree": (lying(AskTree, lambda data: data + bytes(32)), "oversized"),
    "a changed ledger": (lying(AskHead, head_with_ledger(global_step=0)), "wrong_hash"),
    "a ledger of another round": (lying(AskHead, head_with_ledger(round=9)), "malformed"),
    "a ledger with other voters": (
        lying(AskHead, head_with_ledger(voters=KEYS[:1], absent=(0,))),
        "malformed",
    ),
    "a ledger with an unknown codec": (lying(AskHead, head_with_ledger(codec="zip")), "malformed"),
    "garbage for a head": (lying(AskHead, lambda data: b"\xc1" * 9), "malformed"),
    "a head with broken text": (lying(AskHead, lambda data: data.replace(b"int8", b"\xff" * 4)), "malformed"),
    "a head that is too long": (lying(AskHead, lambda data: bytes(1 << 20)), "oversized"),
    "a head that its chain does not reach": (lying(AskHead, head_with(forged)), "broken_chain"),
    "garbage for a chain": (lying(AskChain, lambda data: b"\x93\x01\x02\x03"), "malformed"),
    "a chain with garbage in it": (lying(AskChain, lambda data: msgspec.msgpack.encode([b"x"])), "malformed"),
    "a missing link": (lying(AskChain, chain_with(lambda c: [*c[:1], *c[2:]])), "broken_chain"),
    "a link twice": (lying(AskChain, chain_with(lambda c: [c[0], c[1], c[1], *c[2:]])), "broken_chain"),
    "a forged link": (lying(AskChain, chain_with(lambda c: [*c[:2], forged(c[2])])), "signature"),
    "a link by strangers": (lying(AskChain, chain_with(lambda c: [*c[:2], usurped(c[2])])), "not_a_voter"),
    "a link with too few votes": (
        lying(AskChain, chain_with(lambda c: [*c[:2], msgspec.structs.replace(c[2], votes=c[2].votes[:1])])),
        "no_quorum",
    ),
    "a chain of another swarm": (
        lying(AskChain, chain_with(lambda c: [*c[:2], foreign(c[2])])),
        "wrong_swarm",
    ),
    "a genesis by strangers": (lying(AskChain, chain_with(lambda c: [usurped(c[0]), *c[1:]])), "not_a_voter"),
    "a chain that ends early": (lying(AskChain, chain_with(ending)), "broken_chain"),
}


@pytest.fixture(scope="module")
def swarm_of_two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Holdings:
    source = found(tmp_path_factory.mktemp("source"))
    for _ in range(2):
        advance(source)
    return source


@pytest.mark.parametrize("name", LIES)
def test_a_liar_is_found_out_and_the_next_peer_is_asked(
    name: str, swarm_of_two_rounds: Holdings, tmp_path: Path
) -> None:
    lie, reason = LIES[name]

    async def main(made: World) -> None:
        liar = await made.serve(swarm_of_two_rounds, lie)
        joiner = await made.joiner(tmp_path / "new")
        assert await joiner.first_state(keys(1), RULES, KEYS) is None
        assert not OuterStore.exists(tmp_path / "new" / "outer")
        if reason != "refused":
            assert blamed(joiner) == {reason: 1}
            liar.asked.clear()
        await made.serve(swarm_of_two_rounds)
        got = await joiner.first_state(keys(2), RULES, KEYS)
        assert got is not None
        assert same_state(got, swarm_of_two_rounds)
        if reason != "refused":
            assert liar.asked == []  # for a while it is not even asked

    run(main)


def test_a_liar_without_end_is_left_at_its_first_bad_link(
    swarm_of_two_rounds: Holdings, tmp_path: Path
) -> None:
    far = chain_with(lambda c: [msgspec.structs.replace(item, attempt=5) for item in c] * 50)

    def lie(request: Request, honest: Answered) -> Answered:
        return lying(AskChain, far)(request, honest) if request != AskChain(0) else honest

    async def main(made: World) -> None:
        server = await made.serve(swarm_of_two_rounds, lie)
        joiner = await made.joiner(tmp_path / "new")
        server.lie = lambda request, honest: (
            (honest[0], head_with(lambda c: replace_round(c, 10**9))(bytes(honest[1])))
            if isinstance(request, AskHead)
            else lie(request, honest)
        )
        assert await joiner.first_state(keys(1), RULES, KEYS) is None
        assert len(server.asked) < 5

    run(main)


def replace_round(certificate: Certificate, number: int) -> Certificate:
    return msgspec.structs.replace(
        certificate, value=msgspec.structs.replace(certificate.value, round=number)
    )


@pytest.mark.parametrize(
    "changes", [{"digest": b"x" * 32}, {"voters": b"x" * 32}, {"round": 1}], ids=["digest", "voters", "round"]
)
def test_what_the_invite_does_not_vouch_for_is_refused(
    changes: dict[str, Any], swarm_of_two_rounds: Holdings, tmp_path: Path
) -> None:
    anchor = msgspec.structs.replace(anchor_of(swarm_of_two_rounds.head), **changes)

    async def main(made: World) -> None:
        await made.serve(swarm_of_two_rounds)
        joiner = await made.joiner(tmp_path / "new", anchor)
        assert await joiner.first_state(keys(1), RULES, KEYS) is None
        assert blamed(joiner) == {"wrong_anchor": 1}

    run(main)


def test_a_source_behind_the_anchor_is_not_blamed(swarm_of_two_rounds: Holdings, tmp_path: Path) -> None:
    anchor = msgspec.structs.replace(anchor_of(swarm_of_two_rounds.head), round=7)

    async def main(made: World) -> None:
        await made.serve(swarm_of_two_rounds)
        joiner = await made.joiner(tmp_path / "new", anchor)
        assert await joiner.first_state(keys(1), RULES, KEYS) is None
        assert blamed(joiner) == {}

    run(main)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xc1", "malformed"),
        (b"\xa1\xff", "malformed"),
        (make_manifest("other").canonical(), "foreign"),
        (make_manifest(founders=()).canonical(), "foreign"),
        (MANIFEST.canonical() + b"\0", "malformed"),
        (bytes(65 * 1024), "oversized"),
    ],
)
def test_another_manifest_is_not_taken(data: bytes, reason: str | None, tmp_path: Path) -> None:
    async def main(made: World) -> None:
        await made.serve(None, lying(AskManifest, lambda _: data))
        await made.serve(None)
        joiner = await made.joiner(tmp_path / "new")
        assert await joiner.manifest(keys(1)) is None
        assert blamed(joiner) == ({reason: 1} if reason else {})
        assert await joiner.manifest([SERVERS[2].key, *keys(2)]) == MANIFEST

    run(main)


def test_another_tokenizer_is_not_taken(tmp_path: Path) -> None:
    async def main(made: World) -> None:
        await made.serve(None, lying(AskTokenizer, flip(3)))
        await made.serve(None)
        joiner = await made.joiner(tmp_path / "new")
        assert await joiner.tokenizer(keys(1), tokenizer_hash(TOKENIZER)) is None
        assert blamed(joiner) == {"wrong_hash": 1}
        assert await joiner.tokenizer(keys(2), tokenizer_hash(TOKENIZER)) == TOKENIZER

    run(main)


# -- things that happen ------------------------------------------------------------------------------------


def test_one_more_round_does_not_disturb_a_download(tmp_path: Path) -> None:
    source = found(tmp_path / "source")
    begun = advance(source)

    async def main(made: World) -> None:
        server = await made.serve(source)
        joiner = await made.joiner(tmp_path / "new")

        def move(request: Request, honest: Answered) -> Answered:
            if request == AskChunk(begun.value.digest, "theta", 1):
                advance(source)
            return honest

        server.lie = move
        got = await joiner.first_state(keys(1), RULES, KEYS)
        assert got is not None
        assert got.head == begun
        assert sum(isinstance(request, AskChunk) for request in server.asked) == 6

    run(main)


def test_a_source_that_moves_on_in_mid_download(tmp_path: Path) -> None:
    source = found(tmp_path / "source")
    advance(source)
    moved: list[Certificate] = []

    def move(request: Request, honest: Answered) -> Answered:
        if request == AskChunk(source.digest, "theta", 2) and len(moved) < 4:
            moved.extend(advance(source) for _ in range(2))
        return honest

    async def main(made: World) -> None:
        await made.serve(source, move)
        joiner = await made.joiner(tmp_path / "new")
        got = await joiner.first_state(keys(1), RULES, KEYS)
        assert got is not None
        assert got.head == moved[-1]
        assert same_state(got, source)
        assert blamed(joiner) == {}

    run(main)


def test_a_source_that_dies_in_mid_download(tmp_path: Path, swarm_of_two_rounds: Holdings) -> None:
    async def main(made: World) -> None:
        def die(request: Request, honest: Answered) -> Answered:
            if isinstance(request, AskChunk) and request.vector == "momentum":
                made.hub.crash(SERVERS[0].key)
            return honest

        await made.serve(swarm_of_two_rounds, die)
        await made.serve(swarm_of_two_rounds)
        joiner = await made.joiner(tmp_path / "new")
        got = await joiner.first_state(keys(2), RULES, KEYS)
        assert got is not None
        assert same_state(got, swarm_of_two_rounds)
        assert blamed(joiner) == {}

    run(main)


def test_a_source_that_always_moves_on_is_left(tmp_path: Path, swarm_of_two_rounds: Holdings) -> None:
    async def main(made: World) -> None:
        await made.serve(swarm_of_two_rounds, lying(AskTree, lambda data: None))
        await made.serve(None)
        joiner = await made.joiner(tmp_path / "new")
        assert await joiner.first_state(keys(2), RULES, KEYS) is None

    run(main)


def test_what_a_killed_install_left_in_the_log_is_not_kept(
    tmp_path: Path, swarm_of_two_rounds: Holdings
) -> None:
    paths = StateDir(tmp_path / "new")
    paths.prepare()
    with CertLog(paths.round_log) as log:
        log.append(0, b"of another branch")
        log.append(9, b"even later")

    async def main(made: World) -> None:
        await made.serve(swarm_of_two_rounds)
        got = await (await made.joiner(tmp_path / "new")).first_state(keys(1), RULES, KEYS)
        assert got is not None
        assert [number_of(item) for item in got.certificates(0)] == [0, 1, 2]

    run(main)
