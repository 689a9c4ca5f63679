"""A node on py-libp2p in a process of its own, without hivemind: does what each line of its input says.

A line is JSON with the task's name as `do` and what it needs; one line of JSON says what came of it.
"""

import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from talkoot.dht.errors import RemoteError
from talkoot.dht.framing import DATA, encode_prefix
from talkoot.dht.identity import Identity, key_of_peer_id, peer_id_of
from talkoot.dht.outside.directory import OutsideDirectory
from talkoot.dht.outside.host import Outside, running
from talkoot.dht.records import PeerRecord

IDENTITY = Identity.from_seed(b"\x55" * 32)  # as in outside_rig, which this process must not import
HEAVY = ("torch", "hivemind", "numpy", "scipy")


def own_record(swarm: bytes, **changes: Any) -> PeerRecord:
    """A record of this process's identity."""
    values: dict[str, Any] = {
        "swarm": swarm, "key": IDENTITY.key, "protocol": 1, "version": "0.1.0", "role": "relay",
        "addresses": ("/ip4/127.0.0.1/tcp/4001",), "round": 0, "digest": bytes(32), "steps": 0, "tokens": 0,
        "speed": 0.0, "upload": 0.0, "download": 0.0, "corpus": b"", "loss": 0.0, "state": "relaying",
    }  # fmt: skip
    return PeerRecord(**(values | changes))


async def look(host: Outside, task: dict[str, Any]) -> dict[str, Any]:
    """Read the directory; what was found, how long it took, and how far each node's clock is."""
    directory = OutsideDirectory(host, bytes.fromhex(task["swarm"]), task["bootstrap"])
    began = time.monotonic()
    for _ in range(task.get("looks", 1)):
        found = await directory.look()
    took = time.monotonic() - began
    clocks = {}
    for node in found.answered:
        with contextlib.suppress(RemoteError):
            clocks[peer_id_of(node)] = await directory.ping(node)
    return {
        "peers": {peer_id_of(key): signed.record.addresses for key, signed in directory.peers().items()},
        "rounds": {peer_id_of(key): signed.record.round for key, signed in directory.peers().items()},
        "answered": [peer_id_of(key) for key in found.answered],
        "visits": found.visits,
        "took_s": took,
        "clocks": clocks,
        "rejected": directory.rejected,
        "failures": directory.failures,
    }


async def publish(host: Outside, task: dict[str, Any]) -> dict[str, Any]:
    """Announce a relay; how many nodes keep the record."""
    swarm = bytes.fromhex(task["swarm"])
    directory = OutsideDirectory(host, swarm, task["bootstrap"])
    return {"kept": await directory.publish(own_record(swarm), ttl_s=60)}


async def reach(host: Outside, task: dict[str, Any]) -> dict[str, Any]:
    """Connect to a peer of which only the PeerID is known."""
    directory = OutsideDirectory(host, bytes.fromhex(task["swarm"]), task["bootstrap"])
    await directory.look()
    directory.book = type(directory.book)()
    peer = key_of_peer_id(task["peer"])
    await host.disconnect(peer)
    await directory.reach(peer)
    return {"connected": host.is_connected(peer), "at": [str(each) for each in directory.book.of(peer)]}


async def call(host: Outside, task: dict[str, Any]) -> dict[str, Any]:
    """One unary call; its answer, or why there is none."""
    peer = key_of_peer_id(task["peer"])
    try:
        await host.connect(peer, task["bootstrap"], timeout_s=5)
        limits = {"timeout_s": task.get("timeout_s", 5), "max_bytes": task.get("max_bytes", 2**20)}
        answer = await host.call(peer, task["call"], bytes.fromhex(task["request"]), **limits)
    except RemoteError as error:
        return {"reason": error.reason, "detail": error.detail}
    return {"answer": answer.hex()}


async def serve(host: Outside, task: dict[str, Any]) -> dict[str, Any]:
    """Answer calls and streams until the standard input ends: `echo` backwards, `fail`, and a stream that
    sends back what it gets."""

    async def backwards(peer: bytes, request: bytes) -> bytes:
        return request[::-1] + peer

    async def fail(peer: bytes, request: bytes) -> bytes:
        raise RemoteError(peer, "refused", "on purpose")

    async def echo(_peer: bytes, stream: Any) -> None:
        while data := await stream.read(65536):
            await stream.write(data)

    host.serve("echo", backwards, max_bytes=2**20)
    host.serve("fail", fail)
    host.serve_stream("stream/echo/1", echo, timeout_s=30)
    print(json.dumps({"addresses": host.addresses}), flush=True)
    await trio.to_thread.run_sync(sys.stdin.read)
    return {"failures": host.failures}


async def stream(host: Outside, task: dict[str, Any]) -> dict[str, Any]:
    """Open a raw stream, send one frame, read as many bytes back."""
    peer = key_of_peer_id(task["peer"])
    await host.connect(peer, task["bootstrap"], timeout_s=5)
    payload = bytes(range(256)) * task["blocks"]
    sent, received = encode_prefix(DATA, b"header", len(payload)) + payload, bytearray()
    async with host.stream(peer, task["protocol"], timeout_s=20) as opened, trio.open_nursery() as nursery:
        nursery.start_soon(opened.write, sent)
        while len(received) < len(sent):
            received += await opened.read(65536)
    return {"same": bytes(received) == sent, "bytes": len(received)}


TASKS: dict[str, Callable[[Outside, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "look": look, "publish": publish, "reach": reach, "call": call, "serve": serve, "stream": stream,
}  # fmt: skip


async def main(task: dict[str, Any]) -> None:
    async with running(
        IDENTITY, listen=task.get("listen", ()), security=task.get("security", ("noise", "tls"))
    ) as host:
        result = await TASKS[task["do"]](host, task)
    result["heavy"] = [module for module in HEAVY if module in sys.modules]
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    while line := sys.stdin.readline():
        trio.run(main, json.loads(line))
