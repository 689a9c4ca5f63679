"""One attacker of `benchmarks/hostile.py`: a process with its own key and p2pd that does one kind of harm.

    python benchmarks/hostile_attacker.py '{"kind": "frames", ...}'

Prints one JSON object: what it sent, and how often the door was shut in its face.
"""

import asyncio
import json
import os
import random
import resource
import socket
import struct
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import uvloop

from talkoot.averaging import messages
from talkoot.averaging.certificate import Certificate
from talkoot.averaging.wire import encode
from talkoot.dht.config import NetworkConfig
from talkoot.dht.entries import pack_envelope
from talkoot.dht.errors import RemoteError
from talkoot.dht.framing import DATA, encode_prefix
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity, key_of_peer_id, multihash_of
from talkoot.dht.network import ProtocolSpec
from talkoot.dht.p2pd import P2pdError
from talkoot.dht.substrate import P2PDaemonError, P2PHandlerError, PeerID, dht_pb2
from talkoot.dht.validator import directory_id
from talkoot.peer.links import protocols
from talkoot.peer.transfer import AskChain, AskHead, StateClient, state_protocol

Json = dict[str, Any]

HANDSHAKE = b"\x13/multistream/1.0.0\n"
"""The first message of a libp2p connection."""
DOOR_S = 0.05
"""Pause after a door that was shut."""
BATCH = 64
"""Frames of one write."""


class Attacker:
    """What all kinds of harm need."""

    def __init__(self, orders: Json) -> None:
        self.orders = orders
        self.random = random.Random(orders["seed"])
        self.swarm = bytes.fromhex(orders["swarm"])
        self.address = orders["address"]
        self.victim = key_of_peer_id(self.address.rpartition("/")[2])
        self.identity = Identity.generate()
        config = NetworkConfig.test(bootstrap=(self.address,), max_files=16384)
        self.network = P2PNetwork(self.identity, config, swarm=self.swarm)
        lanes = protocols(self.swarm)
        self.control, self.bulk = lanes["control"], lanes["bulk"]
        self.state = replace(state_protocol(self.swarm), max_request=None)
        self.sent = self.refused = 0
        self.until = time.monotonic() + orders["seconds"]

    @property
    def left(self) -> int:
        """What is still to be sent, while there is time."""
        return max(0, self.orders["count"] - self.sent) if time.monotonic() < self.until else 0

    async def stream(self, spec: ProtocolSpec) -> socket.socket | None:
        """A raw stream to the victim, below our own framing and its limits; None where it is refused."""
        control = self.network._control
        if control is not None:
            with suppress(RemoteError, P2pdError, TimeoutError):
                return await control.open_stream(self.victim, spec.name, timeout_s=5.0)
        self.refused += 1
        await asyncio.sleep(DOOR_S)  # it was shown the door: so long until it tries again
        return None

    async def write(self, spec: ProtocolSpec, frames: list[bytes]) -> None:
        """These bytes over a new stream, until it is cut."""
        connection = await self.stream(spec)
        if connection is None:
            self.sent += len(frames)
            return
        loop = asyncio.get_running_loop()
        with connection:
            for frame in frames:
                try:
                    async with asyncio.timeout(2.0):
                        await loop.sock_sendall(connection, frame)
                except OSError:  # a timeout is one
                    self.refused += 1
                    break
                self.sent += 1
            with suppress(OSError):  # until the other side has taken it, and said what it thinks
                async with asyncio.timeout(0.2):
                    while await loop.sock_recv(connection, 4096):
                        pass

    async def call_store(self, owner: bytes, envelope: bytes) -> None:
        """Put a record on the victim's node."""
        self.sent += 1
        node = self.network._directory._node
        if node is None:
            self.refused += 1
            return
        value = pack_envelope(envelope)
        request = dht_pb2.StoreRequest(
            keys=[directory_id(self.swarm).to_bytes()],
            subkeys=[msgspec.msgpack.encode(owner)],
            values=[value],
            expiration_time=[time.time() + 60],
            in_cache=[False],
        )
        try:
            stub = node.protocol.get_stub(PeerID(multihash_of(self.victim)))
            await stub.rpc_store(request, timeout=3.0)
        except (OSError, EOFError, P2PDaemonError, P2PHandlerError):
            self.refused += 1
            await asyncio.sleep(DOOR_S)  # it was shown the door: so long until it tries again

    async def envelopes(self) -> list[tuple[bytes, bytes]]:
        """The honest peers' announcements, as they are in the directory."""
        for _ in range(100):
            await self.network.directory.peers()
            table = self.network._directory.table
            found = [(owner, table.envelope_of(owner)) for owner in table.owners]
            if found:
                return [(owner, envelope) for owner, envelope in found if envelope is not None]
            await asyncio.sleep(0.1)  # others announce themselves in their own time
        return []

    async def certificates(self) -> list[Certificate]:
        """What the victim gives everybody: its head and some of its chain."""
        try:
            client = await StateClient.connect(self.network, self.victim, self.swarm)
            try:
                head, _ = await client.head()
                return [head, *(await client.chain(0))[-20:]]
            finally:
                await client.close()
        except (RemoteError, TimeoutError):
            return []


