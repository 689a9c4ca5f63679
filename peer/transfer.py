"""Handing state to other peers: manifest, certificates, ledger, tree, chunks and records, on request.

One request, one answer, over a channel of its own; several may follow each other. Requests are small and
strictly typed, answers are bounded, and whoever asks verifies everything against a digest that a
certificate signed.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

import msgspec
import torch

from talkoot.averaging.certificate import (
    MAX_CERTIFICATE_BYTES,
    Certificate,
    decode_certificate,
)
from talkoot.averaging.digest import CHUNK_BYTES, HASH_BYTES, StateTree, leaf, tensor_bytes
from talkoot.averaging.ledger import MAX_LEDGER_BYTES, Ledger, decode_ledger
from talkoot.dht.errors import RemoteError
from talkoot.dht.network import Channel, Network, ProtocolSpec
from talkoot.peer.holdings import Holdings
from talkoot.peer.manifest import MAX_MANIFEST_BYTES, Manifest, from_canonical
from talkoot.peer.roundlog import RoundLog
from talkoot.peer.trainer.tokenizer import MAX_TOKENIZER_BYTES, tokenizer_hash

log = logging.getLogger("talkoot.sync")

MAX_ANSWER_BYTES = 8 << 20
"""Longest payload of an answer: a batch of certificates, or the leaves of a terabyte of state."""

MAX_RECORD_PIECE = 4 << 20
"""Longest piece of a round's record in one answer."""

MAX_RECORDS_LISTED = 1024
"""Most records that one answer names."""

_LISTED_BYTES = 64
"""What naming one record takes at most."""

ANSWER_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 120.0
DIAL_TIMEOUT_S = 10.0

Vector = Literal["theta", "momentum"]


def state_protocol(swarm: bytes) -> ProtocolSpec:
    """The protocol of one swarm."""
    return ProtocolSpec(
        name=f"talkoot/{swarm.hex()[:16]}/state/1",
        max_header=4096,
        max_payload=MAX_ANSWER_BYTES,
        max_channels_per_peer=2,
    )


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="ask"):
    pass


class AskManifest(_Request, frozen=True, tag="manifest"):
    """The canonical manifest."""


class AskTokenizer(_Request, frozen=True, tag="tokenizer"):
    """One piece of the tokenizer.json that the manifest names by its hash."""

    offset: int


class AskHead(_Request, frozen=True, tag="head"):
    """Certificate and ledger of the outer state that can be fetched now."""


class AskChain(_Request, frozen=True, tag="chain"):
    """Certificates from log number `first` on."""

    first: int


class AskTree(_Request, frozen=True, tag="tree"):
    """Leaf hashes of both vectors of the state with this digest."""

    digest: bytes


class AskChunk(_Request, frozen=True, tag="chunk"):
    """One chunk of the state with this digest: the outer one, or a result that its round is to certify."""

    digest: bytes
    vector: Vector
    index: int


class AskRecords(_Request, frozen=True, tag="records"):
    """Names and lengths of the records of round `first` and later rounds."""

    first: int


class AskRecord(_Request, frozen=True, tag="record"):
    """A piece of the record that belongs to the certified value with this hash."""

    value: bytes
    offset: int
    length: int


Request = AskManifest | AskTokenizer | AskHead | AskChain | AskTree | AskChunk | AskRecords | AskRecord

