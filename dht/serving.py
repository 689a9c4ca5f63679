"""Running the handlers of accepted channels: the one place where a peer's failure is caught."""

import logging
from dataclasses import dataclass

from talkoot.dht.errors import ChannelClosed, RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.network import Channel, Events, Handler, ProtocolSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """A protocol that is served, and by what."""

    spec: ProtocolSpec
    handler: Handler


class Services(dict[str, Service]):
    """Services by protocol name."""

    def add(self, spec: ProtocolSpec, handler: Handler) -> None:
        """Raises ValueError for a name that is taken."""
        if spec.name in self:
            raise ValueError(f"protocol {spec.name} is served already")
        self[spec.name] = Service(spec, handler)


async def serve_channel(channel: Channel, handler: Handler, events: Events) -> None:
    """Run a handler to its end and close the channel; count what the peer did wrong."""
    try:
        await handler(channel)
    except ChannelClosed as error:
        if error.reason != "ended":
            count_failure(events, channel.peer, error)
    except (RemoteError, TimeoutError) as error:
        count_failure(events, channel.peer, error)
    finally:
        await channel.close()


def count_failure(events: Events, peer: bytes | None, error: RemoteError | TimeoutError) -> None:
    """One line in the log, one count by reason."""
    reason = error.reason if isinstance(error, RemoteError) else "timeout"
    events.reject(reason, peer)
    name = "?" if peer is None else peer_id_of(peer)
    logger.info("peer %s: %s", name, error if isinstance(error, RemoteError) else reason)
