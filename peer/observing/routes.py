"""The part of the local API that a Prometheus reads: who there is, and what each says."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from talkoot.peer.metrics import CONTENT_TYPE
from talkoot.peer.observing.observer import NoAnswer, UnknownPeer

Metrics = Callable[[str], Awaitable[bytes]]
"""What a peer says of itself, as text, by its PeerID. Raises UnknownPeer, NoAnswer."""

Targets = Callable[[web.Request], list[dict[str, Any]]]
"""Who can be scraped, for whoever asks."""


class Watched(Protocol):
    """What the routes need of a node."""

    def targets(self) -> list[dict[str, Any]]:
        """This node and its peers, as Prometheus' http_sd reads them. Called on the event loop: be quick."""

    async def peer_metrics(self, peer_id: str) -> bytes:
        """What a peer says of itself, as text. Raises UnknownPeer, NoAnswer."""


def add_routes(router: web.UrlDispatcher, metrics: Metrics, targets: Targets) -> None:
    """`/sd` and `/peer/<id>/metrics`."""

    async def sd(request: web.Request) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(targets(request)), content_type="application/json")

    async def peer(request: web.Request) -> web.StreamResponse:
        try:
            body = await metrics(request.match_info["peer_id"])
        except UnknownPeer as error:
            raise web.HTTPNotFound(text="no peer with this id is listed at /sd") from error
        except NoAnswer as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from error
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    router.add_get("/sd", sd)
    router.add_get("/peer/{peer_id:[1-9A-HJ-NP-Za-km-z]{20,80}}/metrics", peer)
