"""The part of the local API by which a user has the node rest, go on, and leave. It needs the token."""

from typing import Any, Protocol

import msgspec
from aiohttp import web

from talkoot.peer.guest.orders import PauseOrder


class Ordered(Protocol):
    """What the routes need of a node. Answers are its state with the reason, as in its status."""

    async def pause(self, order: PauseOrder) -> dict[str, Any]:
        """Rest from now on. Raises ValueError if that cannot be."""

    async def resume(self) -> dict[str, Any]:
        """Rest no longer, as far as the user is concerned."""

    async def finish(self) -> dict[str, Any]:
        """Rest once the running round is over. Raises ValueError while there is none."""

    async def leave(self) -> dict[str, Any]:
        """Begin an orderly stop; returns before it is over."""


def read_order(body: bytes) -> PauseOrder:
    """An empty body: without an end. Raises HTTPBadRequest."""
    try:
        return msgspec.json.decode(body, type=PauseOrder) if body else PauseOrder()
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the body is not what is asked for: {error}") from error


def add_routes(router: web.UrlDispatcher, node: Ordered) -> None:
    """`POST /api/v1/pause`, `/api/v1/resume`, `/api/v1/finish` and `/api/v1/leave`."""

    async def pause(request: web.Request) -> web.StreamResponse:
        order = read_order(await request.read())
        try:
            return _json(await node.pause(order))
        except ValueError as error:
            raise web.HTTPConflict(text=str(error)) from error

    async def resume(_request: web.Request) -> web.StreamResponse:
        return _json(await node.resume())

    async def finish(_request: web.Request) -> web.StreamResponse:
        try:
            return _json(await node.finish())
        except ValueError as error:
            raise web.HTTPConflict(text=str(error)) from error

    async def leave(_request: web.Request) -> web.StreamResponse:
        return _json(await node.leave())

    router.add_post("/api/v1/pause", pause)
    router.add_post("/api/v1/resume", resume)
    router.add_post("/api/v1/finish", finish)
    router.add_post("/api/v1/leave", leave)


def _json(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