# -- what is sent ------------------------------------------------------------------------------------


def frame(header: bytes, payload: bytes = b"") -> bytes:
    """A sound frame."""
    return encode_prefix(DATA, header, len(payload)) + payload


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, dropped, doubled or swapped with noise."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if out else 0
        match rng.randrange(5):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                del out[at : at + rng.randint(1, 8)]
            case 2:
                out[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                out[at:at] = out[at : at + rng.randint(1, 64)]
            case _:
                out[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\xdd\xff\xff\xff", b"\xc1"))
    return bytes(out)


def samples(attacker: Attacker, certificates: list[Certificate]) -> list[tuple[ProtocolSpec, bytes]]:
    """Sound messages of many kinds, to begin with."""
    key, number = attacker.identity.key, attacker.orders["round"]
    here: Json = {"round": number, "attempt": 0}
    said = [
        messages.Ping(**here, nonce=7),
        messages.Pong(**here, nonce=7),
        messages.Leave(**here),
        messages.Call(**here, prior=key, form_s=1.0),
        messages.Abort(**here, reason="x", suspects=(key,)),
        messages.Receipt(**here, roster=key, reducer=key, contributor=key, root=key),
        messages.Join(
            **here, key=key, prior=key, role="full", upload=1.0, contribution=None, lock=None, holds=(),
            expects_s=(0.0, 0.0, 0.0), memory="whole",
        ),
        *(messages.Committed(**here, certificate=each) for each in certificates),
    ]  # fmt: skip
    asked = [AskHead(), AskChain(0)]
    bulk = messages.BulkHeader("slice", number, 0, key, 0)
    return [
        *((attacker.control, encode(message)) for message in said),
        *((attacker.state, msgspec.msgpack.encode(request)) for request in asked),
        (attacker.bulk, msgspec.msgpack.encode(bulk)),
    ]


async def frames(attacker: Attacker) -> None:
    """Mutated frames: half of them sound to the framing, so that the decoders behind it see them."""
    rng = attacker.random
    known = samples(attacker, await attacker.certificates())
    while attacker.left:
        spec, _ = rng.choice(known)
        kind = [data for each, data in known if each.name == spec.name]
        batch = []
        for _ in range(min(BATCH, attacker.left)):
            data = rng.choice(kind)
            sound = frame(mutated(data, rng)) if rng.random() < 0.5 else mutated(frame(data), rng)
            batch.append(sound)
        await attacker.write(spec, batch)


async def oversized(attacker: Attacker) -> None:
    """Declarations of up to 4 GiB, and just above each limit."""
    lengths = [2**31, 2**32 - 1, 2**24 + 1, 2**40 % 2**32 + 2**30]
    while attacker.left:
        spec = attacker.random.choice((attacker.control, attacker.bulk, attacker.state))
        length = attacker.random.choice([*lengths, spec.max_payload + 1])
        header_bytes = attacker.random.choice((0, 10, spec.max_header + 1))
        checked = struct.pack(">BII", DATA, header_bytes, length)
        crc = zlib.crc32(checked)
        await attacker.write(spec, [checked + crc.to_bytes(4, "big") + bytes(1000)])


async def bombs(attacker: Attacker) -> None:
    """Small bytes that declare much: nested arrays, huge counts, a directory value of 4 MB."""
    rng, limit = attacker.random, attacker.control.max_header
    while attacker.left:
        match rng.randrange(5):
            case 0:
                await attacker.write(attacker.control, [frame(b"\x91" * (limit - 1) + b"\xc0")])
            case 1:
                await attacker.write(attacker.control, [frame(b"\xdd\xff\xff\xff\xff" * 1000)])
            case 2:
                await attacker.write(attacker.control, [frame(b"\xdf\xff\xff\xff\xff" + b"\xa1t" * 10_000)])
            case 3:
                await attacker.write(attacker.state, [frame(b"\x81" * 4095)])
            case _:
                await attacker.call_store(attacker.identity.key, rng.randbytes(3_900_000))


async def replays(attacker: Attacker) -> None:
    """True announcements and certificates of others, again and again, when newer ones are there."""
    old = await attacker.envelopes()
    certificates = await attacker.certificates()
    number = attacker.orders["round"]
    await asyncio.sleep(2.5)  # by then they have announced something newer, and the rounds have gone on
    said = [
        frame(encode(messages.Committed(round=number, attempt=0, certificate=each))) for each in certificates
    ]
    while attacker.left:
        if old and attacker.random.random() < 0.1:
            await attacker.call_store(*attacker.random.choice(old))
        elif said:
            batch = attacker.random.choices(said, k=min(BATCH, attacker.left))
            await attacker.write(attacker.control, batch)
        else:
            attacker.sent += 1
            await attacker.stream(attacker.control)


async def forged(attacker: Attacker) -> None:
    """Announcements in others' names and certificates that nobody signed."""
    rng = attacker.random
    known = await attacker.envelopes()
    while attacker.left:
        certificates = await attacker.certificates() if rng.random() < 0.3 else []
        if certificates:  # the victim's head: what is forged is of the round that runs
            real = certificates[0]
            number, digest = real.value.round + 1, rng.randbytes(32)
            value = msgspec.structs.replace(
                real.value, round=number, prior=real.value.digest, digest=digest, cut=()
            )
            made = msgspec.structs.replace(real, value=value)
            message = messages.Committed(round=value.round, attempt=0, certificate=made)
            await attacker.write(attacker.control, [frame(encode(message))] * min(4, attacker.left))
        elif known:
            owner, envelope = rng.choice(known)
            changed = bytearray(envelope)
            changed[rng.randrange(17, len(changed))] ^= 1 << rng.randrange(8)
            await attacker.call_store(owner, bytes(changed))
        else:
            attacker.sent += 1
            await attacker.stream(attacker.control)


async def channels(attacker: Attacker) -> None:
    """Streams that are opened and left, as fast as it goes."""
    held: list[socket.socket] = []
    while attacker.left:
        connection = await attacker.stream(attacker.random.choice((attacker.control, attacker.bulk)))
        attacker.sent += 1
        if connection is not None:
            held.append(connection)
    for connection in held:
        connection.close()


async def connections(attacker: Attacker) -> None:
    """TCP connections to p2pd that say nothing or noise; held to the end."""
    await _knock(attacker, lambda: attacker.random.choice((b"", attacker.random.randbytes(100))))


async def half_open(attacker: Attacker) -> None:
    """Handshakes that go on by a byte a second and never end."""
    await _knock(attacker, lambda: HANDSHAKE[:1], drip=True)


async def _knock(attacker: Attacker, first: Callable[[], bytes], *, drip: bool = False) -> None:
    host, port = attacker.address.split("/")[2], int(attacker.address.split("/")[4])
    held: list[socket.socket] = []
    loop = asyncio.get_running_loop()
    while attacker.left:
        connection = socket.socket()
        connection.setblocking(False)
        attacker.sent += 1
        try:
            async with asyncio.timeout(2.0):
                await loop.sock_connect(connection, (host, port))
                await loop.sock_sendall(connection, first())
            held.append(connection)
        except OSError:
            attacker.refused += 1
            connection.close()
    hold_s = max(0.0, attacker.until - time.monotonic())
    attacker.orders["held"] = len(held)
    for second in range(int(hold_s)):
        await asyncio.sleep(1.0)  # they are held open: that is the attack
        for connection in held if drip else ():
            with suppress(OSError):
                connection.send(HANDSHAKE[1 + second % 18 : 2 + second % 18])
    attacker.orders["alive"] = sum(map(_alive, held))
    for connection in held:
        connection.close()


def _alive(connection: socket.socket) -> bool:
    """Whether the other side still holds a connection."""
    try:
        while data := connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return bool(data)


KINDS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    each.__name__: each
    for each in (frames, oversized, bombs, replays, forged, channels, connections, half_open)
}


async def _attack(orders: Json) -> Json:
    attacker = Attacker(orders)
    began = time.monotonic()
    if orders["kind"] in ("connections", "half_open"):  # no key, no p2pd
        await KINDS[orders["kind"]](attacker)
    else:
        started = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            service = group.create_task(attacker.network.run(started=started.set))
            await started.wait()
            began = time.monotonic()
            attacker.until = began + orders["seconds"]
            await KINDS[orders["kind"]](attacker)
            service.cancel()
    return {
        "peer_id": attacker.identity.peer_id,
        "sent": attacker.sent,
        "refused": attacker.refused,
        "seconds": round(time.monotonic() - began, 1),
        **{name: orders[name] for name in ("held", "alive") if name in orders},
    }


def main() -> None:
    """See the module."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps(uvloop.run(_attack(json.loads(sys.argv[1])))), flush=True)
    os._exit(0)  # whatever hivemind still has running


if __name__ == "__main__":
    main()
