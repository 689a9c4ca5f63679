"""The part of the local API by which a user has the daemon look at its connection. It causes traffic, so it
needs the token."""

from typing import Any, Protocol

import msgspec
from aiohttp import web


class PingOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a request to ping a peer."""

    peer: str
    """PeerID."""


class Probing(Protocol):
    """What the routes need of a node."""

    async def ping(self, peer_id: str) -> dict[str, Any]:
        """One round trip to a peer. Raises ValueError for what is no other peer's id."""

    async def sightings(self) -> list[dict[str, Any]]:
        """What other peers see of this node. Raises ValueError while it knows nobody."""


def read_order(body: bytes) -> PingOrder:
    """Raises HTTPBadRequest."""
    try:
        return msgspec.json.decode(body, type=PingOrder)
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the body is not what is asked for: {error}") from error


def add_routes(router: web.UrlDispatcher, node: Probing) -> None:
    """`POST /api/v1/ping` and `/api/v1/examine`."""

    async def ping(request: web.Request) -> web.StreamResponse:
        order = read_order(await request.read())
        try:
            return _json(await node.ping(order.peer))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error

    async def examine(_request: web.Request) -> web.StreamResponse:
        try:
            return _json({"sightings": await node.sightings()})
        except ValueError as error:
            raise web.HTTPConflict(text=str(error)) from error

    router.add_post("/api/v1/ping", ping)
    router.add_post("/api/v1/examine", examine)


def _json(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
