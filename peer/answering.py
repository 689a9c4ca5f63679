"""How HTTP is answered here, by a node's local API and by an explorer: JSON, headers, errors, connections."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from talkoot.peer.page import POLICY, Asset

MAX_LAST = 999_999
"""Rounds that are asked for without saying how many: all that are remembered."""

BACKLOG = 128
"""Connections that wait to be accepted."""

ACCEPT_PAUSE_S = 1.0
"""Pause after one that could not be accepted."""

STOP_TIMEOUT_S = 2.0
"""How long open requests may take when the server stops."""

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": POLICY,
}
LAST_ROUNDS = 8
"""Rounds that an event holds."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def asset_response(asset: Asset) -> web.Response:
    """One file of the page."""
    headers = {"Content-Type": asset.content_type, "Content-Security-Policy": asset.policy}
    return web.Response(body=asset.content, headers=headers)


async def accept(listener: socket.socket, server: web.Server) -> None:
    """Accept connections until cancelled. Where no descriptors are left they wait, and a while passes before
    the next try: the event loops' own servers try again at once, which keeps a core busy."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError:
            await asyncio.sleep(ACCEPT_PAUSE_S)
            continue
        try:
            connection.setblocking(False)
            await loop.connect_accepted_socket(server, connection)
        except OSError:  # it has gone already
            connection.close()


def number_of(request: web.Request, name: str) -> int:
    """That of the query; as many as there may be where it has none."""
    given = request.query.get(name, str(MAX_LAST))
    if not re.fullmatch("[1-9][0-9]{0,5}", given):
        raise web.HTTPBadRequest(text=f"{name} must be a number from 1 on")
    return int(given)


def state_response(status: dict[str, Any], *, good: bool) -> web.Response:
    """A state, its reason and what there is to say of it, with a status that says whether that is good."""
    body = {"state": status["state"], "reason": status.get("reason", ""), "detail": status.get("detail", "")}
    return json_response(body, HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE)


def as_json(value: object) -> bytes:
    """Any value of ours as JSON."""
    # msgspec writes what is not finite as null; json.dumps would write what no parser accepts.
    return msgspec.json.encode(value, enc_hook=str)


def json_response(value: object, status: int = HTTPStatus.OK) -> web.Response:
    """Any value of ours as an answer."""
    return web.Response(body=as_json(value), status=status, content_type="application/json")


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware: whatever goes wrong is said in JSON."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        reason = HTTPStatus(error.status).name.lower()
        response = json_response({"error": reason, "detail": error.text or ""}, error.status)
        if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = error.headers["Allow"]
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            response.force_close()
        return response


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Of every answer that does not set them itself."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
