"""Handing state to other peers: manifest, certificates, ledger, tree, chunks and records, on request.

One answer to each request, in order, over a channel of its own; requests may be sent ahead. They are small
and strictly typed, answers are bounded, and whoever asks verifies everything against a digest that a
certificate signed.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from talkoot.averaging.certificate import (
    MAX_CERTIFICATE_BYTES,
    Certificate,
    decode_certificate,
)
from talkoot.averaging.digest import CHUNK_BYTES, HASH_BYTES, StateTree
from talkoot.averaging.ledger import MAX_LEDGER_BYTES, Ledger, decode_ledger
from talkoot.dht import limits
from talkoot.dht.errors import RemoteError
from talkoot.dht.framing import PREFIX_BYTES
from talkoot.dht.meter import Flow, Rate
from talkoot.dht.network import Channel, Network, ProtocolSpec
from talkoot.peer import clock
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.disk import fault_of
from talkoot.peer.holdings import MAX_BATCH, Holdings
from talkoot.peer.manifest import MAX_MANIFEST_BYTES, Manifest, from_canonical
from talkoot.peer.roundlog import RoundLog
from talkoot.peer.served import Served, copy_chunk
from talkoot.peer.serving import Gate
from talkoot.peer.trainer.tokenizer import MAX_TOKENIZER_BYTES, tokenizer_hash

log = logging.getLogger("talkoot.sync")

MAX_ANSWER_BYTES = 8 << 20
"""Longest payload of an answer: a batch of certificates, or the leaves of a terabyte of state."""

MAX_RECORD_PIECE = 1 << 20
"""Longest piece of a round's record in one answer."""

MAX_RECORDS_LISTED = 1024
"""Most records that one answer names."""

_LISTED_BYTES = 64
"""What naming one record takes at most."""

ANSWER_TIMEOUT_S = 30.0
"""Longest wait while nothing comes,"""

PIECE_TIMEOUT_S = 60.0
"""and for a piece of a record, which may have to wait for its turn and for bandwidth."""

SLOWEST = 32e3
"""Bytes a second, half of the lowest limit: an answer of which something comes may take longer than that by
the time that its bytes need at this rate."""

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
        max_request=0,
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


class AskSnapshot(_Request, frozen=True, tag="snapshot"):
    """Certificate and ledger of the outer state that is kept for a while, so that it can be fetched whole."""


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


Request = (
    AskManifest
    | AskTokenizer
    | AskHead
    | AskSnapshot
    | AskChain
    | AskTree
    | AskChunk
    | AskRecords
    | AskRecord
)

_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)


Status = Literal["ok", "gone", "unknown", "busy"]

