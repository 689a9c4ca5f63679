"""libp2p's identify and ping, as far as a relay answers them: others learn from it that there is a relay."""

from collections.abc import Sequence

from talkoot.dht.identity import Identity
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.outside.wire import bytes_field
from talkoot.dht.relay.link import Stream
from talkoot.dht.relay.messages import public_key

IDENTIFY = "/ipfs/id/1.0.0"
PING = "/ipfs/ping/1.0.0"
PING_BYTES = 32
MAX_PINGS = 1000
"""Pings on one stream."""

_PUBLIC_KEY, _LISTEN, _PROTOCOLS, _OBSERVED, _VERSION, _AGENT = 1, 2, 3, 4, 5, 6


def identification(
    identity: Identity, addresses: Sequence[str], protocols: Sequence[str], agent: str, observed: str | None
) -> bytes:
    """Who we are; `observed` is where the asker's connection comes from."""
    fields = [bytes_field(_PUBLIC_KEY, public_key(identity.key))]
    fields += [bytes_field(_LISTEN, parse_address(address).to_bytes()) for address in addresses]
    fields += [bytes_field(_PROTOCOLS, protocol.encode()) for protocol in protocols]
    if observed is not None:
        fields.append(bytes_field(_OBSERVED, parse_address(observed).to_bytes()))
    fields += [bytes_field(_VERSION, b"ipfs/0.1.0"), bytes_field(_AGENT, agent.encode())]
    return b"".join(fields)


async def pong(stream: Stream) -> None:
    """Send back what comes, for a while. Raises RemoteError when the stream is gone."""
    for _ in range(MAX_PINGS):
        await stream.send(await stream.read(PING_BYTES))
