"""Whatever stands in an answer of the state protocol: it is what was certified, or it is refused by name."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from record_rig import opened, play
from state_rig import KEYS, MANIFEST, NUMEL, SERVERS, SWARM, TOKENIZER

from talkoot.averaging import reasons
from talkoot.averaging.certificate import Certificate
from talkoot.averaging.digest import CHUNK_BYTES
from talkoot.averaging.ledger import Ledger, voters_hash
from talkoot.dht import errors
from talkoot.dht.errors import RemoteError
from talkoot.dht.memory import MemoryHub
from talkoot.dht.network import Buffer, Channel, Frame
from talkoot.peer.assembly import Assembly, Piece, WrongChunk
from talkoot.peer.catchup import _take
from talkoot.peer.generation import Generation
from talkoot.peer.holdings import Holdings, number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.manifest import State
from talkoot.peer.replaying import RoundInReplay, plan
from talkoot.peer.sync import Branch, fetch_branch
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
    Busy,
    Gone,
    Request,
    StateClient,
    StateServer,
)

POSITIONS = 250

CLOSED = {*reasons.REASONS, *errors.REASONS}

OK = msgspec.msgpack.encode(Answer("ok"))

Change = Callable[[bytes], bytes]


class Canned(Channel):
    """Answers requests at once as a server with these holdings would, but changes those of one kind."""

    def __init__(self, source: Holdings, kind: type[Request], change: Change) -> None:
        self.peer = SERVERS[0].key
        self.protocol = ""
        self.bytes_sent = self.bytes_received = 0
        self._kind = kind
        self._change = change
        self._frames: list[Frame] = []
        network = MemoryHub().node(SERVERS[0], swarm=SWARM)
        self._server = StateServer(
            network, SWARM, manifest=MANIFEST.canonical, tokenizer=lambda: TOKENIZER, holdings=lambda: source
        )

    async def send(self, header: bytes, payload: Buffer = b"", *, timeout_s: float) -> None:
        request = msgspec.msgpack.decode(header, type=Request)
        status, data = self._server._try(request)
        answer = bytes(data)
        if isinstance(request, self._kind):
            answer = self._change(answer)
        self._frames.append(Frame(msgspec.msgpack.encode(Answer(status)), answer))

    async def receive(self, *, timeout_s: float | None = None) -> Frame:
        return self._frames.pop(0)

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Holdings:
    """Three rounds with their records; the second state is the snapshot."""
    made = opened(tmp_path_factory.mktemp("source"))
    made.keep = State(snapshot_rounds=2)
    for _ in range(3):
        play(made)
    return made


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Holdings:
    """One round of them."""
    made = opened(tmp_path_factory.mktemp("late"))
    play(made)
    return made


def spots(name: str) -> list[random.Random]:
    return [random.Random(f"{name} {number}") for number in range(POSITIONS)]


def flipped(spot: random.Random) -> Change:
    def change(data: bytes) -> bytes:
        at, bit = spot.randrange(len(data)), spot.randrange(8)
        return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]

    return change


def cut(spot: random.Random) -> Change:
    return lambda data: data[: spot.randrange(len(data))]


def swapped(spot: random.Random) -> Change:
    """What comes first comes last."""

    def change(data: bytes) -> bytes:
        at = spot.randrange(1, len(data))
        return data[at:] + data[:at]

    return change


CHANGES = {"flipped": flipped, "cut": cut, "swapped": swapped}


def outcome(question: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """What came of it, or the reason of the refusal. Anything else that is raised is a finding."""

    async def asked() -> Any:
        try:
            return await question(*arguments)
        except RemoteError as error:
            reason = error.reason if error.peer == SERVERS[0].key else "somebody else is blamed"
        return reason

    got = asyncio.run(asked())
    assert not isinstance(got, str) or got in CLOSED, got
    return got


async def state_of(client: StateClient, trust: dict[str, Any]) -> Any:
    """What a joiner comes to believe: the branch, the ledger and the tree."""
    head, ledger = await client.head()
    branch = await fetch_branch(client, head, ledger, founders=KEYS, **trust)
    return branch, await client.tree(branch.head.value.digest, branch.ledger, NUMEL)


def anchors(source: Holdings) -> list[dict[str, Any]]:
    """Where trust may start: with the founders, with what we hold, with an invite."""
    certificate = source.certificates(1)[0]
    value = certificate.value
    invite = Anchor(number_of(certificate), value.digest, voters_hash(value.voters), 0)
    return [
        {"ours": None, "anchor": None},
        {"ours": certificate, "anchor": None},
        {"ours": None, "anchor": invite},
    ]


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("kind", [AskHead, AskChain])
def test_head_and_chain(kind: type[Request], how: str, source: Holdings) -> None:
    refusals = 0
    for number, spot in enumerate(spots(f"{kind.__name__} {how}")):
        trust = anchors(source)[number % 3]
        client = StateClient(Canned(source, kind, CHANGES[how](spot)))
        got = outcome(state_of, client, trust)
        if isinstance(got, str):
            refusals += 1
            continue
        branch, tree = got
        first = number_of(branch.start)
        assert [*source.certificates(first)] == [branch.start, *branch.chain]
        assert branch.ledger == source.ledger
        assert tree == source.tree
    # what stands beside the value in the head's certificate is not used, and so not looked at
    assert refusals >= 3 * POSITIONS // 5


@pytest.mark.parametrize("how", CHANGES)
def test_tree(how: str, source: Holdings) -> None:
    for spot in spots(f"tree {how}"):
        client = StateClient(Canned(source, AskTree, CHANGES[how](spot)))
        got = outcome(client.tree, source.digest, source.ledger, NUMEL)
        assert got == "wrong_hash"


@pytest.mark.parametrize("how", CHANGES)
def test_a_snapshot(how: str, source: Holdings) -> None:
    for spot in spots(f"snapshot {how}"):
        client = StateClient(Canned(source, AskSnapshot, CHANGES[how](spot)))
        got = outcome(client.snapshot)
        if not isinstance(got, str):
            assert isinstance(got[0], Certificate)
            assert isinstance(got[1], Ledger)


@pytest.mark.parametrize("how", CHANGES)
def test_chunks(how: str, source: Holdings, tmp_path: Path) -> None:
    staged = Generation.map(tmp_path / "staged", NUMEL)
    assembly = Assembly(staged, source.tree)
    pieces = list(assembly.pieces())

    async def one(client: StateClient, piece: Piece) -> None:
        await client.ask_chunk(source.digest, piece.vector, piece.index)
        data = await client.next_chunk(timeout_s=1)
        try:
            assembly.take(piece, data)
        except WrongChunk as error:
            raise RemoteError(client.peer, "wrong_hash") from error

    for number, spot in enumerate(spots(f"chunk {how}")):
        client = StateClient(Canned(source, AskChunk, CHANGES[how](spot)))
        piece = pieces[number % len(pieces)]
        assert outcome(one, client, piece) == "wrong_hash"
    assert len(assembly.missing) == len(pieces)
    assert not staged.theta.any()
    assert not staged.momentum.any()


@pytest.mark.parametrize("how", CHANGES)
def test_manifest_and_tokenizer(how: str, source: Holdings) -> None:
    for spot in spots(f"manifest {how}"):
        client = StateClient(Canned(source, AskManifest, CHANGES[how](spot)))
        got = outcome(client.manifest, SWARM)
        assert got in ("malformed", "foreign")
        client = StateClient(Canned(source, AskTokenizer, flipped(spot)))
        got = outcome(client.tokenizer, tokenizer_hash(TOKENIZER))
        assert got == "wrong_hash"


@pytest.mark.parametrize("how", CHANGES)
def test_records_and_their_list(how: str, source: Holdings, late: Holdings, tmp_path: Path) -> None:
    chain = tuple(source.certificates(2))
    steps, choice = plan(late, Branch(late.head, chain, source.ledger))
    assert choice.way == "replay"
    known = {step.value_hash: step.layout.num_bytes for step in steps}

    async def listed(client: StateClient) -> bool:
        return any(name in known and size != known[name] for name, size in (await client.records(1)).items())

    async def replayed(client: StateClient) -> None:
        staged = Generation.map(tmp_path / "staged", NUMEL)
        under_way = RoundInReplay(steps[0], late, staged, first=True, keep=None)
        while not under_way.complete:
            data = await client.record_piece(steps[0].value_hash, *under_way.wanted(1 << 20))
            _take(under_way, data, client.peer)

    before = late.digest
    for number, spot in enumerate(spots(f"records {how}")):
        client = StateClient(Canned(source, AskRecords, CHANGES[how](spot)))
        outcome(listed, client)
        if number % 5:  # pieces of half a megabyte
            continue
        client = StateClient(Canned(source, AskRecord, CHANGES[how](spot)))
        got = outcome(replayed, client)
        assert got in ("wrong_hash", "malformed", "wrong_index")
    assert late.store.compute_digest() == before


# -- anything at all ---------------------------------------------------------------------------------------


class Said(Channel):
    """Answers with these frames, whatever is asked."""

    def __init__(self, *frames: Frame) -> None:
        self.peer = SERVERS[0].key
        self.protocol = ""
        self.bytes_sent = self.bytes_received = 0
        self._frames = list(frames)

    async def send(self, header: bytes, payload: Buffer = b"", *, timeout_s: float) -> None:
        pass

    async def receive(self, *, timeout_s: float | None = None) -> Frame:
        if not self._frames:
            raise errors.ChannelClosed(self.peer, "ended")
        return self._frames.pop(0)

    async def close(self) -> None:
        pass


QUESTIONS: dict[str, Callable[[StateClient], Awaitable[Any]]] = {
    "manifest": lambda client: client.manifest(SWARM),
    "tokenizer": lambda client: client.tokenizer(tokenizer_hash(TOKENIZER)),
    "head": lambda client: client.head(),
    "snapshot": lambda client: client.snapshot(),
    "chain": lambda client: client.chain(0),
    "chunk": lambda client: client.next_chunk(timeout_s=1),
    "records": lambda client: client.records(0),
    "record": lambda client: client.record_piece(bytes(32), 0, 100),
}

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)

payloads = st.binary(max_size=300) | plain.map(msgspec.msgpack.encode)
headers = st.sampled_from([OK, msgspec.msgpack.encode(Answer("busy"))]) | st.binary(max_size=60)


@examples(100)
@given(name=st.sampled_from(sorted(QUESTIONS)), header=headers, payload=payloads)
def test_any_answer_is_taken_or_refused_by_name(name: str, header: bytes, payload: bytes) -> None:
    client = StateClient(Said(Frame(header, payload)))
    with contextlib.suppress(Gone, Busy):
        outcome(QUESTIONS[name], client)


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("size", [MAX_ANSWER_BYTES, CHUNK_BYTES + 1])
def test_more_than_fits_is_refused_before_it_is_parsed(name: str, size: int) -> None:
    client = StateClient(Said(Frame(OK, bytes(size))))
    got = outcome(QUESTIONS[name], client)
    if name == "tokenizer":  # one of several pieces, which are bounded in all
        assert got in ("ended", "wrong_hash")
    elif name == "chain":
        assert got == "malformed"
    else:
        assert got == "oversized"


@pytest.mark.parametrize("count", [257, 2**16, 2**32 - 1])
def test_a_batch_of_more_certificates_than_any_peer_sends(count: int) -> None:
    data = b"\xdd" + count.to_bytes(4, "big") + b"\xc4\x02ab" * min(count, 100_000)
    assert outcome(StateClient(Said(Frame(OK, data))).chain, 0) == "malformed"


def test_a_tokenizer_without_end() -> None:
    frames = [Frame(OK, bytes(MAX_ANSWER_BYTES))] * 100
    channel = Said(*frames)
    assert outcome(StateClient(channel).tokenizer, tokenizer_hash(TOKENIZER)) == "wrong_hash"
    assert len(channel._frames) > 80
