"""How peers check each other's parts: slices of the last rounds on request, claims and proofs passed on.

One answer to each request, in order, over a channel of its own, so that nothing of a round waits for it.
Whoever asks verifies what it gets; whoever is told verifies before anything else happens.
"""

import asyncio
from typing import Literal, Protocol

import msgspec

from talkoot.averaging.claims import MAX_CLAIMS, Claim
from talkoot.averaging.inputs import Bytes
from talkoot.dht import limits
from talkoot.dht.errors import RemoteError
from talkoot.dht.meter import Flow, Rate
from talkoot.dht.network import Channel, Network, ProtocolSpec
from talkoot.peer import clock
from talkoot.peer.serving import Gate

MAX_PROOF_BYTES = 1 << 40
"""Longest proof that is spoken of; who is told takes no more than it has room for."""

PIECE_BYTES = 1 << 20
"""Longest piece of a proof in one answer."""

MAX_ANSWER_BYTES = 4 << 20
"""Longest answer: a chunk of 2**18 elements, or an index."""

ANSWER_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 60.0
DIAL_TIMEOUT_S = 10.0


def audit_protocol(swarm: bytes) -> ProtocolSpec:
    """The protocol of one swarm."""
    return ProtocolSpec(
        name=f"talkoot/{swarm.hex()[:16]}/audit/2",
        max_header=64 * 1024,
        max_payload=MAX_ANSWER_BYTES,
        max_channels_per_peer=2,
        max_request=0,
    )


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="ask"):
    pass


class AskIndex(_Request, frozen=True, tag="index"):
    """The index of a contribution to the round after a state."""

    prior: bytes
    contributor: bytes


class AskChunk(_Request, frozen=True, tag="chunk"):
    """One encoded chunk of it."""

    prior: bytes
    contributor: bytes
    chunk: int


class TellClaims(_Request, frozen=True, tag="claims"):
    """What reducers claimed to the sender: compare it with what they claimed to you."""

    claims: tuple[Claim, ...]


class TellProof(_Request, frozen=True, tag="proof"):
    """The sender holds a proof against a reducer; it can be fetched."""

    offender: bytes
    num_bytes: int


class AskProof(_Request, frozen=True, tag="piece"):
    """A piece of it."""

    offender: bytes
    offset: int


Request = AskIndex | AskChunk | TellClaims | TellProof | AskProof

_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)

Status = Literal["ok", "gone", "busy"]


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Header of an answer; the payload holds the content."""

    status: Status


class Witness(Protocol):
    """What the server asks of the node."""

    async def held(self, request: AskIndex | AskChunk | AskProof) -> Bytes | None:
        """What we hold of that."""

    def told(self, peer: bytes, request: TellClaims | TellProof) -> bool:
        """Another peer says so; nothing of it is verified but its sizes. Whether it is dealt with."""


def decode_request(header: bytes, peer: bytes) -> Request:
    """Parse a request and check its sizes. Raises RemoteError."""
    try:
        request = _decoder.decode(header)
    except (ValueError, RecursionError) as error:
        raise RemoteError(peer, "malformed", str(error)) from error
    match request:
        case AskIndex(prior=prior, contributor=key) | AskChunk(prior=prior, contributor=key):
            sound = len(prior) == len(key) == 32
        case TellClaims(claims=claims):
            sound = len(claims) <= MAX_CLAIMS and all(claim.sizes_ok for claim in claims)
        case TellProof(offender=key, num_bytes=size):
            sound = len(key) == 32 and 0 < size <= MAX_PROOF_BYTES
        case AskProof(offender=key):
            sound = len(key) == 32
    if not sound:
        raise RemoteError(peer, "malformed", f"{type(request).__name__} out of range")
    return request


class AuditServer:
    """Answers from a witness. What is long leaves through the gate, with the state that others download."""

    def __init__(self, network: Network, swarm: bytes, witness: Witness, gate: Gate) -> None:
        """Registers the protocol."""
        self._witness = witness
        self._gate = gate
        self._flow = Flow(Rate(limits.REQUESTS_PER_S, limits.REQUESTS_BURST))
        network.serve(audit_protocol(swarm), self._serve)

    async def _serve(self, channel: Channel) -> None:
        while True:
            frame = await channel.receive(timeout_s=IDLE_TIMEOUT_S)
            request = decode_request(frame.header, channel.peer)
            wait_s = self._flow.wait_s(channel.peer, 1, clock.now())
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if isinstance(request, TellClaims | TellProof):
                await self._send(channel, "ok" if self._witness.told(channel.peer, request) else "busy")
                continue
            async with self._gate.turn(channel.peer) as admitted:
                data = await self._witness.held(request) if admitted else None
                if data is None:
                    await self._send(channel, "gone" if admitted else "busy")
                else:
                    await self._gate.pace(len(data))
                    await self._send(channel, "ok", data)

    @staticmethod
    async def _send(channel: Channel, status: Status, payload: Bytes = b"") -> None:
        await channel.send(msgspec.msgpack.encode(Answer(status)), payload, timeout_s=ANSWER_TIMEOUT_S)


class Busy(Exception):  # noqa: N818 - reads well where it is caught
    """The peer has too much to do at present."""


class AuditClient:
    """Asks one peer, or tells it something."""

    def __init__(self, channel: Channel) -> None:
        """Use `connect`."""
        self._channel = channel
        self.peer = channel.peer

    @classmethod
    async def connect(cls, network: Network, peer: bytes, swarm: bytes) -> "AuditClient":
        """Open a channel. Raises RemoteError, TimeoutError."""
        return cls(await network.dial(peer, audit_protocol(swarm), timeout_s=DIAL_TIMEOUT_S))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def ask(self, request: Request) -> bytes | None:
        """Its answer; None when the peer does not have it. Raises Busy, RemoteError, TimeoutError."""
        await self._channel.send(msgspec.msgpack.encode(request), timeout_s=ANSWER_TIMEOUT_S)
        frame = await self._channel.receive(timeout_s=ANSWER_TIMEOUT_S)
        try:
            answer = msgspec.msgpack.decode(frame.header, type=Answer)
        except (ValueError, RecursionError) as error:
            raise RemoteError(self.peer, "malformed", str(error)) from error
        if answer.status == "busy":
            raise Busy
        return bytes(frame.payload) if answer.status == "ok" else None
