"""Parsers of what other peers send, to be tried."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
from fuzz_target import Examine, Target, of
from samples import samples, written
from state_rig import FOUNDERS, MANIFEST, RULES, SWARM

from talkoot.averaging import proof, wire
from talkoot.averaging.certificate import Certificate, CertificateError, Contribution, decode_certificate
from talkoot.averaging.contribution import ENTRY_BYTES, decode_index
from talkoot.averaging.inquiry import ProofError
from talkoot.averaging.ledger import Ledger, LedgerError, decode_ledger
from talkoot.averaging.messages import BulkHeader, Message, MessageError
from talkoot.dht import framing, records
from talkoot.dht.entries import pack_envelope, unpack_envelope
from talkoot.dht.errors import ChannelClosed, RemoteError
from talkoot.dht.framing import FrameDecoder
from talkoot.dht.identity import multihash_of
from talkoot.dht.network import Frame
from talkoot.dht.outside import kademlia
from talkoot.dht.outside.wire import bytes_field, double_field, number_field
from talkoot.dht.relay.yamux import Session
from talkoot.peer import (
    admission,
    manifest,
    transfer,
)
from talkoot.peer.audits import protocol
from talkoot.peer.exploring import title
from talkoot.peer.observing import protocol as metrics_protocol
from talkoot.peer.observing import report
from talkoot.peer.probing import protocol as probe_protocol


class Said:
    """A channel on which the other side says these things, then nothing more."""

    peer = FOUNDERS[0].key
    bytes_received = bytes_arrived = 0

    def __init__(self, *frames: Frame) -> None:
        self._frames = iter(frames)

    async def send(self, *_: object, **__: object) -> None:
        pass

    async def receive(self, **_: object) -> Frame:
        frame = next(self._frames, None)
        if frame is None:
            raise ChannelClosed(self.peer, "ended")
        return frame


def heard(*calls: Callable[[Any], Awaitable[object]], header: bytes | None = None) -> Examine:
    """Let clients read the bytes as payload of an answer, or as its header."""

    def examine(data: bytes) -> None:
        async def ask() -> None:
            for call in calls:
                frame = Frame(data, b"") if header is None else Frame(header, data)
                await call(Said(frame))

        asyncio.run(ask())

    return examine


READINGS = [
    ["talkoot_round", [], 1.0],
    ["talkoot_node_state", ["training"], 1.0],
    ["talkoot_round_duration_seconds_bucket", ["+Inf"], 1.0],
]

OK = written({"status": "ok"}, "msgpack")


def serve_state(data: bytes) -> None:
    serving = transfer.StateServer(
        network_of_nobody(), SWARM, manifest=lambda: None, tokenizer=lambda: None, holdings=lambda: None
    )
    asyncio.run(serving._serve(said(Frame(data, b""))))


def network_of_nobody() -> Any:
    return SimpleNamespace(key=bytes(32), serve=lambda *_: None)


def said(*frames: Frame) -> Any:
    return Said(*frames)


def frames(data: bytes) -> None:
    for ours in (data, framing.encode_prefix(framing.DATA, data[:40], len(data)) + data[:40] + data):
        decoder = FrameDecoder(max_header=64, max_payload=4096)
        for start in range(0, len(ours), 7):
            decoder.feed(ours[start : start + 7])


def envelope(data: bytes) -> None:
    for whole in (data, records._HEAD.pack(records._FORMAT, 1.0, 2.0, bytes(64)) + data):
        try:
            records.parse(whole, owner=bytes(32), swarm=bytes(32))
        except RemoteError:
            continue
        records.newer(whole, whole)
        records.is_older(data, whole)
        records.check_signature(whole, owner=bytes(32))


def charge(data: bytes) -> None:
    whole = proof._LENGTHS.pack(len(data), 0) + data
    rules = replace(RULES, swarm=bytes(32))

    def read(offset: int, length: int) -> bytes:
        return whole[offset : offset + length]

    proof.open_proof(read, rules, lambda *_: True).prove(read)
    proof.open_proof(lambda offset, length: data[offset : offset + length], rules, lambda *_: True)


def index(data: bytes) -> None:
    header: Any = next(samples(Contribution))
    decode_index(data, msgspec.convert(header, Contribution), len(data) // ENTRY_BYTES or 1)


ADDRESS = bytes.fromhex("047f000001060001")


def found() -> list[bytes]:
    """An answer of hivemind's DHT with one record and one neighbour."""
    items = msgspec.msgpack.encode([None, 1.7e9, [(bytes(32), pack_envelope(b"x"), 1.7e9)]])
    dictionary = msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, items))
    result = number_field(1, 2) + bytes_field(2, dictionary) + double_field(3, 1.7e9)
    neighbour = bytes_field(4, bytes(20)) + bytes_field(5, multihash_of(bytes(32)))
    return [bytes_field(2, result + neighbour), bytes_field(2, neighbour)]


