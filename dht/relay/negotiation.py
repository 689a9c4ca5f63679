"""multistream-select 1.0 (libp2p specs, connections/): which protocol is spoken on a connection or stream."""

from collections.abc import Collection
from typing import Protocol

from talkoot.dht.errors import RemoteError
from talkoot.dht.multiaddr import varint
from talkoot.dht.relay.link import read_message

_HEADER = "/multistream/1.0.0"
_NO = "na"
MAX_MESSAGE_BYTES = 1024
"""Longest line of the other side."""
MAX_PROPOSALS = 12
"""Protocols that the other side may ask for in turn."""


class Duplex(Protocol):
    """Something to read from and write to."""

    async def read(self, count: int, /) -> bytes:
        """Exactly so many bytes."""

    async def write(self, data: bytes) -> None:
        """All of them."""


async def answer(duplex: Duplex, peer: bytes, known: Collection[str]) -> str:
    """The protocol that the other side chose out of ours.

    Raises RemoteError (`unsupported`, `malformed`, `oversized`), and what the duplex raises.
    """
    await duplex.write(_line(_HEADER))
    if await _read(duplex, peer) != _HEADER:
        raise RemoteError(peer, "malformed", "not multistream")
    for _ in range(MAX_PROPOSALS):
        wanted = await _read(duplex, peer)
        if wanted in known:
            await duplex.write(_line(wanted))
            return wanted
        await duplex.write(_line(_NO))
    raise RemoteError(peer, "unsupported", "no protocol in common")


async def choose(duplex: Duplex, peer: bytes, protocol: str) -> None:
    """Have the other side speak a protocol. Raises RemoteError as `answer` does."""
    await duplex.write(_line(_HEADER) + _line(protocol))
    if await _read(duplex, peer) != _HEADER:
        raise RemoteError(peer, "malformed", "not multistream")
    if await _read(duplex, peer) != protocol:
        raise RemoteError(peer, "unsupported", protocol)


async def _read(duplex: Duplex, peer: bytes) -> str:
    line = await read_message(duplex, peer, MAX_MESSAGE_BYTES)
    if not line.endswith(b"\n"):
        raise RemoteError(peer, "malformed", "a line without an end")
    return line[:-1].decode("utf-8", "replace")


def _line(text: str) -> bytes:
    return varint(len(text) + 1) + text.encode() + b"\n"
