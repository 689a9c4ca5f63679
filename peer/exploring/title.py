"""The manifest of a swarm, asked for from outside: its hash is the swarm's id, so any peer may give it."""

from typing import Literal

import msgspec

from talkoot.dht.errors import RemoteError
from talkoot.dht.network import ProtocolSpec
from talkoot.peer.manifest import MAX_MANIFEST_BYTES, Manifest, from_canonical
from talkoot.peer.observing.protocol import Dialler

ASK_S = 10.0
QUESTION = msgspec.msgpack.encode({"ask": "manifest"})
"""As `talkoot.peer.transfer` asks, which an explorer does not load: it needs torch."""


class _Answer(msgspec.Struct, frozen=True):
    status: Literal["ok", "gone", "busy", "unknown", "later"]


def state_protocol(swarm: bytes) -> ProtocolSpec:
    """The protocol by which peers hand state on, for a question whose answer is a manifest."""
    return ProtocolSpec(
        name=f"talkoot/{swarm.hex()[:16]}/state/1", max_header=4096, max_payload=MAX_MANIFEST_BYTES
    )


async def ask_manifest(calls: Dialler, peer: bytes, swarm: bytes) -> Manifest:
    """The swarm's manifest. Raises RemoteError, TimeoutError."""
    channel = await calls.dial(peer, state_protocol(swarm), timeout_s=ASK_S)
    try:
        await channel.send(QUESTION, timeout_s=ASK_S)
        frame = await channel.receive(timeout_s=ASK_S)
    finally:
        await channel.close()
    if read_status(frame.header, peer) != "ok":
        raise RemoteError(peer, "refused", "no manifest")
    try:
        manifest = from_canonical(bytes(frame.payload))
    except ValueError as error:
        raise RemoteError(peer, "malformed", f"manifest: {error}") from error
    if manifest.swarm_id != swarm or not manifest.sealed:
        raise RemoteError(peer, "foreign", "the manifest of another swarm")
    return manifest


def read_status(header: bytes, peer: bytes) -> str:
    """The word in an answer's header. Raises RemoteError (`malformed`)."""
    try:
        return msgspec.msgpack.decode(header, type=_Answer).status
    except (ValueError, RecursionError) as error:
        raise RemoteError(peer, "malformed", str(error)) from error
