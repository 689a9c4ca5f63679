"""p2pd's control protocol, as far as we need it: connect, identify, open streams, accept streams.

One unix connection per request; a stream's connection becomes the stream. Replies are read exactly, so
that nothing of the stream behind them is lost. Every call has a timeout, because p2pd may hang.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from talkoot.dht.channel_limits import Visitor
from talkoot.dht.errors import RemoteError
from talkoot.dht.guard import Connection
from talkoot.dht.identity import key_of_multihash, multihash_of
from talkoot.dht.limits import P2PD_REPLY_BYTES
from talkoot.dht.multiaddr import decode_address, prefix_of, relay_of, varint
from talkoot.dht.p2pd import P2pdError
from talkoot.dht.substrate import p2pd_pb2

_UNIX_CODE = bytes([0x90, 0x03])  # varint of multiaddr's 400
_TIMEOUT_MARGIN_S = 0.5
# p2pd's own timeout ends that much before ours, so that it can say what failed.


class Control:
    """A client of one p2pd."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s

    async def identify(self) -> tuple[bytes, list[bytes]]:
        """Our key and our addresses in binary form."""
        reply = await self._call(p2pd_pb2.Request(type=p2pd_pb2.Request.IDENTIFY), self._timeout_s)
        return key_of_multihash(reply.identify.id), list(reply.identify.addrs)

    async def connect(self, peer: bytes, addresses: Sequence[bytes], *, timeout_s: float) -> None:
        """Connect to a peer; without addresses, to those that p2pd knows or finds.

        Raises RemoteError (`unreachable`), TimeoutError, P2pdError.
        """
        request = p2pd_pb2.ConnectRequest(
            peer=multihash_of(peer), addrs=addresses, timeout=_whole_seconds(timeout_s)
        )
        await self._call(
            p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=request), timeout_s, peer=peer
        )

    async def connections(self) -> list[Connection]:
        """The connections that p2pd has."""
        reply = await self._call(p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS), self._timeout_s)
        return [
            Connection(info.id, _key_of(info.id), prefix_of(address), relay_of(address))
            for info in reply.peers
            for address in (info.addrs[0] if info.addrs else b"",)
        ]

    async def disconnect(self, name: bytes) -> None:
        """Close all connections with the peer of this multihash, and with them their streams."""
        request = p2pd_pb2.DisconnectRequest(peer=name)
        await self._call(
            p2pd_pb2.Request(type=p2pd_pb2.Request.DISCONNECT, disconnect=request), self._timeout_s
        )

    async def keep(self, peer: bytes, *, weight: int) -> None:
        """Have p2pd close others first when it has too many connections; weight 0: no longer."""
        kind = p2pd_pb2.ConnManagerRequest
        request = kind(
            type=kind.TAG_PEER if weight else kind.UNTAG_PEER,
            peer=multihash_of(peer),
            tag="chosen",
            weight=weight,
        )
        await self._call(
            p2pd_pb2.Request(type=p2pd_pb2.Request.CONNMANAGER, connManager=request), self._timeout_s
        )

    async def open_stream(self, peer: bytes, protocol: str, *, timeout_s: float) -> socket.socket:
        """A connected socket that carries a new stream to the peer.

        Raises RemoteError (`unreachable`, `unsupported`), TimeoutError, P2pdError.
        """
        return (await self.open_on(peer, protocol, timeout_s=timeout_s))[0]

    async def open_on(self, peer: bytes, protocol: str, *, timeout_s: float) -> tuple[socket.socket, bytes]:
        """As `open_stream`; also the other end's address (in binary form) of the connection that it is on."""
        request = p2pd_pb2.StreamOpenRequest(
            peer=multihash_of(peer), proto=[protocol], timeout=_whole_seconds(timeout_s)
        )
        message = p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=request)
        with _closing_on_error(_unix_socket()) as connection:
            reply = await self._exchange(connection, message, timeout_s, peer)
            return connection, reply.streamInfo.addr

    async def accept_streams(self, path: Path, protocol: str) -> None:
        """Have p2pd connect to the unix socket `path` for every stream that peers open to us."""
        text = str(path).encode()
        address = _UNIX_CODE + varint(len(text)) + text
        request = p2pd_pb2.StreamHandlerRequest(addr=address, proto=[protocol], balanced=False)
        message = p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_HANDLER, streamHandler=request)
        await self._call(message, self._timeout_s)

    async def _call(self, message: Any, timeout_s: float, peer: bytes | None = None) -> Any:
        with _unix_socket() as connection:
            return await self._exchange(connection, message, timeout_s, peer)

    async def _exchange(
        self, connection: socket.socket, message: Any, timeout_s: float, peer: bytes | None
    ) -> Any:
        loop = asyncio.get_running_loop()
        data = message.SerializeToString()
        reply = p2pd_pb2.Response()
        try:
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(connection, str(self._path))
                await loop.sock_sendall(connection, varint(len(data)) + data)
                reply.ParseFromString(await read_message(connection))
        except (OSError, EOFError, DecodeError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise P2pdError(f"p2pd does not answer: {error}") from error
        if reply.type == p2pd_pb2.Response.ERROR:
            raise _remote_error(peer, reply.error.msg)
        return reply


async def read_stream_info(connection: socket.socket) -> tuple[Visitor, str]:
    """Who opened the accepted stream, from where, and for which protocol.

    Raises RemoteError (`unauthenticated`: not an Ed25519 peer), EOFError, OSError, DecodeError.
    """
    info = p2pd_pb2.StreamInfo()
    info.ParseFromString(await read_message(connection))
    try:
        peer = key_of_multihash(info.peer)
    except ValueError as error:
        raise RemoteError(None, "unauthenticated", "the peer has no Ed25519 key") from error
    try:
        address = decode_address(info.addr)
    except ValueError:  # through a relay
        address = None
    return Visitor(peer, prefix_of(info.addr), address=address, relay=relay_of(info.addr)), info.proto


async def read_message(connection: socket.socket, most: int = P2PD_REPLY_BYTES) -> bytes:
    """One message behind its length (varint), and not a byte more. Raises EOFError, OSError."""
    length = shift = 0
    while True:
        byte = (await _read_exactly(connection, 1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if length > most or shift > 28:
            raise EOFError("message too long")
        if not byte & 128:
            return await _read_exactly(connection, length)


async def _read_exactly(connection: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    parts = bytearray()
    while len(parts) < count:
        data = await loop.sock_recv(connection, count - len(parts))
        if not data:
            raise EOFError("connection closed")
        parts += data
    return bytes(parts)


def _remote_error(peer: bytes | None, message: str) -> Exception:
    """p2pd says in words alone why it failed."""
    if peer is None:
        return P2pdError(f"p2pd refused: {message}")
    if "protocol" in message and "not supported" in message:
        return RemoteError(peer, "unsupported", message)
    return RemoteError(peer, "unreachable", message)


def _key_of(multihash: bytes) -> bytes | None:
    try:
        return key_of_multihash(multihash)
    except ValueError:
        return None


def _unix_socket() -> socket.socket:
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:  # no descriptors are left
        raise P2pdError(f"p2pd cannot be asked: {error}") from error
    connection.setblocking(False)
    return connection


@contextlib.contextmanager
def _closing_on_error(connection: socket.socket) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(connection)
        yield connection
        stack.pop_all()


def _whole_seconds(timeout_s: float) -> int:
    return max(1, int(timeout_s - _TIMEOUT_MARGIN_S))
