"""Unmodified p2pd peers that reach each other through a relay: a program, because hivemind and py-libp2p
cannot be in one process.

python relay_clients.py RELAY PAIRS MIB [--keep]: each pair is a peer that asks for a reservation and one
that connects to it over the relay; MIB go there and the same back. Prints one line of JSON for each pair.
With --keep the pairs stay, and send a byte now and then, until the standard input ends.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from talkoot.dht import p2pd
from talkoot.dht.control import Control, read_stream_info
from talkoot.dht.identity import Identity, key_of_peer_id
from talkoot.dht.multiaddr import parse_address

PROTOCOL = "test/relayed/1"
BLOCK = 256 * 1024
SOON_S = 60.0


@contextlib.asynccontextmanager
async def daemon(identity: Identity, *flags: str) -> AsyncIterator[Control]:
    """A p2pd with these flags besides those that keep it to itself."""
    with tempfile.TemporaryDirectory(prefix="relay-client-") as name:
        folder = Path(name)
        (folder / "key").write_bytes(identity.libp2p_bytes())
        fixed = ("relayService=0", "relayDiscovery=0", "natPortMap=0", "autonat=0", "dhtClient=1", "b=0")
        process = await asyncio.create_subprocess_exec(
            str(p2pd.binary()),
            *(f"-{flag}" for flag in (*fixed, *flags, f"listen=/unix{folder}/control", f"id={folder}/key")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            assert process.stdout is not None
            while not (await process.stdout.readline()).startswith(b"Peer Addrs:"):
                pass
            yield Control(folder / "control", timeout_s=SOON_S)
        finally:
            process.kill()
            await process.wait()


async def exchanged(near: socket.socket, far: socket.socket, count: int) -> None:
    """So many bytes from one end to the other."""
    loop = asyncio.get_running_loop()
    block = os.urandom(BLOCK)

    async def send() -> None:
        for _ in range(count // BLOCK):
            await loop.sock_sendall(near, block)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        left = count // BLOCK * BLOCK
        while left:
            data = await loop.sock_recv(far, min(left, BLOCK))
            if not data:
                raise EOFError(f"cut with {left} bytes to come")
            left -= len(data)


async def reserve(control: Control, relay: bytes) -> None:
    """Ask for a reservation, as go-libp2p's autorelay does, but at once."""
    loop = asyncio.get_running_loop()
    with await control.open_stream(relay, "/libp2p/circuit/relay/0.2.0/hop", timeout_s=SOON_S) as stream:
        await loop.sock_sendall(stream, bytes([2, 8, 0]))
        answer = b""
        while not answer.endswith(bytes([5 << 3, 100])):
            data = await loop.sock_recv(stream, 4096)
            if not data:
                raise PermissionError(f"no reservation: {answer!r}")
            answer += data


async def pair(relay: str, mib: int, keep: asyncio.Event | None) -> None:
    """One peer behind the relay and one that comes to it."""
    loop = asyncio.get_running_loop()
    address = parse_address(relay)
    hidden, caller = Identity.generate(), Identity.generate()
    through = parse_address(f"{relay}/p2p-circuit")
    began = time.monotonic()
    async with daemon(hidden, "noListenAddrs") as there, daemon(caller, "noListenAddrs") as here:
        assert address.peer is not None
        await there.connect(
            address.peer, [parse_address(relay.rpartition("/p2p/")[0]).to_bytes()], timeout_s=SOON_S
        )
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/accept")
            listener.listen(4)
            listener.setblocking(False)
            await there.accept_streams(Path(f"{folder}/accept"), PROTOCOL)
            await reserve(there, address.peer)
            await here.connect(hidden.key, [through.to_bytes()], timeout_s=SOON_S)
            reserved_s = time.monotonic() - began
            near = await here.open_stream(hidden.key, PROTOCOL, timeout_s=SOON_S)
            far, _ = await loop.sock_accept(listener)
            far.setblocking(False)
            with near, far:
                await read_stream_info(far)
                took = []
                for one, other in ((near, far), (far, near)):
                    start = time.monotonic()
                    await exchanged(one, other, mib * 2**20)
                    took.append(time.monotonic() - start)
                result = {
                    "reserved_s": round(reserved_s, 2),
                    "MB/s": [round(mib * 1.048576 / each, 1) for each in took],
                }
                print(json.dumps(result), flush=True)
                while keep is not None and not keep.is_set():
                    await exchanged(near, far, BLOCK)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(5):
                            await keep.wait()


async def main() -> None:
    relay, pairs, mib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    key_of_peer_id(relay.rpartition("/p2p/")[2])
    keep = asyncio.Event() if "--keep" in sys.argv else None
    async with asyncio.TaskGroup() as tasks:
        for _ in range(pairs):
            tasks.create_task(pair(relay, mib, keep))
        if keep is not None:
            await asyncio.to_thread(sys.stdin.read)
            keep.set()


if __name__ == "__main__":
    asyncio.run(main())
