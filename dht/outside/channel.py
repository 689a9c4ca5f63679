"""Our framed channels over py-libp2p, for asyncio code that asks the peers whom a `Follower` follows."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import trio
from libp2p.abc import INetStream

from talkoot.dht.company import Company
from talkoot.dht.errors import ChannelClosed, RemoteError
from talkoot.dht.framing import DATA, END_FRAME, Event, FrameDecoder, encode_prefix
from talkoot.dht.network import Buffer, Channel, Events, Frame, ProtocolSpec
from talkoot.dht.outside.directory import OutsideDirectory
from talkoot.dht.outside.follower import Follower, Work
from talkoot.dht.outside.host import Outside

MAX_WAITING = 32
"""Questions that wait for the follower's loop at once, each in a thread that does nothing else."""
_READ_BYTES = 16 * 1024

ResultT = TypeVar("ResultT")


class _Asking:
    """Has work done in the follower's loop, from asyncio, in threads that nothing else has to wait for."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._threads = ThreadPoolExecutor(MAX_WAITING, thread_name_prefix="asking")

    async def do(self, work: Work[ResultT]) -> ResultT:
        """As `Follower.ask`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._follower.ask, work)


class OutsideChannel(Channel):
    """One channel that was opened here."""

    def __init__(self, asking: _Asking, peer: bytes, spec: ProtocolSpec, stream: INetStream) -> None:
        self.peer = peer
        self.protocol = spec.name
        self.bytes_sent = self.bytes_received = 0
        self._asking = asking
        self._stream = stream
        self._decoder = FrameDecoder(max_header=spec.max_header, max_payload=spec.max_payload)
        self._waiting: list[Event] = []

    async def send(self, header: bytes, payload: Buffer = b"", *, timeout_s: float) -> None:
        data = encode_prefix(DATA, header, len(payload)) + bytes(payload)
        await self._work(timeout_s, lambda: self._stream.write(data))
        self.bytes_sent += len(data)

    async def receive(self, *, timeout_s: float | None = None) -> Frame:
        while not self._waiting:
            read = lambda: self._stream.read(_READ_BYTES)  # noqa: E731 - what is read, not how
            data = await self._work(timeout_s or 60.0, read)
            self.bytes_received += len(data)
            self._waiting += self._decoder.feed(data)
        event = self._waiting.pop(0)
        if event == "busy":
            raise RemoteError(self.peer, "busy", "the peer has no room for a channel")
        if event == "ended":
            raise ChannelClosed(self.peer, "ended")
        return event

    async def close(self) -> None:
        async def end() -> None:
            await self._stream.write(END_FRAME)
            await self._stream.close()

        try:
            await self._work(1.0, end)
        except (RemoteError, TimeoutError):
            return

    async def _work(self, timeout_s: float, work: Callable[[], Awaitable[ResultT]]) -> ResultT:
        async def bounded(_host: Outside, _directory: OutsideDirectory) -> ResultT:
            try:
                with trio.fail_after(timeout_s):
                    return await work()
            except trio.TooSlowError as error:
                raise TimeoutError from error
            except Exception as error:
                raise ChannelClosed(self.peer, "lost", repr(error)) from error

        return await self._asking.do(bounded)


class OutsideCalls:
    """Opens channels to peers of the followed swarm, and counts what they do wrong: as much of a `Network` as
    those need who only ask."""

    def __init__(self, follower: Follower) -> None:
        self.events = Events()
        self.company = Company()
        self._asking = _Asking(follower)

    async def dial(self, peer: bytes, protocol: ProtocolSpec, *, timeout_s: float) -> Channel:
        """As `Network.dial`."""

        async def open_stream(host: Outside, directory: OutsideDirectory) -> INetStream:
            await directory.reach(peer, timeout_s=timeout_s)
            return await host.open(peer, protocol.name, timeout_s=timeout_s)

        stream = await self._asking.do(open_stream)
        return OutsideChannel(self._asking, peer, protocol, stream)
