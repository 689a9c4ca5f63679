"""A node in a place of the laboratory: does what lines of JSON on its input ask, answers each with one.

    python tests/nat_node.py '{"port": 4001, "relays": [...]}'

The argument is a NetworkConfig. Requests: `dial` a peer, `addresses` of this node.
"""

import asyncio
import json
import sys
import time
from typing import Any

from talkoot.dht.config import NetworkConfig
from talkoot.dht.errors import RemoteError
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity, key_of_peer_id
from talkoot.dht.network import Channel, ProtocolSpec

PIECE = 2**20
SPEC = ProtocolSpec(name="test/pieces/1", max_header=64, max_payload=PIECE)
DIAL_S = 20.0
LOOK_S = AGAIN_S = 0.1
"""Pause between two looks at the path, and between two dials."""
OWN = ("direct", "punched")
SEND_S = 60.0

Json = dict[str, Any]


class Node:
    """Serves and measures."""

    def __init__(self, settings: Json) -> None:
        lists = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
        identity = Identity.generate()
        self.peer_id = identity.peer_id
        self.network = P2PNetwork(identity, NetworkConfig.home(**(settings | lists)), swarm=bytes(32))
        self.network.serve(SPEC, self._take)

    async def _take(self, channel: Channel) -> None:
        while True:
            await channel.receive(timeout_s=SEND_S)
            await channel.send(b"", timeout_s=SEND_S)

    async def answer(self, request: Json) -> Json:
        """Do what is asked."""
        if request["do"] == "addresses":
            return {"addresses": self.network.addresses, "held": len(self.network.relays.held)}
        peer = key_of_peer_id(request["peer"])
        await self.network.add_addresses(peer, request["addresses"])
        return await self._meet(peer, request["settle_s"], request["pieces"])

    async def _meet(self, peer: bytes, settle_s: float, pieces: int) -> Json:
        """The way to a peer at last, when it was reached at first and in that way, and the rate."""
        began = time.monotonic()
        failures: list[str] = []
        while not await self._reached(peer, failures):
            if time.monotonic() - began > settle_s:
                return {"path": "unreachable", "why": failures[-1]}
            await asyncio.sleep(AGAIN_S)
        first_s = time.monotonic() - began
        path = await self._settled(peer, began + settle_s)
        reached_s = time.monotonic() - began if path == "punched" else first_s
        rate = await self._rate(peer, pieces)
        return {"path": path, "first_s": first_s, "reached_s": reached_s, "mb_s": rate, "failures": failures}

    async def _settled(self, peer: bytes, give_up: float) -> str:
        """The path as the node sees it, which looks every two seconds, once it is not by a relay any more."""
        while (path := self.network.paths.of(peer)) not in OWN and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        return path

    async def _reached(self, peer: bytes, failures: list[str]) -> bool:
        """Whether a channel could be opened; if not, why is added to `failures`."""
        try:
            channel = await self.network.dial(peer, SPEC, timeout_s=DIAL_S)
        except (RemoteError, TimeoutError) as error:
            failures.append(str(error) or "no answer in time")
            return False
        await channel.close()
        return True

    async def _rate(self, peer: bytes, pieces: int) -> float:
        """Megabytes a second of what is sent to it."""
        channel = await self.network.dial(peer, SPEC, timeout_s=DIAL_S)
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hear(channel, pieces))
            for _ in range(pieces):
                await channel.send(b"", bytes(PIECE), timeout_s=SEND_S)
        took_s = time.monotonic() - began
        await channel.close()
        return pieces * PIECE / 1e6 / took_s

    async def _hear(self, channel: Channel, pieces: int) -> None:
        for _ in range(pieces):
            await channel.receive(timeout_s=SEND_S)

    async def run(self) -> None:
        """Until the end of the input."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        started = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.network.run(started=started.set))
            await started.wait()
            say({"peer": self.peer_id})
            while line := await reader.readline():
                say(await self.answer(json.loads(line)))
            running.cancel()


def say(answer: Json) -> None:
    """One line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(Node(json.loads(sys.argv[1])).run())