Answered = tuple[Status, bytes | memoryview]


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Header of an answer; the payload holds the content."""

    status: Status
    """gone: that state is no longer here (a round was committed meanwhile). busy: too many ask at present."""


class _Listed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    value: bytes
    num_bytes: int


_Batch = Annotated[list[bytes], msgspec.Meta(max_length=MAX_BATCH)]
"""Encoded certificates."""


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
        gate: Gate | None = None,
    ) -> None:
        """Each returns None while we have none ourselves. Chunks leave through the gate."""
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._holdings = holdings
        self.gate = gate or Gate()
        self._pieces = Flow(Rate(limits.REQUESTS_PER_S, limits.REQUESTS_BURST))
        self._lists = Flow(Rate(limits.LISTS_PER_S, limits.LISTS_BURST))
        network.serve(state_protocol(swarm), self._serve)

    async def _serve(self, channel: Channel) -> None:
        while True:
            frame = await channel.receive(timeout_s=IDLE_TIMEOUT_S)
            try:
                request = _decoder.decode(frame.header)
            except (ValueError, RecursionError) as error:
                raise RemoteError(channel.peer, "malformed", str(error)) from error
            await self._wait_for_turn(channel.peer, request)
            if isinstance(request, AskChunk | AskRecord):
                await self._serve_chunk(channel, request)
            elif isinstance(request, AskSnapshot):  # may have to be hashed first
                await self._send(channel, await asyncio.to_thread(self._try, request))
            else:
                await self._send(channel, self._try(request))

    async def _wait_for_turn(self, peer: bytes, request: Request) -> None:
        """Hold a peer to its rate; what it asks beyond it is answered later."""
        flow = self._pieces if isinstance(request, AskChunk | AskRecord) else self._lists
        wait_s = flow.wait_s(peer, 1, clock.now())
        if wait_s > 0:
            self.gate.refused["later"] += 1
            await asyncio.sleep(wait_s)

    async def _serve_chunk(self, channel: Channel, request: AskChunk | AskRecord) -> None:
        """A chunk or a piece of a record waits for its turn, and for the bandwidth that is left to it."""
        async with self.gate.turn(channel.peer) as admitted:
            if not admitted:
                await self._send(channel, ("busy", b""))
                return
            holdings = self._holdings()
            if holdings is not None and isinstance(request, AskChunk):
                holdings.snapshot_asked_for(request.digest)
            answered = await asyncio.to_thread(self._try, request)
            self.gate.answered(answered[0])
            await self.gate.pace(len(answered[1]))
            await self._send(channel, answered)

    async def _send(self, channel: Channel, answered: Answered) -> None:
        status, payload = answered
        timeout_s = ANSWER_TIMEOUT_S + len(payload) / SLOWEST
        await channel.send(msgspec.msgpack.encode(Answer(status)), payload, timeout_s=timeout_s)

    def _try(self, request: Request) -> Answered:
        """What our disk does not give us we do not have. A certificate may also be replaced meanwhile."""
        try:
            return self._answer(request)
        except (OSError, LogCorruptError) as error:
            level = logging.WARNING if fault_of(error) is None else logging.DEBUG
            log.log(level, "cannot be given to another peer: %s", error)
            return "gone", b""

    def _answer(self, request: Request) -> Answered:
        """May block on the disk, where a request for a chunk or a snapshot is answered."""
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
                return "ok", _head_payload(holdings.head, holdings.ledger)
            case AskSnapshot() if (kept := holdings.snapshot()) is not None:
                return "ok", _head_payload(*kept)
            case AskChain(first=first):
                if first < 0:
                    return "unknown", b""
                chain = [certificate.encode() for certificate in holdings.certificates(first)]
                return "ok", msgspec.msgpack.encode(chain)
            case AskTree(digest=digest) if (served := holdings.state(digest)) is not None:
                return "ok", served.leaves()
            case AskChunk(digest=digest) if (served := holdings.state(digest)) is not None:
                return _chunk(holdings, served, request)
            case AskRecords(first=first) if holdings.records is not None:
                found = [kept for kept in holdings.records.records if kept.round >= first]
                listed = [_Listed(kept.value_hash, kept.num_bytes) for kept in found[:MAX_RECORDS_LISTED]]
                return "ok", msgspec.msgpack.encode(listed)
            case AskRecord() if holdings.records is not None:
                return _record_piece(holdings.records, request)
        return "gone", b""


def _head_payload(certificate: Certificate, ledger: Ledger) -> bytes:
    return msgspec.msgpack.encode(_HeadPayload(certificate.encode(), ledger.encode()))


def _chunk(holdings: Holdings, served: Served, request: AskChunk) -> Answered:
    data = copy_chunk(served.theta if request.vector == "theta" else served.momentum, request.index)
    if data is None:
        return "unknown", b""
    if holdings.state(request.digest) is not served:
        return "gone", b""  # overwritten while it was copied: the bytes may be of two states
    return "ok", data


def _record_piece(records: RoundLog, request: AskRecord) -> Answered:
    kept = records.find(request.value)
    if kept is not None and not (
        0 <= request.offset < kept.num_bytes and 0 < request.length <= MAX_RECORD_PIECE
    ):
        return "unknown", b""
    data = records.read(request.value, request.offset, request.length)
    return ("ok", data) if data is not None else ("gone", b"")


class Gone(Exception):  # noqa: N818 - reads well where it is caught
    """The peer has moved on to another state: ask for its head again."""


class Busy(Exception):  # noqa: N818 - reads well where it is caught
    """The peer has too much to do at present: ask again in a while."""


class StateClient:
    """Asks one peer. Every answer is verified; RemoteError says what was wrong with it."""

    def __init__(self, channel: Channel) -> None:
        """Use `connect`."""
        self._channel = channel
        self.peer = channel.peer
        self._taken = channel.bytes_received

    @classmethod
    async def connect(cls, network: Network, peer: bytes, swarm: bytes) -> "StateClient":
        """Open a channel. Raises RemoteError, TimeoutError."""
        return cls(await network.dial(peer, state_protocol(swarm), timeout_s=DIAL_TIMEOUT_S))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def _ask(self, request: Request, max_bytes: int) -> bytes | memoryview:
        await self._channel.send(msgspec.msgpack.encode(request), timeout_s=ANSWER_TIMEOUT_S)
        return await self._patient_answer(max_bytes, ANSWER_TIMEOUT_S)

    async def _patient_answer(self, max_bytes: int, timeout_s: float) -> bytes | memoryview:
        """The next answer: it may be silent for so long, and takes longer while its bytes come."""
        give_up_s = clock.now() + timeout_s + max_bytes / SLOWEST
        while True:
            before = self.bytes_arrived
            try:
                return await self._answer(max_bytes, timeout_s)
            except TimeoutError:
                if self.bytes_arrived == before or clock.now() >= give_up_s:
                    raise TimeoutError(f"no whole answer within {timeout_s:.0f} s") from None

    async def _answer(self, max_bytes: int, timeout_s: float) -> bytes | memoryview:
        frame = await self._channel.receive(timeout_s=timeout_s)
        self._taken += PREFIX_BYTES + len(frame.header) + len(frame.payload)
        try:
            answer = msgspec.msgpack.decode(frame.header, type=Answer)
        except (ValueError, RecursionError) as error:
            raise RemoteError(self.peer, "malformed", str(error)) from error
        if answer.status == "gone":
            raise Gone
        if answer.status == "busy":
            raise Busy
        if answer.status != "ok":
            raise RemoteError(self.peer, "refused", f"answer {answer.status}")
        if len(frame.payload) > max_bytes:
            raise RemoteError(self.peer, "oversized", f"{len(frame.payload)} bytes, at most {max_bytes} fit")
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
        return await self._state_of(AskHead())

    async def snapshot(self) -> tuple[Certificate, Ledger] | None:
        """The same of the state that the peer keeps for a while; None if it keeps none."""
        try:
            return await self._state_of(AskSnapshot())
        except Gone:
            return None

    async def _state_of(self, request: AskHead | AskSnapshot) -> tuple[Certificate, Ledger]:
        data = await self._ask(request, MAX_CERTIFICATE_BYTES + MAX_LEDGER_BYTES)
        try:
            payload = msgspec.msgpack.decode(data, type=_HeadPayload)
            return decode_certificate(payload.certificate), decode_ledger(payload.ledger)
        except (ValueError, RecursionError) as error:
            raise RemoteError(self.peer, "malformed", f"head: {error}") from error

    async def chain(self, first: int) -> list[Certificate]:
        """A batch of certificates from log number `first` on; signatures are the caller's to check."""
        data = await self._ask(AskChain(first), MAX_ANSWER_BYTES)
        try:
            items = msgspec.msgpack.decode(data, type=_Batch)
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

    async def ask_chunk(self, digest: bytes, vector: Vector, index: int) -> None:
        """Ask for one chunk of a state; `next_chunk` brings the answers in the same order.

        Nothing else may be asked before the last of them. Raises RemoteError, TimeoutError.
        """
        request = msgspec.msgpack.encode(AskChunk(digest, vector, index))
        await self._channel.send(request, timeout_s=ANSWER_TIMEOUT_S)

    async def next_chunk(self, *, timeout_s: float) -> bytes | memoryview:
        """The answer to the oldest request for a chunk, not verified.

        Raises Gone or Busy, which answer one request. After RemoteError close the channel; after TimeoutError
        nothing is lost.
        """
        return await self._answer(CHUNK_BYTES, timeout_s)

    @property
    def bytes_arrived(self) -> int:
        """All that has come, with what there is of an answer that is not whole yet."""
        return self._channel.bytes_arrived

    @property
    def bytes_waiting(self) -> int:
        """What of it belongs to answers that were not taken yet."""
        return self._channel.bytes_arrived - self._taken

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
        request = msgspec.msgpack.encode(AskRecord(value, offset, length))
        await self._channel.send(request, timeout_s=ANSWER_TIMEOUT_S)
        data = await self._patient_answer(length, PIECE_TIMEOUT_S)
        if len(data) != length:
            raise RemoteError(self.peer, "malformed", f"{len(data)} of {length} bytes of a record")
        return data
