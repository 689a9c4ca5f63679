"""What a peer may ask another about its own connection, and what is answered: `talkoot/probe/1`.

Of no swarm, and answered to anybody. An ask and an answer are one frame each; the payload of a transfer comes
in frames without header, before the answer (`send`) or after the ask (`take`). Nothing is ever sent to anyone
but the asker.
"""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from talkoot.dht.dialback import Outcome
from talkoot.dht.errors import RemoteError
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.network import ProtocolSpec

BLOCK_BYTES = 32 * 1024
"""Payload of one frame of a transfer."""

FIRST_BYTES = 8 * 1024
"""Of the first transfer. Each next one is twice as large, until one takes `ENOUGH_S`: a slow line is timed
with few bytes, and none are left in its buffers."""

TRANSFER_BYTES = 4 * 2**20
"""Most bytes of one transfer."""

ENOUGH_S = 1.0
"""A transfer that takes so long is long enough to time."""

TRANSFER_S = 6.0
"""Longest time of one transfer: the first one at 11 kbit/s."""

IDLE_S = 20.0
"""A channel on which nothing is asked for so long is closed."""

MAX_ASKS = 128
"""Asks on one channel."""

PROBE = ProtocolSpec(
    name="talkoot/probe/1",
    max_header=512,
    max_payload=BLOCK_BYTES,
    max_channels_per_peer=2,
)

Do = Literal["hello", "echo", "dial_back", "send", "take"]
Status = Literal["ok", "busy", "exchanging"]
_Bytes = Annotated[int, Meta(ge=0, le=TRANSFER_BYTES)]


class Ask(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Header of an ask."""

    do: Do
    """`hello`: who are you, and where do you see me. `echo`: answer. `dial_back`: try to dial me. `send` and
    `take`: so many bytes are to come from you, or come from me."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Of `dial_back`: the TCP port, at the address that this connection comes from."""
    num_bytes: _Bytes = 0
    """Of a transfer."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Header of an answer."""

    status: Status
    """`busy`: asked too often. `exchanging`: a round comes first. Both: ask later."""
    clock: float = 0.0
    """Of `hello`: Unix time, by the answerer's clock."""
    address: Annotated[str, Meta(max_length=80)] = ""
    """Of `hello`: where the asker is seen, /ip4/.../tcp/...; empty when it is not known (behind a relay)."""
    version: Annotated[str, Meta(max_length=32)] = ""
    """Of `hello`: the answerer's talkoot."""
    protocol: Annotated[int, Meta(ge=0, le=255)] = 0
    """Of `hello`: the version of the swarms' protocol that it speaks."""
    outcome: Outcome = "unknown"
    """Of `dial_back`."""


_asks = msgspec.msgpack.Decoder(Ask)
_answers = msgspec.msgpack.Decoder(Answer)


def read_ask(data: bytes, peer: bytes) -> Ask:
    """Raises RemoteError (`malformed`)."""
    try:
        return _asks.decode(data)
    except (ValueError, RecursionError) as error:
        raise RemoteError(peer, "malformed", str(error)) from error


def read_answer(data: bytes, peer: bytes) -> Answer:
    """Raises RemoteError (`malformed`)."""
    try:
        answer = _answers.decode(data)
        if not math.isfinite(answer.clock):
            raise ValueError("a number that is not finite")
        if answer.address:
            parse_address(answer.address)
        if answer.version and not (answer.version.isascii() and answer.version.isprintable()):
            raise ValueError("a version that is none")
    except (ValueError, RecursionError) as error:
        raise RemoteError(peer, "malformed", str(error)) from error
    return answer
