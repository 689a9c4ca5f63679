"""One peer answers wrongly once, in every way that there is; another is honest: no harm comes of it."""

import asyncio
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from record_rig import opened, play
from state_rig import (
    FOUNDERS,
    KEYS,
    MANIFEST,
    RULES,
    SERVERS,
    TOKENIZER,
    Answered,
    Server,
    World,
    blamed,
    keys,
    run,
    same_state,
)

from talkoot.averaging import reasons
from talkoot.averaging.contribution import LocalContribution, encode_delta, sign_contribution
from talkoot.averaging.rotation import codec_of
from talkoot.dht import errors
from talkoot.dht.network import Channel
from talkoot.peer.holdings import Holdings, open_holdings
from talkoot.peer.joining import BLAMELESS, Joiner
from talkoot.peer.manifest import State
from talkoot.peer.roundlog import limits_of
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.survey import GRACE_S, TURN_S
from talkoot.peer.trainer.tokenizer import tokenizer_hash
from talkoot.peer.transfer import (
    MAX_ANSWER_BYTES,
    Answer,
    AskChain,
    AskChunk,
    AskHead,
    AskManifest,
    AskRecord,
    AskRecords,
    AskSnapshot,
    AskTokenizer,
    AskTree,
    Request,
)

LIAR = SERVERS[0].key

Said = list[tuple[bytes, bytes]]
"""Headers and payloads of the frames that are sent instead of one answer."""

Trick = Callable[[random.Random, bytes, bytes, Said], Said]
"""(chance, honest header, honest payload, what was answered before)"""


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable has tests of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def header(status: str) -> bytes:
    return msgspec.msgpack.encode({"status": status})


