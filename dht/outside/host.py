"""A libp2p host on py-libp2p: TCP, Noise and TLS, yamux; connections, streams and unary calls with p2pd.

What py-libp2p 0.8.1 does otherwise is kept out of the way: its resource manager (miscounts), its automatic
connections, its own choice of addresses (one of each kind, then a minute's refusal) and its asking each new
peer to identify itself (in a task that nobody watches).
"""

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal

import libp2p
import trio
from libp2p.abc import INetStream
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol, TSecurityOptions
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.tls.transport import PROTOCOL_ID as TLS
from libp2p.security.tls.transport import TLSTransport
from multiaddr import Multiaddr

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.multiaddr import Address, addresses_of
from talkoot.dht.outside import lean, listener, unary
from talkoot.dht.outside.keys import id_of, key_of, key_pair

lean.forget()
logging.getLogger("libp2p").setLevel(logging.CRITICAL)
# It logs what other peers do wrong as errors of ours; here that is counted.

Security = Literal["noise", "tls"]

MAX_CONNECTIONS = 256
MAX_SERVED = 64
"""Streams of other peers that are served at once; one more is reset."""
MAX_TRIED = 4
"""Addresses of one peer that one attempt to connect tries, one after the other."""
DIAL_S = 3.0
"""Longest wait for one address."""
SERVE_S = 10.0
"""Longest time that a call which came in may take in all."""

_END_S = 1.0
_KNOWN_S = 2**31

Answer = Callable[[bytes, bytes], Awaitable[bytes]]
"""From the caller's key and its request to the answer."""
StreamHandler = Callable[[bytes, INetStream], Awaitable[None]]


class Outside:
    """A running host. Made by `running`; every method may be called until that ends."""

    def __init__(self, identity: Identity, host: BasicHost) -> None:
        self.identity = identity
        self.key = identity.key
        self.libp2p = host
        """For what is built upon it: a relay, say."""
        self.failures: Counter[str] = Counter()
        """Calls that other peers made and that failed, by reason."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, with its PeerID."""
        return tuple(f"{each}/p2p/{self.identity.peer_id}" for each in self.libp2p.get_transport_addrs())

    @property
    def num_connections(self) -> int:
        """Connections of all peers."""
        return len(self.libp2p.get_network().get_connections())

    def is_connected(self, peer: bytes) -> bool:
        """Whether there is a connection with the peer now."""
        connections = self.libp2p.get_network().get_connections(id_of(peer))
        return any(not each.is_closed for each in connections)

    async def connect(self, peer: bytes, addresses: Sequence[str], *, timeout_s: float) -> None:
        """Have a connection with the peer, directly. Raises RemoteError (`unreachable`, `timeout`)."""
        if self.is_connected(peer):
            return
        good, _ = addresses_of(peer, addresses)
        direct = [address for address in good if address.relay is None][:MAX_TRIED]
        detail = "" if direct else "no address that can be dialled"
        with trio.move_on_after(timeout_s) as scope:
            for address in direct:
                detail = await self._dial(peer, address)
                if self.is_connected(peer):
                    return
        raise RemoteError(peer, "timeout" if scope.cancelled_caught else "unreachable", detail)

    async def open(self, peer: bytes, protocol: str, *, timeout_s: float) -> INetStream:
        """A stream to a connected peer; reset it or close it.

        Raises RemoteError (`unreachable`, `unsupported`, `timeout`).
        """
        if not self.is_connected(peer):
            raise RemoteError(peer, "unreachable", "not connected")
        with trio.move_on_after(timeout_s):
            try:
                return await self.libp2p.new_stream(id_of(peer), [TProtocol(protocol)])
            except Exception as error:
                reason = "unsupported" if self.is_connected(peer) else "unreachable"
                raise RemoteError(peer, reason, f"{protocol}: {error!r}") from error
        raise RemoteError(peer, "timeout", f"no stream for {protocol}")

    async def call(
        self,
        peer: bytes,
        name: str,
        request: bytes,
        *,
        timeout_s: float,
        max_bytes: int = unary.MAX_CALL_BYTES,
    ) -> bytes:
        """The answer of a connected peer to a unary call, of at most `max_bytes`. Raises RemoteError."""
        async with self.stream(peer, name, timeout_s=timeout_s) as stream:
            return await unary.call(stream, peer, name, request, max_bytes=max_bytes)

    @contextlib.asynccontextmanager
    async def stream(self, peer: bytes, protocol: str, *, timeout_s: float) -> AsyncIterator[INetStream]:
        """A stream to a connected peer for so long, ended on exit; what fails on it becomes a RemoteError."""
        with trio.move_on_after(timeout_s) as scope:
            stream = await self.open(peer, protocol, timeout_s=timeout_s)
            whole = False
            try:
                yield stream
                whole = True
            except RemoteError:
                raise
            except Exception as error:
                raise RemoteError(peer, "lost", f"{protocol}: {error!r}") from error
            finally:
                await _end(stream, whole=whole)
            return
        assert scope.cancelled_caught
        raise RemoteError(peer, "timeout", protocol)

    async def disconnect(self, peer: bytes) -> None:
        """Close the connections with a peer."""
        with trio.move_on_after(DIAL_S), contextlib.suppress(Exception):
            await self.libp2p.disconnect(id_of(peer))

    def serve(self, name: str, answer: Answer, *, max_bytes: int = unary.MAX_CALL_BYTES) -> None:
        """Answer unary calls of this name. `answer` may raise RemoteError, which the caller is told of."""

        async def handle(peer: bytes, stream: INetStream) -> None:
            call_id, request = await unary.read_call(stream, peer, max_bytes=max_bytes)
            try:
                await unary.write_answer(stream, call_id, await answer(peer, request))
            except RemoteError as error:
                await unary.write_answer(stream, call_id, str(error).encode(), failed=True)

        self.serve_stream(name, handle, timeout_s=SERVE_S)

    def serve_stream(self, protocol: str, handler: StreamHandler, *, timeout_s: float) -> None:
        """Hand streams of this protocol to `handler`, for so long at most; then they are reset."""

        async def guarded(stream: INetStream) -> None:
            whole = False
            try:
                with trio.fail_after(timeout_s):
                    await handler(key_of(stream.muxed_conn.peer_id), stream)
                whole = True
            except RemoteError as error:
                self.failures[error.reason] += 1
            except Exception:  # noqa: BLE001 - a peer's failure must not end the host
                self.failures["lost"] += 1
            finally:
                await _end(stream, whole=whole)

        self.libp2p.set_stream_handler(TProtocol(protocol), guarded)

    async def _dial(self, peer: bytes, address: Address) -> str:
        """Try one address; why it failed, or nothing."""
        where = Multiaddr(f"/{address.kind}/{address.host}/tcp/{address.port}")
        network = self.libp2p.get_network()
        assert isinstance(network, Swarm)
        failed = f"{address}: no answer"
        known = network.peerstore
        known.add_addrs(id_of(peer), [where], _KNOWN_S)  # else py-libp2p warns of each connection
        with trio.move_on_after(DIAL_S):
            try:
                await network.dial_addr(where, id_of(peer))
                return ""
            except Exception as error:  # noqa: BLE001 - py-libp2p raises whatever its parts raise
                failed = f"{address}: {error!r}"
        known.clear_addrs(id_of(peer))
        return failed