_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Header of an answer; the payload holds the content."""

    status: Literal["ok", "gone", "unknown"]
    """gone: that state is no longer here (a round was committed meanwhile)."""


class _Listed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    value: bytes
    num_bytes: int


class _HeadPayload(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    certificate: bytes
    ledger: bytes


class StateServer:
    """Answers requests of other peers from our holdings."""

    def __init__(
        self,
        network: Network,
        swarm: bytes,
        *,
        manifest: Callable[[], bytes | None],
        tokenizer: Callable[[], bytes | None],
        holdings: Callable[[], Holdings | None],
        send_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        """Each returns None while we have none ourselves."""
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._holdings = holdings
        self._timeout_s = send_timeout_s
        network.serve(state_protocol(swarm), self._serve)

    async def _serve(self, channel: Channel) -> None:
        while True:
            frame = await channel.receive(timeout_s=IDLE_TIMEOUT_S)
            try:
                request = _decoder.decode(frame.header)
            except (ValueError, RecursionError) as error:
                raise RemoteError(channel.peer, "malformed", str(error)) from error
            if isinstance(request, AskRecord):  # the only one that reads the disk itself
                status, payload = await asyncio.to_thread(self._answer, request)
            else:
                status, payload = self._answer(request)
            header = msgspec.msgpack.encode(Answer(status))
            await channel.send(header, payload, timeout_s=self._timeout_s)

    def _answer(self, request: Request) -> tuple[Literal["ok", "gone", "unknown"], bytes | memoryview]:
        holdings = self._holdings()
        if isinstance(request, AskManifest):
            manifest = self._manifest()
            return ("ok", manifest) if manifest is not None else ("gone", b"")
        if isinstance(request, AskTokenizer):
            data = self._tokenizer()
            if data is None or not 0 <= request.offset <= len(data):
                return "unknown", b""
            return "ok", data[request.offset : request.offset + MAX_ANSWER_BYTES]
        if holdings is None:
            return "gone", b""
        match request:
            case AskHead():
                head = _HeadPayload(holdings.head.encode(), holdings.ledger.encode())
                return "ok", msgspec.msgpack.encode(head)
            case AskChain(first=first):
                if first < 0:
                    return "unknown", b""
                chain = [certificate.encode() for certificate in holdings.certificates(first)]
                return "ok", msgspec.msgpack.encode(chain)
            case AskTree(digest=digest) if (state := holdings.state(digest)) is not None:
                tree = state[0]
                return "ok", b"".join((*tree.theta, *tree.momentum))
            case AskChunk(digest=digest, vector=vector, index=index) if (
                state := holdings.state(digest)
            ) is not None:
                _, theta, momentum = state
                return _chunk(theta if vector == "theta" else momentum, index)
            case AskRecords(first=first) if holdings.records is not None:
                found = [kept for kept in holdings.records.records if kept.round >= first]
                listed = [_Listed(kept.value_hash, kept.num_bytes) for kept in found[:MAX_RECORDS_LISTED]]
                return "ok", msgspec.msgpack.encode(listed)
            case AskRecord() if holdings.records is not None:
                return _record_piece(holdings.records, request)
        return "gone", b""


def _chunk(vector: torch.Tensor, index: int) -> tuple[Literal["ok", "unknown"], bytes | memoryview]:
    data = tensor_bytes(vector)
    if not 0 <= index * CHUNK_BYTES < len(data):
        return "unknown", b""
    # A copy: the file may be overwritten by the round after next while this is on its way.
    return "ok", bytes(data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])


def _record_piece(records: RoundLog, request: AskRecord) -> tuple[Literal["ok", "gone", "unknown"], bytes]:
    kept = records.find(request.value)
    if kept is not None and not (
        0 <= request.offset < kept.num_bytes and 0 < request.length <= MAX_RECORD_PIECE
    ):
        return "unknown", b""
    try:
        data = records.read(request.value, request.offset, request.length)
    except OSError as error:
        log.warning("a record of the round log cannot be read: %s", error)
        data = None
    return ("ok", data) if data is not None else ("gone", b"")


class Gone(Exception):  # noqa: N818 - reads well where it is caught
    """The peer has moved on to another state: ask for its head again."""


class StateClient:
    """Asks one peer. Every answer is verified; RemoteError says what was wrong with it."""

    def __init__(self, channel: Channel) -> None:
        """Use `connect`."""
        self._channel = channel
        self.peer = channel.peer

    @classmethod
    async def connect(cls, network: Network, peer: bytes, swarm: bytes) -> "StateClient":
        """Open a channel. Raises RemoteError, TimeoutError."""
        return cls(await network.dial(peer, state_protocol(swarm), timeout_s=DIAL_TIMEOUT_S))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def _ask(self, request: Request, max_bytes: int) -> bytes | memoryview:
        await self._channel.send(msgspec.msgpack.encode(request), timeout_s=ANSWER_TIMEOUT_S)
        frame = await self._channel.receive(timeout_s=ANSWER_TIMEOUT_S)
        try:
            answer = msgspec.msgpack.decode(frame.header, type=Answer)
        except (ValueError, RecursionError) as error:
            raise RemoteError(self.peer, "malformed", str(error)) from error
        if answer.status == "gone":
            raise Gone
        if answer.status != "ok" or len(frame.payload) > max_bytes:
            raise RemoteError(self.peer, "refused", f"answer {answer.status}, {len(frame.payload)} bytes")
        return frame.payload

    async def manifest(self, swarm: bytes) -> Manifest:
        """The manifest of this swarm: its hash is the swarm id."""
        data = bytes(await self._ask(AskManifest(), MAX_MANIFEST_BYTES))
        try:
            manifest = from_canonical(data)
        except ValueError as error:
            raise RemoteError(self.peer, "malformed", f"manifest: {error}") from error
        if manifest.swarm_id != swarm or not manifest.sealed:
            raise RemoteError(self.peer, "foreign", "the manifest of another swarm")
        return manifest

    async def tokenizer(self, expected_hash: str) -> bytes:
        """The tokenizer file with this hash."""
        data = bytearray()
        while len(data) <= MAX_TOKENIZER_BYTES:
            piece = await self._ask(AskTokenizer(len(data)), MAX_ANSWER_BYTES)
            data += piece
            if len(piece) < MAX_ANSWER_BYTES:
                break
        if tokenizer_hash(bytes(data)) != expected_hash:
            raise RemoteError(self.peer, "wrong_hash", "not the swarm's tokenizer")
        return bytes(data)

    async def head(self) -> tuple[Certificate, Ledger]:
        """Certificate and ledger of the state that can be fetched; the ledger is *not* yet verified."""
        limit = MAX_CERTIFICATE_BYTES + MAX_LEDGER_BYTES
        data = await self._ask(AskHead(), limit)
        try:
            payload = msgspec.msgpack.decode(data, type=_HeadPayload)
            return decode_certificate(payload.certificate), decode_ledger(payload.ledger)
        except (ValueError, RecursionError) as error:
            raise RemoteError(self.peer, "malformed", f"head: {error}") from error

    async def chain(self, first: int) -> list[Certificate]:
        """A batch of certificates from log number `first` on; signatures are the caller's to check."""
        data = await self._ask(AskChain(first), MAX_ANSWER_BYTES)
        try:
            items = msgspec.msgpack.decode(data, type=list[bytes])
            return [decode_certificate(item) for item in items]
        except (ValueError, RecursionError) as error:
            raise RemoteError(self.peer, "malformed", f"chain: {error}") from error

    async def tree(self, digest: bytes, ledger: Ledger, numel: int) -> StateTree:
        """Leaf hashes of the state with this digest, verified together with the ledger."""
        count = -(-4 * numel // CHUNK_BYTES)
        data = bytes(await self._ask(AskTree(digest), 2 * count * HASH_BYTES))
        hashes = [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
        tree = StateTree(theta=tuple(hashes[:count]), momentum=tuple(hashes[count:]), ledger=ledger.hash)
        if len(hashes) != 2 * count or tree.digest != digest:
            raise RemoteError(self.peer, "wrong_hash", "tree and ledger do not have the certified digest")
        return tree

    async def chunk(self, digest: bytes, vector: Vector, index: int, expected: bytes) -> bytes | memoryview:
        """One chunk of the state, verified against its leaf hash."""
        data = await self._ask(AskChunk(digest, vector, index), CHUNK_BYTES)
        if await asyncio.to_thread(leaf, data) != expected:
            raise RemoteError(self.peer, "wrong_hash", f"chunk {index} of {vector}")
        return data

    async def records(self, first: int) -> dict[bytes, int]:
        """Lengths of the records of round `first` and later rounds, by the hash of their value."""
        try:
            data = await self._ask(AskRecords(first), MAX_RECORDS_LISTED * _LISTED_BYTES)
            listed = msgspec.msgpack.decode(data, type=list[_Listed])
        except Gone:
            return {}
        except (ValueError, RecursionError) as error:
            raise RemoteError(self.peer, "malformed", f"records: {error}") from error
        return {item.value: item.num_bytes for item in listed}

    async def record_piece(self, value: bytes, offset: int, length: int) -> bytes | memoryview:
        """A piece of a record, of this length; what is in it is the caller's to check."""
        data = await self._ask(AskRecord(value, offset, length), length)
        if len(data) != length:
            raise RemoteError(self.peer, "malformed", f"{len(data)} of {length} bytes of a record")
        return data
