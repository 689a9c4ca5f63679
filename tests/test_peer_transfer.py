"""The server's side of state transfer: bounded answers to whatever is asked."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from record_rig import opened, play
from state_rig import MANIFEST, NUMEL, SERVERS, SWARM, TOKENIZER, World, advance, found, world

from talkoot.averaging.digest import CHUNK_BYTES, leaves, tensor_bytes
from talkoot.dht.errors import ChannelClosed
from talkoot.dht.network import Channel
from talkoot.peer import transfer
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.holdings import Holdings
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.transfer import (
    MAX_ANSWER_BYTES,
    MAX_RECORD_PIECE,
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
    state_protocol,
)

SPEC = state_protocol(SWARM)


@pytest.fixture(scope="module")
def holdings(tmp_path_factory: pytest.TempPathFactory) -> Holdings:
    made = found(tmp_path_factory.mktemp("source"))
    advance(made)
    return made


def run(source: Holdings | None, main: Callable[[World, Channel], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3600), world() as made:
            await made.serve(source)
            network = await made.newcomer()
            await main(made, await network.dial(SERVERS[0].key, SPEC, timeout_s=10))

    run_virtual(bounded())


async def ask(channel: Channel, request: Request) -> tuple[str, bytes]:
    await channel.send(msgspec.msgpack.encode(request), timeout_s=10)
    frame = await channel.receive(timeout_s=10)
    return msgspec.msgpack.decode(frame.header, type=Answer).status, bytes(frame.payload)


def test_what_is_there_is_given(holdings: Holdings) -> None:
    theta = bytes(tensor_bytes(holdings.store.theta))

    async def main(made: World, channel: Channel) -> None:
        digest = holdings.digest
        assert await ask(channel, AskManifest()) == ("ok", MANIFEST.canonical())
        assert await ask(channel, AskTokenizer(0)) == ("ok", TOKENIZER)
        assert await ask(channel, AskTokenizer(150)) == ("ok", TOKENIZER[150:])
        assert await ask(channel, AskTokenizer(len(TOKENIZER))) == ("ok", b"")
        for index in range(3):
            part = theta[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            assert await ask(channel, AskChunk(digest, "theta", index)) == ("ok", part)
        status, tree = await ask(channel, AskTree(digest))
        assert status == "ok"
        assert tree == b"".join(leaves(theta) + leaves(tensor_bytes(holdings.store.momentum)))
        assert len(theta) == 4 * NUMEL

    run(holdings, main)


NOT_THERE: list[tuple[Request, str]] = [
    (AskTokenizer(-1), "unknown"),
    (AskTokenizer(len(TOKENIZER) + 1), "unknown"),
    (AskTokenizer(2**62), "unknown"),
    (AskChain(-1), "unknown"),
    (AskTree(b"x" * 32), "gone"),
    (AskTree(b""), "gone"),
    (AskChunk(b"x" * 32, "theta", 0), "gone"),
]


def test_what_is_not_there_is_not_given(holdings: Holdings) -> None:
    async def main(made: World, channel: Channel) -> None:
        for request, status in NOT_THERE:
            assert await ask(channel, request) == (status, b"")
        for index in (-1, 3, 2**62):
            assert await ask(channel, AskChunk(holdings.digest, "momentum", index)) == ("unknown", b"")
        for first in (2, 2**63):
            assert await ask(channel, AskChain(first)) == ("ok", msgspec.msgpack.encode([]))

    run(holdings, main)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Holdings:
    """With records of two rounds."""
    made = opened(tmp_path_factory.mktemp("recorded"))
    play(made)
    play(made)
    return made


def test_records_are_listed_and_given_in_pieces(recorded: Holdings) -> None:
    assert recorded.records is not None
    first, second = recorded.records.records
    data = recorded.records.read(first.value_hash, 0, first.num_bytes)
    assert data is not None

    async def main(made: World, channel: Channel) -> None:
        listed = [[kept.value_hash, kept.num_bytes] for kept in (first, second)]
        for number, expected in ((-1, listed), (0, listed), (1, listed[1:]), (2, []), (2**62, [])):
            answer = await ask(channel, AskRecords(number))
            assert answer == ("ok", msgspec.msgpack.encode(expected))
        name, size = first.value_hash, first.num_bytes
        assert await ask(channel, AskRecord(name, 10, 1000)) == ("ok", data[10:1010])
        assert await ask(channel, AskRecord(name, size - 5, 100)) == ("ok", data[-5:])
        assert await ask(channel, AskRecord(name, 0, MAX_RECORD_PIECE)) == ("ok", data)
        for offset, length in ((-1, 10), (size, 1), (2**62, 1), (0, 0), (0, -1), (0, MAX_RECORD_PIECE + 1)):
            assert await ask(channel, AskRecord(name, offset, length)) == ("unknown", b"")
        for other in (b"", b"x" * 32, recorded.digest):
            assert await ask(channel, AskRecord(other, 0, 10)) == ("gone", b"")

    run(recorded, main)


def test_a_list_of_records_is_bounded(recorded: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_RECORDS_LISTED", 1)

    async def main(made: World, channel: Channel) -> None:
        _, data = await ask(channel, AskRecords(0))
        assert len(msgspec.msgpack.decode(data)) == 1

    run(recorded, main)


def test_a_record_that_is_removed_or_cannot_be_read_is_gone(
    recorded: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recorded.records is not None
    request = AskRecord(recorded.records.records[0].value_hash, 0, 10)

    async def main(made: World, channel: Channel) -> None:
        for error in (OSError("Too many open files"), PermissionError("not yours")):
            monkeypatch.setattr(recorded.records, "read", refusing(error))
            assert await ask(channel, request) == ("gone", b"")

    run(recorded, main)


def test_without_a_log_there_are_no_records(holdings: Holdings) -> None:
    async def main(made: World, channel: Channel) -> None:
        assert await ask(channel, AskRecords(0)) == ("gone", b"")
        assert await ask(channel, AskRecord(bytes(32), 0, 1)) == ("gone", b"")

    run(holdings, main)


def test_without_state_there_is_only_the_manifest() -> None:
    async def main(made: World, channel: Channel) -> None:
        state = (AskHead(), AskChain(0), AskTree(bytes(32)), AskChunk(bytes(32), "theta", 0))
        for request in (*state, AskRecords(0), AskRecord(bytes(32), 0, 1)):
            assert await ask(channel, request) == ("gone", b"")
        assert await ask(channel, AskManifest()) == ("ok", MANIFEST.canonical())

    run(None, main)


BAD = [
    b"",
    b"\xc1",
    msgspec.msgpack.encode({"ask": "passwords"}),
    msgspec.msgpack.encode({"ask": "chain"}),
    msgspec.msgpack.encode({"ask": "chain", "first": "0"}),
    msgspec.msgpack.encode({"ask": "chain", "first": 0, "more": 1}),
    msgspec.msgpack.encode({"ask": "chunk", "digest": bytes(32), "vector": "ledger", "index": 0}),
    msgspec.msgpack.encode({"ask": "record", "value": bytes(32), "offset": 0}),
    msgspec.msgpack.encode({"ask": "record", "value": bytes(32), "offset": 0.5, "length": 1}),
    msgspec.msgpack.encode({"ask": "records", "first": None}),
    msgspec.msgpack.encode({"ask": "manifest"}).replace(b"manifest", b"\xff" * 8),
    b"\x81" * 4000,
]


@pytest.mark.parametrize("request_bytes", BAD)
def test_other_requests_end_the_channel_and_are_counted(request_bytes: bytes) -> None:
    async def main(made: World, channel: Channel) -> None:
        await channel.send(request_bytes, timeout_s=10)
        with pytest.raises(ChannelClosed) as caught:
            await channel.receive(timeout_s=10)
        assert caught.value.reason == "ended"
        server = made.hub._nodes[SERVERS[0].key]
        assert dict(server.events.rejected) == {"malformed": 1}
        again = await made.hub._nodes[channel_owner(made)].dial(SERVERS[0].key, SPEC, timeout_s=10)
        assert (await ask(again, AskManifest()))[0] == "ok"

    run(None, main)


def channel_owner(made: World) -> bytes:
    return next(key for key in made.hub._nodes if key != SERVERS[0].key)


@examples(40)
@given(st.binary(max_size=100))
def test_garbage_never_ends_the_server(data: bytes) -> None:
    async def main(made: World, channel: Channel) -> None:
        await channel.send(data, timeout_s=10)
        with pytest.raises(ChannelClosed):
            await channel.receive(timeout_s=10)
        assert dict(made.hub._nodes[SERVERS[0].key].events.rejected) == {"malformed": 1}

    run(None, main)


def test_so_many_channels_and_no_more() -> None:
    async def main(made: World, channel: Channel) -> None:
        network = made.hub._nodes[channel_owner(made)]
        second = await network.dial(SERVERS[0].key, SPEC, timeout_s=10)
        third = await network.dial(SERVERS[0].key, SPEC, timeout_s=10)
        assert (await ask(second, AskManifest()))[0] == "ok"
        with pytest.raises(ChannelClosed):
            await ask(third, AskManifest())
        assert made.hub._nodes[SERVERS[0].key].events.rejected["busy"] == 1

    run(None, main)


def test_a_silent_client_is_let_go() -> None:
    async def main(made: World, channel: Channel) -> None:
        with pytest.raises(ChannelClosed):
            await channel.receive(timeout_s=600)
        assert dict(made.hub._nodes[SERVERS[0].key].events.rejected) == {"timeout": 1}

    run(None, main)


# -- whoever asks whatever ---------------------------------------------------------------------------------

numbers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**32, 2**62])
names = st.binary(max_size=40) | st.just(b"known")

requests = st.one_of(
    st.just(AskHead()),
    st.just(AskSnapshot()),
    st.just(AskManifest()),
    st.builds(AskTokenizer, numbers),
    st.builds(AskChain, numbers),
    st.builds(AskTree, names),
    st.builds(AskChunk, names, st.sampled_from(["theta", "momentum"]), numbers),
    st.builds(AskRecords, numbers),
    st.builds(AskRecord, names, numbers, numbers),
)


@examples(60)
@given(asked=st.lists(requests, min_size=1, max_size=20))
def test_any_request_is_answered_within_bounds(recorded: Holdings, asked: list[Request]) -> None:
    assert recorded.records is not None
    known: dict[type, bytes] = {AskRecord: recorded.records.records[0].value_hash}

    async def main(made: World, channel: Channel) -> None:
        for request in asked:
            if b"known" in (getattr(request, "digest", b""), getattr(request, "value", b"")):
                field = "value" if isinstance(request, AskRecord) else "digest"
                name = known.get(type(request), recorded.digest)
                request = msgspec.structs.replace(request, **{field: name})
            status, payload = await ask(channel, request)
            assert status in ("ok", "gone", "unknown")
            assert len(payload) <= (CHUNK_BYTES if isinstance(request, AskChunk) else MAX_ANSWER_BYTES)
            assert status == "ok" or payload == b""
        assert made.hub._nodes[SERVERS[0].key].events.rejected.total() == 0

    run(recorded, main)


def test_ten_thousand_requests_in_a_row(recorded: Holdings) -> None:
    """A channel's requests are answered one after the other, whatever they are, and others are served too."""
    digest = recorded.digest
    asked: list[Request] = [
        AskHead(),
        AskChain(-5),
        AskChunk(digest, "theta", 2**40),
        AskRecord(bytes(32), -1, 2**40),
        AskTokenizer(-1),
        AskTree(b"?" * 32),
        AskRecords(2**40),
    ]

    async def main(made: World, channel: Channel) -> None:
        other = await made.hub._nodes[channel_owner(made)].dial(SERVERS[0].key, SPEC, timeout_s=10)
        for number in range(10_000):
            status, _ = await ask(channel, asked[number % len(asked)])
            assert status in ("ok", "gone", "unknown")
            if number % 500 == 0:  # often enough that it is not taken for idle
                assert (await ask(other, AskManifest()))[0] == "ok"
        server = made.servers[0]
        assert server.gate.waiting == 0
        assert made.hub._nodes[SERVERS[0].key].events.rejected.total() == 0

    run(recorded, main)