def flip(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


TRICKS: dict[str, Trick] = {
    "a flipped bit": lambda chance, head, data, before: [(head, flip(chance, data or b"\0"))],
    "another flipped bit": lambda chance, head, data, before: [(head, flip(chance, data or b"\0"))],
    "a flipped bit of the header": lambda chance, head, data, before: [(flip(chance, head), data)],
    "a torn answer": lambda chance, head, data, before: [(head, data[: chance.randrange(len(data) + 1)])],
    "an empty answer": lambda chance, head, data, before: [(head, b"")],
    "more than was asked for": lambda chance, head, data, before: [(head, data + chance.randbytes(9))],
    "all that a frame holds": lambda chance, head, data, before: [(head, bytes(MAX_ANSWER_BYTES))],
    "random bytes": lambda chance, head, data, before: [(head, chance.randbytes(len(data)))],
    "the answer before": lambda chance, head, data, before: before[-1:] or [(head, b"")],
    "the first answer": lambda chance, head, data, before: before[:1] or [(head, b"")],
    "one answer twice": lambda chance, head, data, before: [(head, data)] * 2,
    "a hundred answers": lambda chance, head, data, before: [(head, data[:1000])] * 100,
    "halves exchanged": lambda chance, head, data, before: [
        (head, data[len(data) // 2 :] + data[: len(data) // 2])
    ],
    "that it has nothing": lambda chance, head, data, before: [(header("gone"), b"")],
    "that it does not know": lambda chance, head, data, before: [(header("unknown"), data)],
    "that it is busy": lambda chance, head, data, before: [(header("busy"), b"")],
    "a status that there is not": lambda chance, head, data, before: [(header("fine"), data)],
    "nothing": lambda chance, head, data, before: [],
}

JOINING = (AskHead, AskSnapshot, AskChain, AskTree, AskChunk)
CATCHING_UP = (AskHead, AskChain, AskRecords, AskRecord)


class Liar(Server):
    """Honest up to one answer: the `nth` to requests of one kind. From there on honest again."""

    kind: type[Request] = AskHead
    nth = 0
    trick: Trick = TRICKS["nothing"]
    chance: random.Random
    lied = False
    """Whether anything else than the honest answer was sent."""

    def prepare(self, seed: str, kind: type[Request], trick: Trick) -> None:
        self.chance = random.Random(seed)
        self.kind, self.trick = kind, trick
        self.nth = self.chance.choice((0, 0, 0, 1, 2, 4))
        self._said: Said = []
        self._due = False

    def _answer(self, request: Request) -> Answered:
        if isinstance(request, self.kind):
            self._due = self.nth == 0
            self.nth -= 1
        return super()._answer(request)

    async def _send(self, channel: Channel, answered: Answered) -> None:
        honest = (msgspec.msgpack.encode(Answer(answered[0])), bytes(answered[1]))
        frames = [honest]
        if self._due:
            self._due = False
            frames = self.trick(self.chance, *honest, self._said)
            self.lied = self.lied or frames != [honest]
        self._said.append(honest)
        for head, data in frames:
            await channel.send(head, data, timeout_s=30)


def check_blame(liar: Liar, joiner: Joiner, name: str) -> None:
    """Nobody but the liar, for a reason from the list, and only for what no honest peer says."""
    rejected = blamed(joiner)
    assert set(rejected) <= {*reasons.REASONS, *errors.REASONS} - BLAMELESS, name
    others = {*joiner._blamed, *joiner._blamed_for_records} - {LIAR}
    assert not others, name
    assert not rejected or liar.lied, name
    assert sum(rejected.values()) <= 2, name


async def serve_both(made: World, source: Holdings, name: str, kind: type[Request], trick: Trick) -> Liar:
    liar = await made.serve(source, make=Liar)
    assert isinstance(liar, Liar)
    liar.prepare(name, kind, trick)
    await made.serve(source)
    return liar


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Holdings:
    """Three rounds with their records; the second state is the snapshot."""
    made = opened(tmp_path_factory.mktemp("source"))
    made.keep = State(snapshot_rounds=2)
    whole = made.certificates
    made.certificates = lambda first: whole(first)[:2]  # type: ignore[method-assign]
    for _ in range(3):
        play(made)
    return made


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a peer that has one round of them."""
    path = tmp_path_factory.mktemp("late")
    made = opened(path)
    play(made)
    made.close()
    return path


@pytest.mark.parametrize("kind", JOINING)
@pytest.mark.parametrize("name", TRICKS)
def test_who_joins_gets_the_right_state(
    name: str, kind: type[Request], source: Holdings, tmp_path: Path
) -> None:
    async def main(made: World) -> None:
        liar = await serve_both(made, source, name, kind, TRICKS[name])
        joiner = await made.joiner(tmp_path / "new")
        got = None
        for _ in range(3):  # as a node does: until somebody gives it
            got = got or await joiner.first_state(keys(2), RULES, KEYS)
        assert got is not None, name
        known = {certificate.value.digest for certificate in (source.head, *source.certificates(2))}
        assert got.digest in known
        assert got.digest == source.digest or got.head.value.round == 1
        check_blame(liar, joiner, name)
        again = OuterStore.open(tmp_path / "new" / "outer", RULES.numel, verify=True)
        assert again.head.digest == got.digest
        got.close()

    run(main)


@pytest.mark.parametrize("kind", CATCHING_UP)
@pytest.mark.parametrize("name", TRICKS)
def test_who_catches_up_gets_the_right_state(
    name: str, kind: type[Request], source: Holdings, late: Path, tmp_path: Path
) -> None:
    shutil.copytree(late, tmp_path / "ours")
    ours = open_holdings(StateDir(tmp_path / "ours"), RULES)
    ours.keep_records(limits_of(MANIFEST))

    async def main(made: World) -> None:
        liar = await serve_both(made, source, name, kind, TRICKS[name])
        joiner = await made.joiner(tmp_path / "ours")
        for _ in range(3):
            if not same_state(ours, source):
                await joiner.update(keys(2), ours, KEYS)
        assert same_state(ours, source), name
        assert ours.store.compute_digest() == source.digest
        check_blame(liar, joiner, name)

    run(main)
    ours.close()


@pytest.mark.parametrize("name", TRICKS)
def test_manifest_and_tokenizer(name: str, tmp_path: Path) -> None:
    async def main(made: World) -> None:
        liar = await made.serve(None, make=Liar)
        assert isinstance(liar, Liar)
        await made.serve(None)
        joiner = await made.joiner(tmp_path / "new")
        for kind in (AskManifest, AskTokenizer):
            liar.prepare(name, kind, TRICKS[name])
            liar.nth = 0
            joiner._blamed.clear()
            if kind is AskManifest:
                assert await joiner.manifest(keys(2)) == MANIFEST
            else:
                assert await joiner.tokenizer(keys(2), tokenizer_hash(TOKENIZER)) == TOKENIZER
        check_blame(liar, joiner, name)

    run(main)


LASTING: dict[str, type[Request]] = {"the chain": AskChain, "the tree": AskTree, "chunks": AskChunk}


@pytest.mark.parametrize("what", LASTING)
@pytest.mark.parametrize("status", ["busy", "gone"])
def test_who_puts_off_for_ever_is_left(what: str, status: str, source: Holdings, tmp_path: Path) -> None:
    def lie(request: Request, honest: Answered) -> Answered:
        return (status, b"") if isinstance(request, LASTING[what]) else honest

    async def main(made: World) -> None:
        await made.serve(source, lie)
        joiner = await made.joiner(tmp_path / "new")
        assert await joiner.first_state(keys(1), RULES, KEYS) is None
        assert blamed(joiner) == {}

    run(main)
    assert not OuterStore.exists(StateDir(tmp_path / "new").outer)


class Dripping(Server):
    """Gives its chain certificate by certificate, each after a while."""

    async def _send(self, channel: Channel, answered: Answered) -> None:
        if isinstance(self.asked[-1], AskChain):
            await asyncio.sleep(20)
        await super()._send(channel, answered)


def test_a_chain_that_drips_does_not_keep_the_others_waiting(source: Holdings, tmp_path: Path) -> None:
    async def main(made: World) -> None:
        await made.serve(source, make=Dripping)
        await made.serve(source)
        joiner = await made.joiner(tmp_path / "new")
        loop = asyncio.get_running_loop()
        began = loop.time()
        got = await joiner.first_state(keys(2), RULES, KEYS)
        assert got is not None
        assert same_state(got, source)
        assert loop.time() - began < TURN_S + GRACE_S + 2
        assert blamed(joiner) == {}

    run(main)


def huge(holdings: Holdings) -> LocalContribution:
    """Numbers, all of them, but the sum of two is none."""
    rules, ledger = holdings.rules, holdings.ledger
    zeros = torch.zeros(rules.numel)
    codec = codec_of(ledger.codec, holdings.digest, FOUNDERS[0].key)
    delta = torch.full((rules.numel,), 3e38)
    index, chunks = encode_delta(delta, zeros, zeros.clone(), scale=1.0, codec=codec, rules=rules)
    header = sign_contribution(
        index, ledger=ledger, prior=holdings.digest, steps=20, tokens=100, carried=0, carried_tokens=0,
        admission=b"", rules=rules, signer=FOUNDERS[0],
    )  # fmt: skip
    return LocalContribution(header, index, chunks)


def test_a_right_record_that_comes_to_no_number_is_not_applied(late: Path, tmp_path: Path) -> None:
    """One voter alone can certify that weakly; who passes it on is not to blame."""
    ours, theirs = (tmp_path / name for name in ("ours", "theirs"))
    held = []
    for path in (ours, theirs):
        shutil.copytree(late, path)
        held.append(open_holdings(StateDir(path), RULES))
        held[-1].keep_records(limits_of(MANIFEST))
    play(held[1], by=FOUNDERS[:1], weak=True, given=huge(held[1]))
    assert not bool(held[1].store.theta.isfinite().all())
    before = held[0].digest

    async def main(made: World) -> None:
        server = await made.serve(held[1])
        joiner = await made.joiner(ours)
        assert await joiner.update(keys(1), held[0], KEYS) is None
        assert any(isinstance(request, AskRecord) for request in server.asked)
        assert joiner._blamed == joiner._blamed_for_records == {}
        assert blamed(joiner) == {"not_finite": 1}

    run(main)
    assert held[0].digest == before == held[0].store.compute_digest()
