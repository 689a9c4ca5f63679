"""Unary calls as p2pd makes them: one request, one answer, each a protobuf message with its length before it.

The protocol id of the stream is the name of the call (hivemind's p2pd.proto: PersistentConnectionRequest with
`callUnary`, answered by one with `unaryResponse`). Nobody closes its side before the answer: p2pd takes a
half-closed stream for a cancelled call.
"""

import os
from typing import Protocol

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import multihash_of
from talkoot.dht.multiaddr import varint
from talkoot.dht.outside.wire import MAX_VARINT_BYTES, Message, bytes_field

MAX_CALL_BYTES = 4 * 2**20
"""Longest message of p2pd in either direction."""
_ENVELOPE_BYTES = 512
# What is around a request or an answer: a call id, a PeerID and the name of the call.
_PIECE_BYTES = 64 * 1024

_CALL_ID, _CALL, _ANSWER = 1, 3, 4  # of PersistentConnectionRequest
_PEER, _NAME, _DATA = 1, 2, 3  # of CallUnaryRequest
_RESPONSE, _ERROR = 1, 2  # of CallUnaryResponse


class ByteStream(Protocol):
    """What is needed of a stream of py-libp2p."""

    async def read(self, n: int | None = None) -> bytes:
        """At least one byte and at most `n`."""

    async def write(self, data: bytes) -> None:
        """All of it."""


async def call(stream: ByteStream, peer: bytes, name: str, request: bytes, *, max_bytes: int) -> bytes:
    """The answer to one request on a fresh stream.

    Raises RemoteError (`oversized`, `malformed`, `refused`), and what the stream raises.
    """
    call_id = os.urandom(16)
    inner = bytes_field(_PEER, multihash_of(peer)) + bytes_field(_NAME, name.encode())
    inner += bytes_field(_DATA, request)  # required: it stands there even when it is empty
    await write_message(stream, bytes_field(_CALL_ID, call_id) + bytes_field(_CALL, inner))
    data = await read_message(stream, peer, max_bytes=max_bytes + _ENVELOPE_BYTES)
    try:
        message = Message(data)
        if message.bytes(_CALL_ID) != call_id:
            raise ValueError("an answer to another call")
        answer = Message(message.bytes(_ANSWER))
    except ValueError as error:
        raise RemoteError(peer, "malformed", f"answer to {name}: {error}") from error
    if _RESPONSE not in answer:
        raise RemoteError(peer, "refused", f"{name}: {answer.bytes(_ERROR)[:200]!r}")
    response = answer.bytes(_RESPONSE)
    if len(response) > max_bytes:
        raise RemoteError(peer, "oversized", f"answer to {name} of {len(response)} bytes")
    return response


async def read_call(stream: ByteStream, peer: bytes, *, max_bytes: int) -> tuple[bytes, bytes]:
    """The id and the request of a call that comes in. Raises RemoteError, and what the stream raises."""
    data = await read_message(stream, peer, max_bytes=max_bytes + _ENVELOPE_BYTES)
    try:
        message = Message(data)
        return message.bytes(_CALL_ID)[:64], Message(message.bytes(_CALL)).bytes(_DATA)
    except ValueError as error:
        raise RemoteError(peer, "malformed", f"call: {error}") from error


async def write_answer(stream: ByteStream, call_id: bytes, answer: bytes, *, failed: bool = False) -> None:
    """Answer a call that came in; `failed`: with an error, whose text is `answer`."""
    inner = bytes_field(_ERROR if failed else _RESPONSE, answer)
    await write_message(stream, bytes_field(_CALL_ID, call_id) + bytes_field(_ANSWER, inner))


async def write_message(stream: ByteStream, data: bytes) -> None:
    """Write a message with its length before it."""
    await stream.write(varint(len(data)) + data)


async def read_message(stream: ByteStream, peer: bytes, *, max_bytes: int) -> bytes:
    """A message with its length before it. Raises RemoteError (`oversized`, `malformed`, `lost`)."""
    size = await _read_length(stream, peer)
    if size > max_bytes:
        raise RemoteError(peer, "oversized", f"message of {size} bytes")
    return await read_exactly(stream, peer, size)


async def read_exactly(stream: ByteStream, peer: bytes, size: int) -> bytes:
    """So many bytes, for which memory is taken as they come. Raises RemoteError (`lost`)."""
    data = bytearray()
    while len(data) < size:
        piece = await stream.read(min(_PIECE_BYTES, size - len(data)))
        if not piece:
            raise RemoteError(peer, "lost", "the stream ended in a message")
        data += piece
    return bytes(data)


async def _read_length(stream: ByteStream, peer: bytes) -> int:
    number = 0
    for position in range(MAX_VARINT_BYTES):
        (byte,) = await read_exactly(stream, peer, 1)
        number |= (byte & 127) << 7 * position
        if byte < 128:
            return number
    raise RemoteError(peer, "malformed", "a length without an end")
