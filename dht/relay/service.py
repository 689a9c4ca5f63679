"""The relay itself: connections come in, streams on them are served, reservations and circuits made and
ended."""

import ipaddress
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import psutil
import trio

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.multiaddr import parse_address, prefix_of
from talkoot.dht.relay import messages, negotiation
from talkoot.dht.relay.admission import Admission
from talkoot.dht.relay.asking import own_record
from talkoot.dht.relay.book import Book, Circuit, End, Refusal
from talkoot.dht.relay.circuit import splice
from talkoot.dht.relay.config import RelayConfig, RelayLimits
from talkoot.dht.relay.door import Door
from talkoot.dht.relay.handshake import Handshaker
from talkoot.dht.relay.identify import IDENTIFY, PING, identification, pong
from talkoot.dht.relay.link import Link, Stream
from talkoot.dht.relay.messages import HOP, STOP, Status
from talkoot.dht.relay.tally import Tally
from talkoot.dht.relay.windows import Windows

logger = logging.getLogger(__name__)

PROTOCOLS = (HOP, IDENTIFY, PING)
REQUEST_S = 10.0
"""Longest time for a peer to say what it wants on a stream."""
ANSWER_S = 10.0
"""Longest time for a peer to take an answer."""
STOP_S = 20.0
"""Longest time for a target to take a circuit."""
LINKS_PER_PEER = 4
_SWEEP_S = 1.0
_YOUNG_S = 5.0  # a connection that is younger has perhaps not had the time to ask for anything

STATUS: dict[Refusal, Status] = {
    "outsider": Status.PERMISSION_DENIED,
    "directory": Status.RESERVATION_REFUSED,
    "full": Status.RESOURCE_LIMIT_EXCEEDED,
    "memory": Status.RESOURCE_LIMIT_EXCEEDED,
    "draining": Status.RESERVATION_REFUSED,
    "flood": Status.RESOURCE_LIMIT_EXCEEDED,
    "malformed": Status.MALFORMED_MESSAGE,
    "no_reservation": Status.NO_RESERVATION,
    "circuits": Status.RESOURCE_LIMIT_EXCEEDED,
    "quota": Status.RESOURCE_LIMIT_EXCEEDED,
    "unreachable": Status.CONNECTION_FAILED,
}


