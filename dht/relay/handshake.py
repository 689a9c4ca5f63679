"""From an accepted or dialled socket to a link: multistream, Noise of py-libp2p, multistream, yamux.

Only Noise is offered: py-libp2p's default also has unencrypted and unauthenticated transports, on which
anybody could claim any PeerID.
"""

from collections.abc import Callable

import trio
from libp2p.abc import ISecureConn
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secure_session import SecureSession

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.outside.keys import key_pair
from talkoot.dht.relay import negotiation
from talkoot.dht.relay.link import Link, Sealed
from talkoot.dht.relay.yamux import PROTOCOL as YAMUX

NOISE = "/noise"


class Handshaker:
    """Makes links under one identity."""

    def __init__(self, identity: Identity) -> None:
        static = create_new_key_pair().private_key
        self._noise: Callable[[], NoiseTransport] = lambda: NoiseTransport(key_pair(identity), static)

    async def accept(self, socket: trio.SocketStream, *, timeout_s: float) -> Link:
        """A link with whoever connected, named by `peer`, its PeerID as bytes. The socket is the link's, or
        closed.

        Raises RemoteError: `unauthenticated` for any failure of the handshake, `timeout`, `unsupported`.
        """
        return await self._make(socket, None, timeout_s)

    async def connect(self, socket: trio.SocketStream, peer: bytes, *, timeout_s: float) -> Link:
        """A link with a peer that we dialled. Raises RemoteError as `accept` does."""
        return await self._make(socket, peer, timeout_s)

    async def _make(self, socket: trio.SocketStream, peer: bytes | None, timeout_s: float) -> Link:
        try:
            with trio.fail_after(timeout_s):
                return await self._upgrade(socket, peer)
        except BaseException as error:
            await trio.aclose_forcefully(socket)
            if isinstance(error, trio.TooSlowError):
                raise RemoteError(peer, "timeout", "handshake") from error
            raise

    async def _upgrade(self, socket: trio.SocketStream, peer: bytes | None) -> Link:
        plain = _Plain(socket)
        try:
            if peer is None:
                await negotiation.answer(plain, b"", (NOISE,))
            else:
                await negotiation.choose(plain, peer, NOISE)
            connection = RawConnection(plain, peer is not None)
            if peer is None:
                secure = await self._noise().secure_inbound(connection)
            else:
                secure = await self._noise().secure_outbound(connection, ID(peer))
        except RemoteError:
            raise
        except Exception as error:  # py-libp2p raises whatever its parts raise
            raise RemoteError(peer, "unauthenticated", f"handshake: {error!r}") from error
        sealed = _sealed(secure, socket)
        if peer is None:
            await negotiation.answer(sealed, sealed.peer, (YAMUX,))
        else:
            await negotiation.choose(sealed, peer, YAMUX)
        return Link(sealed, initiator=peer is not None)


def _sealed(secure: ISecureConn, socket: trio.SocketStream) -> Sealed:
    """The connection after the handshake, in which py-libp2p read not a byte ahead."""
    assert isinstance(secure, SecureSession)
    assert isinstance(secure.conn, NoiseTransportReadWriter)
    return Sealed(secure.get_remote_peer().to_bytes(), socket, secure.conn.noise_state)


class _Plain:
    """The socket as py-libp2p's handshake and multistream read it: never a byte further than asked for."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self._socket = socket

    async def read(self, count: int | None = None) -> bytes:
        assert count is not None
        data = b""
        while len(data) < count:
            try:
                more = await self._socket.receive_some(count - len(data))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise RemoteError(None, "lost", "in the handshake") from error
            if not more:
                raise RemoteError(None, "lost", "in the handshake")
            data += more
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._socket.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise RemoteError(None, "lost", "in the handshake") from error

    async def close(self) -> None:
        await trio.aclose_forcefully(self._socket)

    def get_remote_address(self) -> tuple[str, int] | None:
        return None