class _QuietHost(BasicHost):  # type: ignore[misc]  # py-libp2p is untyped here
    """Answers identify and never asks: a task of py-libp2p's own that fails would end the whole process."""

    _serving = 0

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        """Leave it."""

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """Serve a stream that a peer opened; py-libp2p itself would take any number of them."""
        if self._serving >= MAX_SERVED:
            await net_stream.reset()
            return
        self._serving += 1
        try:
            await super()._swarm_stream_handler(net_stream)
        finally:
            self._serving -= 1


@contextlib.asynccontextmanager
async def running(
    identity: Identity,
    *,
    listen: Sequence[str] = (),
    security: Sequence[Security] = ("noise", "tls"),
    max_connections: int = MAX_CONNECTIONS,
    swarm: Callable[[Swarm], None] = lambda _swarm: None,
) -> AsyncIterator[Outside]:
    """A host that listens on these multiaddrs (none: it only dials), closed on exit.

    `security`: what it offers, the first choice first. `swarm` may change py-libp2p's own before it runs.
    Raises OSError when an address cannot be listened on.
    """
    network = libp2p.new_swarm(
        key_pair=key_pair(identity),
        sec_opt=_security(identity, security),
        connection_config=ConnectionConfig(
            max_connections=max_connections,
            min_connections=0,
            low_watermark=0,
            high_watermark=max_connections,
            dial_timeout=DIAL_S,
            outbound_upgrade_timeout=DIAL_S,
        ),
        retry_config=RetryConfig(max_retries=0),
    )
    assert isinstance(network, Swarm)
    network.set_resource_manager(None)
    swarm(network)
    listener.give_back_places(network)
    host = _QuietHost(network=network, disable_identify_address_discovery=True)
    host.remove_stream_handler(ID_PUSH)  # it would keep whatever a peer says of itself
    async with host.run([Multiaddr(address) for address in listen]):
        try:
            if len(host.get_transport_addrs()) < len(listen):
                raise OSError(f"cannot listen on {', '.join(listen)}")
            yield Outside(identity, host)
        finally:
            with trio.CancelScope(shield=True) as scope:
                scope.deadline = trio.current_time() + DIAL_S
                await host.close()  # leaving the context alone would leave sockets open


def _security(identity: Identity, offered: Sequence[Security]) -> TSecurityOptions:
    keys = key_pair(identity)
    noise = NoiseTransport(keys, noise_privkey=create_new_key_pair().private_key)
    known = {"noise": (NOISE, noise), "tls": (TLS, TLSTransport(keys))}
    return dict(known[name] for name in offered)


async def _end(stream: INetStream, *, whole: bool) -> None:
    """Close a stream on which all was said, which leaves the other side time to read it; reset any other."""
    with trio.CancelScope(shield=True) as scope, contextlib.suppress(Exception):
        scope.deadline = trio.current_time() + _END_S
        await (stream.close() if whole else stream.reset())