def test_who_asks_ahead_without_reading_holds_up_nobody_but_itself(recorded: Holdings) -> None:
    async def main(made: World, channel: Channel) -> None:
        request = msgspec.msgpack.encode(AskChunk(recorded.digest, "theta", 0))

        async def asking() -> None:
            for _ in range(10_000):
                await channel.send(request, timeout_s=1)

        with pytest.raises((TimeoutError, ChannelClosed)):
            await asking()
        other = await made.hub._nodes[channel_owner(made)].dial(SERVERS[0].key, SPEC, timeout_s=10)
        assert (await ask(other, AskManifest()))[0] == "ok"
        assert (await ask(other, AskHead()))[0] == "ok"

    run(recorded, main)


def test_a_log_that_cannot_be_read_ends_nothing(holdings: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that rots, or a branch that is replaced while somebody asks for the old one."""

    async def main(made: World, channel: Channel) -> None:
        for error in (
            LogCorruptError("the record of round 1 is damaged"),
            OSError(24, "Too many open files"),
        ):
            monkeypatch.setattr(holdings.log, "read_range", refusing(error))
            assert await ask(channel, AskChain(0)) == ("gone", b"")
        monkeypatch.undo()
        assert (await ask(channel, AskChain(0)))[0] == "ok"

    run(holdings, main)


def refusing(error: Exception) -> Callable[..., bytes]:
    def read(*_: object, **__: object) -> bytes:
        raise error

    return read