class Relay:
    """One relay. `run` it once; `stop` ends it in an orderly way."""

    def __init__(
        self, identity: Identity, config: RelayConfig, limits: RelayLimits, admission: Admission, tally: Tally
    ) -> None:
        now = trio.current_time()
        self.identity = identity
        self.addresses: tuple[str, ...] = ()
        """Where it is dialled, without its PeerID; known once it listens."""
        self.tally = tally
        self.admission = admission
        self._config = config
        self._limits = limits
        self._book = Book(limits, now)
        self._door = Door(limits)
        self._windows = Windows(limits.window_bytes)
        self._handshaker = Handshaker(identity)
        self._links: dict[bytes, list[Link]] = {}
        self._where: dict[Link, str] = {}
        self._scope = trio.CancelScope()
        self._accepting = trio.CancelScope()
        self._circuit_ended = trio.Event()
        tally.started_s = time.monotonic()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`. Raises OSError when it cannot listen."""
        listeners = await self._listen()
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                task_status.started()
                with self._accepting:
                    async with trio.open_nursery() as doors:
                        for listener in listeners:
                            doors.start_soon(self._accept, listener, nursery)
                for listener in listeners:
                    await listener.aclose()

    async def stop(self) -> None:
        """Take nothing new, tell everybody, give circuits a moment to end, and close them."""
        self._book.draining = self._door.draining = self.tally.draining = True
        self._accepting.cancel()
        for link in list(self._where):
            link.say_goodbye()
        with trio.move_on_after(self._limits.drain_s):
            while self._book.num_circuits:
                self._circuit_ended = trio.Event()
                await self._circuit_ended.wait()
        self._scope.cancel()

    # -- connections ---------------------------------------------------------------------------------

    async def _listen(self) -> list[trio.SocketListener]:
        listeners: list[trio.SocketListener] = []
        port = self._config.port
        for host in self._config.hosts:
            listeners += await trio.open_tcp_listeners(port, host=host, backlog=128)
            port = port or listeners[0].socket.getsockname()[1]
        self.addresses = self._config.announce or own_addresses(self._config.hosts, port)
        return listeners

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                socket = await listener.accept()
            except OSError as error:  # out of file descriptors, say
                logger.warning("cannot accept a connection: %s", error)
                await trio.sleep(0.1)
                continue
            nursery.start_soon(self._connection, socket)

    async def _connection(self, socket: trio.SocketStream) -> None:
        address = address_of(socket)
        place = _place(address)
        now = trio.current_time()
        if self._door.num_connections >= self._limits.connections:
            self._make_room(now)
        shut = self._door.enter(place, now)
        if shut is not None:
            self.tally.shut[shut] += 1
            await trio.aclose_forcefully(socket)
            return
        try:
            link = await self._shake_hands(socket)
            if link is not None:
                await self._keep(link, address)
        finally:
            self._door.leave(place)

    async def _shake_hands(self, socket: trio.SocketStream) -> Link | None:
        try:
            return await self._handshaker.accept(socket, timeout_s=self._limits.handshake_s)
        except RemoteError as error:
            self.tally.failed[error.reason] += 1
            return None
        finally:
            self._door.handshakes -= 1

    async def _keep(self, link: Link, address: str | None) -> None:
        """Serve a connection to its end."""
        if self._door.is_banned(link.peer, trio.current_time()):
            self.tally.shut["banned"] += 1
            link.close()
        links = self._links.setdefault(link.peer, [])
        links.append(link)
        self._where[link] = address or ""
        if len(links) > LINKS_PER_PEER:
            links[0].close()
        self.tally.accepted += 1
        try:
            await link.run(self._serve)
        finally:
            links.remove(link)
            del self._where[link]
            if not links:
                self._links.pop(link.peer, None)
                self._book.drop(link.peer)

    def _make_room(self, now: float) -> None:
        """Close the connection that has been idle for longest, if there is one."""
        idle = [link for link in self._where if self._is_idle(link, now) and now - link.used_s > _YOUNG_S]
        if idle:
            min(idle, key=lambda link: link.used_s).close()

    def _is_idle(self, link: Link, now: float) -> bool:
        return not link.num_streams and not self._book.has_reservation(link.peer, now)

    async def _sweep(self) -> None:
        """Close idle connections, and look at memory."""
        process = psutil.Process()
        while True:
            now = trio.current_time()
            for link in list(self._where):
                if self._is_idle(link, now) and now - link.used_s > self._limits.idle_s:
                    link.close()
            self._book.short_of_memory = process.memory_info().rss > self._limits.memory_bytes
            self.count()
            await trio.sleep(_SWEEP_S)

    def count(self) -> None:
        """Bring the levels of the tally up to date."""
        tally = self.tally
        tally.connections, tally.handshakes = self._door.num_connections, self._door.handshakes
        tally.reservations, tally.circuits = self._book.num_reservations, self._book.num_circuits
        tally.members, tally.looks = self.admission.num_members, self.admission.looks

    # -- streams -------------------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        """One stream of a peer. What the peer does wrong ends the stream and is counted."""
        try:
            with trio.fail_after(REQUEST_S):
                protocol = await negotiation.answer(stream, stream.peer, PROTOCOLS)
            if protocol == HOP:
                await self._hop(stream)
            elif protocol == PING:
                await pong(stream)
            else:
                await self._identify(stream)
        except RemoteError as error:
            if error.reason != "lost":
                self.tally.failed[error.reason] += 1
        except trio.TooSlowError:
            self.tally.failed["timeout"] += 1

    async def _identify(self, stream: Stream) -> None:
        observed = self._where.get(stream.link) or None
        addresses = self.addresses
        message = identification(self.identity, addresses, PROTOCOLS, self._config.agent, observed)
        await _answer(stream, message)

    async def _hop(self, stream: Stream) -> None:
        now = trio.current_time()
        asked = self._book.asked(stream.peer, now)
        if asked == "loop":
            self._door.ban(stream.peer, now)
            stream.link.close()
        if asked != "heard":
            await self._refuse(stream, "flood")
            return
        try:
            with trio.fail_after(REQUEST_S):
                request = messages.parse_hop(
                    await stream.read_message(messages.MAX_MESSAGE_BYTES), stream.peer
                )
        except RemoteError as error:
            if error.reason not in ("malformed", "oversized"):
                raise
            await self._refuse(stream, "malformed")
            return
        if isinstance(request, messages.Connect):
            await self._connect(stream, request.peer)
        else:
            await self._reserve(stream)

    async def _refuse(self, stream: Stream, refusal: Refusal) -> None:
        self.tally.refused[refusal] += 1
        await _answer(stream, messages.status(STATUS[refusal]))

    async def _reserve(self, stream: Stream) -> None:
        peer = stream.peer
        refusal = self._book.expected(peer, trio.current_time())
        if refusal is None:
            admitted = await self.admission.admit(peer, partial(own_record, stream.link))
            refusal = None if admitted == "member" else admitted
        now = trio.current_time()
        renewed = self._book.has_reservation(peer, now)
        if refusal is None and stream.link.is_over:
            return
        if refusal is None:
            refusal = self._book.reserve(peer, now)
        if refusal is not None:
            await self._refuse(stream, refusal)
            return
        if renewed:
            self.tally.renewed += 1
        else:
            self.tally.reserved += 1
        expires = int(time.time() + self._limits.reservation_s)
        addresses = [parse_address(address).to_bytes() for address in self.addresses]
        await _answer(stream, messages.reserved(self.identity, peer, expires, addresses))

    # -- circuits ------------------------------------------------------------------------------------

    async def _connect(self, stream: Stream, target: bytes) -> None:
        now = trio.current_time()
        member = self.admission.was_member(stream.peer)
        circuit = self._book.connect(stream.peer, target, member=member, now=now)
        if isinstance(circuit, str):
            await self._refuse(stream, circuit)
            return
        try:
            other = await self._reach(stream.peer, target)
            if other is not None:
                await self._carry(stream, other, circuit)
        finally:
            self._book.close(circuit)
            self._circuit_ended.set()
        if other is None:
            await self._refuse(stream, "unreachable")

    async def _carry(self, source: Stream, target: Stream, circuit: Circuit) -> None:
        end: End | None = None
        self.tally.connected += 1
        try:
            with trio.fail_after(ANSWER_S):
                await source.send_message(messages.status(Status.OK))
            with self._windows.of((source, target)):
                end = await splice(source, target, circuit, self._limits, self._passed)
        finally:
            target.abort()
            self.tally.ended[end or ("stopped" if self._book.draining else "lost")] += 1

    async def _reach(self, source: bytes, target: bytes) -> Stream | None:
        """A stream on which the target took the circuit; None if it did not."""
        links = [link for link in self._links.get(target, []) if not link.is_over and not link.leaving]
        if not links:
            return None
        stream: Stream | None = None
        taken = False
        try:
            stream = links[-1].open()
            with trio.fail_after(STOP_S):
                await negotiation.choose(stream, target, STOP)
                await stream.send_message(messages.stop_connect(source))
                answer = await stream.read_message(messages.MAX_MESSAGE_BYTES)
            taken = messages.parse_stop_status(answer, target) == Status.OK
        except RemoteError as error:
            self.tally.failed[error.reason] += 1
        except trio.TooSlowError:
            self.tally.failed["timeout"] += 1
        finally:
            if stream is not None and not taken:
                stream.abort()
        return stream if taken else None

    def _passed(self, count: int) -> None:
        self.tally.passed_bytes += count


async def _answer(stream: Stream, message: bytes) -> None:
    """Say it, and leave the peer time to read it."""
    with trio.fail_after(ANSWER_S):
        await stream.send_message(message)
        await stream.finish()
    await stream.linger(ANSWER_S)


def own_addresses(hosts: Sequence[str], port: int) -> tuple[str, ...]:
    """Where a relay that listens on these hosts is dialled, as far as this machine knows."""
    found: list[str] = []
    for host in hosts:
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            found += [str(each) for each in _interfaces(address.version)]
        else:
            found.append(str(address))
    return tuple(f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}" for host in found)[:8]


def _interfaces(version: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    texts = [
        each.address for found in psutil.net_if_addrs().values() for each in found if each.family in (2, 10)
    ]
    addresses = [ipaddress.ip_address(text) for text in texts if "%" not in text]
    right = [each for each in addresses if each.version == version and not each.is_loopback]
    return sorted(right, key=lambda each: each.is_private)


def address_of(socket: trio.SocketStream) -> str | None:
    """Where a connection comes from, as a multiaddr."""
    try:
        host, port = socket.socket.getpeername()[:2]
    except OSError:
        return None
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return f"/ip{address.version}/{address}/tcp/{port}"


def _place(address: str | None) -> str:
    if address is None:
        return "?"
    parsed = parse_address(address)
    return "" if parsed.is_loopback else prefix_of(parsed.to_bytes()) or "?"