NETWORK = [
    Target(
        "ledger",
        ("averaging/ledger.py decode_ledger",),
        "msgpack",
        of(Ledger),
        lambda data: decode_ledger(data).encode(),
        (LedgerError,),
    ),
    Target(
        "certificate",
        ("averaging/certificate.py decode_certificate",),
        "msgpack",
        of(Certificate),
        lambda data: decode_certificate(data).encode(),
        (CertificateError,),
    ),
    Target(
        "message",
        ("averaging/wire.py decode",),
        "msgpack",
        of(Message),
        lambda data: wire.encode(wire.decode(data)),
        (MessageError,),
    ),
    Target(
        "bulk-header",
        ("averaging/wire.py decode_bulk_header",),
        "msgpack",
        of(BulkHeader),
        lambda data: wire.encode_bulk_header(wire.decode_bulk_header(data)),
        (MessageError,),
    ),
    Target("index", (), "raw", lambda: [bytes(3 * ENTRY_BYTES)], index, (CertificateError,)),
    Target(
        "proof",
        ("averaging/proof.py decode_head", "averaging/proof.py head_bytes"),
        "msgpack",
        of(proof._Head),
        charge,
        (ProofError,),
    ),
    Target(
        "frames",
        ("dht/framing.py FrameDecoder._parse", "dht/framing.py FrameDecoder._compact"),
        "raw",
        lambda: [framing.encode_prefix(framing.DATA, b"head", 5) + b"head" + b"12345"],
        frames,
        (RemoteError,),
    ),
    Target(
        "record",
        (
            "dht/records.py _decode_body",
            "dht/records.py parse",
            "dht/records.py newer",
            "dht/records.py is_older",
            "dht/records.py check_signature",
        ),
        "msgpack",
        of(records.PeerRecord),
        envelope,
        (RemoteError,),
    ),
    Target(
        "stored-value",
        ("dht/entries.py unpack_envelope",),
        "raw",
        lambda: [pack_envelope(b"x")],
        unpack_envelope,
    ),
    Target(
        "outside-find",
        ("dht/outside/kademlia.py read_dictionary",),
        "raw",
        found,
        kademlia.read_find,
        (ValueError,),
    ),
    Target(
        "outside-ping",
        ("dht/outside/wire.py Message.double",),
        "raw",
        lambda: [double_field(4, 1.7e9)],
        kademlia.read_ping,
        (ValueError,),
    ),
    Target(
        "outside-answer",
        ("peer/exploring/title.py read_status",),
        "msgpack",
        of(title._Answer),
        lambda data: title.read_status(data, bytes(32)),
        (RemoteError,),
    ),
    Target(
        "relay-yamux",
        ("dht/relay/yamux.py Session.receive",),
        "raw",
        lambda: [
            bytes.fromhex("000100010000000100000000") + bytes.fromhex("000000000000000100000002") + b"ab"
        ],
        lambda data: Session(None, initiator=False).receive(data),
        (RemoteError,),
    ),
    Target(
        "outside-where",
        (),
        "raw",
        lambda: [
            bytes_field(8, bytes_field(1, multihash_of(bytes(32))) + bytes_field(2, b"\4\x7f\0\0\1\6\0\1"))
        ],
        kademlia.read_where,
        (ValueError,),
    ),
    Target(
        "admission",
        ("peer/admission.py check",),
        "msgpack",
        of(admission._Proof),
        lambda data: admission.check(data, swarm=SWARM, key=bytes(32), founders=(bytes(32),), now=1.0),
        (admission.AdmissionError,),
    ),
    Target(
        "invite-terms",
        ("peer/admission.py issued_rule.issued",),
        "msgpack",
        of(admission._Terms),
        lambda data: admission.issued_rule(SWARM, (bytes(32),))(bytes(32), bytes(32), data),
    ),
    Target(
        "audit-request",
        ("peer/audits/protocol.py decode_request",),
        "msgpack",
        of(protocol.Request),
        lambda data: protocol.decode_request(data, bytes(32)),
        (RemoteError,),
    ),
    Target(
        "audit-answer",
        ("peer/audits/protocol.py AuditClient.ask",),
        "msgpack",
        of(protocol.Answer),
        heard(lambda channel: protocol.AuditClient(channel).ask(protocol.AskProof(bytes(32), 0))),
        (RemoteError, protocol.Busy),
    ),
    Target(
        "state-request",
        ("peer/transfer.py StateServer._serve",),
        "msgpack",
        of(transfer.Request),
        serve_state,
        (RemoteError,),
    ),
    Target(
        "state-answer",
        ("peer/transfer.py StateClient._answer",),
        "msgpack",
        of(transfer.Answer),
        heard(lambda channel: transfer.StateClient(channel).next_chunk(timeout_s=1)),
        (RemoteError, transfer.Busy, transfer.Gone),
    ),
    Target(
        "head-answer",
        ("peer/transfer.py StateClient._state_of",),
        "msgpack",
        of(transfer._HeadPayload),
        heard(lambda channel: transfer.StateClient(channel).head(), header=OK),
        (RemoteError,),
    ),
    Target(
        "chain-answer",
        ("peer/transfer.py StateClient.chain",),
        "msgpack",
        of(transfer._Batch),
        heard(lambda channel: transfer.StateClient(channel).chain(0), header=OK),
        (RemoteError,),
    ),
    Target(
        "records-answer",
        ("peer/transfer.py StateClient.records",),
        "msgpack",
        of(list[transfer._Listed]),
        heard(lambda channel: transfer.StateClient(channel).records(0), header=OK),
        (RemoteError,),
    ),
    Target(
        "metrics-answer",
        ("peer/observing/protocol.py hear",),
        "msgpack",
        of(metrics_protocol.Answer),
        heard(metrics_protocol.hear),
        (RemoteError, metrics_protocol.Private),
    ),
    Target(
        "metrics-report",
        ("peer/observing/report.py read",),
        "msgpack",
        lambda: [written(READINGS, "msgpack"), *of(report.Report)()],
        lambda data: report.exposition(data, peer=bytes(32), run="s", role="full"),
        (RemoteError,),
    ),
    Target(
        "probe-ask",
        ("peer/probing/protocol.py read_ask",),
        "msgpack",
        of(probe_protocol.Ask),
        lambda data: probe_protocol.read_ask(data, FOUNDERS[0].key),
        (RemoteError,),
    ),
    Target(
        "probe-answer",
        ("peer/probing/protocol.py read_answer",),
        "msgpack",
        of(probe_protocol.Answer),
        lambda data: probe_protocol.read_answer(data, FOUNDERS[0].key),
        (RemoteError,),
    ),
    Target(
        "manifest",
        ("peer/manifest.py from_canonical",),
        "msgpack",
        lambda: [MANIFEST.canonical()],
        lambda data: manifest.from_canonical(data).canonical(),
        (ValueError,),
    ),
]
