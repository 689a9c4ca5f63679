"""Trying whether a peer can be dialled at a place: one TCP connection of its own, and who answers there.

p2pd would use the connection that it has, so this is done without it: a connection, libp2p's greeting
(multistream-select), and the first half of a Noise handshake, which proves whose listener it is. Whoever
listens there gets 20 bytes, and 43 more only if it speaks libp2p.
"""

import asyncio
import errno
from typing import Literal, TypeAlias, get_args

from talkoot.dht.noise import MAX_ANSWER_BYTES, Initiator

Outcome: TypeAlias = Literal["reached", "refused", "silent", "unroutable", "other", "unknown"]
"""`reached`: the peer itself answers. `refused`: nothing listens, or something says no. `silent`: nothing
comes back in time. `unroutable`: there is no way. `other`: somebody or something else answers. `unknown`: not
tried, or could not be."""

OUTCOMES: frozenset[str] = frozenset(get_args(Outcome))

DIAL_S = 5.0
"""Longest time of one try: two round trips, and a lost packet that is sent again after one second and two."""

_GREETING = b"\x13/multistream/1.0.0\n"
_NOISE = b"\x07/noise\n"
_REFUSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EACCES, errno.EPERM})
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def dial_back(host: str, port: int, key: bytes, *, timeout_s: float = DIAL_S) -> Outcome:
    """Whether the peer with this key listens at an IP address and TCP port. Raises for nothing there."""
    connected = False
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=MAX_ANSWER_BYTES)
            connected = True
            try:
                found = await _who(reader, writer)
            finally:
                writer.transport.abort()
    except (TimeoutError, OSError) as error:
        return "other" if connected else _of(error)
    except (ValueError, asyncio.IncompleteReadError):
        return "other"
    return "reached" if found == key else "other"


def _of(error: OSError) -> Outcome:
    """What it means that no connection was made. TimeoutError is an OSError, too."""
    if isinstance(error, TimeoutError):
        return "silent"
    if error.errno in _SHORTAGES:
        return "unknown"
    return "refused" if error.errno in _REFUSED else "unroutable"


async def _who(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The key of who answers. Raises ValueError, IncompleteReadError, OSError."""
    writer.write(_GREETING)
    await _expect(reader, _GREETING)
    handshake = Initiator.fresh()
    writer.write(_NOISE)
    await _expect(reader, _NOISE)
    writer.write(len(handshake.first).to_bytes(2, "big") + handshake.first)
    size = int.from_bytes(await reader.readexactly(2), "big")
    if size > MAX_ANSWER_BYTES:
        raise ValueError("a handshake of another length")
    return handshake.who(await reader.readexactly(size))


async def _expect(reader: asyncio.StreamReader, line: bytes) -> None:
    if await reader.readexactly(len(line)) != line:
        raise ValueError("no libp2p")
