"""The local API: HTTP on loopback for the command line, Prometheus and a browser on this machine.

Any web page that the user opens can send requests to loopback, so the Host (DNS rebinding), the Origin and
what browsers say of where a request comes from are checked, and what changes anything needs a token that only
the user can read. Our own page has none: it may ask for a sample of the model, which changes nothing.
"""

import asyncio
import hmac
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from talkoot.dht.errors import ConfigError
from talkoot.peer.admission import UnknownInviteError
from talkoot.peer.answering import (
    BACKLOG,
    LAST_ROUNDS,
    MAX_LAST,
    STOP_TIMEOUT_S,
    Handler,
    accept,
    add_headers,
    as_json,
    asset_response,
    errors_as_json,
    json_response,
    number_of,
    state_response,
)
from talkoot.peer.events import Events, Frames, TooManyListenersError
from talkoot.peer.guest.routes import Ordered
from talkoot.peer.guest.routes import add_routes as add_order_routes
from talkoot.peer.metrics import CONTENT_TYPE
from talkoot.peer.observing.routes import Watched, add_routes
from talkoot.peer.page import assets
from talkoot.peer.probing.routes import Probing
from talkoot.peer.probing.routes import add_routes as add_probe_routes
from talkoot.peer.sampling import BusyError, Sample, SampleOrder

MAX_BODY_BYTES = 64 * 1024
"""Longest body of a request."""

TOKEN_HEADER = "X-Talkoot-Token"

_SAMPLE = "/api/v1/sample"
_READY_STATES = ("training", "exchanging", "observing")


class BanOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a request to ban a peer."""

    peer: str
    """PeerID."""
    reason: str = ""
    seconds: float | None = None
    """How long; None: until it is lifted."""


class UnbanOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a request to lift a ban."""

    peer: str


class RevokeOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a request to revoke invites."""

    invite: str
    """`all` that are open, the first characters of an invite key in hex, or an invite."""


OrderT = TypeVar("OrderT", BanOrder, UnbanOrder, RevokeOrder, SampleOrder)


class Exposition(Protocol):
    """What /metrics needs of `talkoot.peer.metrics.Metrics`."""

    def refresh(self) -> None:
        """Look up what is not counted as it happens. On the event loop."""

    def expose(self) -> bytes:
        """All metrics as text. In a thread."""


class NodeView(Watched, Probing, Ordered, Protocol):
    """What the API shows of a node."""

    @property
    def metrics(self) -> Exposition:
        """The node's metrics."""

    def status(self) -> dict[str, Any]:
        """The node now; at least `state`, `reason` and `sync`. Called on the event loop: be quick."""

    def rounds(self, last: int = MAX_LAST) -> list[dict[str, Any]]:
        """The last rounds, at most so many, newest last. Called on the event loop."""

    async def invite(self) -> str:
        """A new invite. Raises ValueError if this node may not make one."""

    def invites(self) -> list[dict[str, Any]]:
        """The invites that this node made. Raises ValueError if there is nothing to say of them."""

    async def revoke(self, name: str) -> list[dict[str, Any]]:
        """Take invites back; their entries. Raises UnknownInviteError, or ValueError if that cannot be."""

    def peers(self) -> list[dict[str, Any]]:
        """Peers of the swarm and banned ones. Called on the event loop: be quick."""

    async def leaderboard(self) -> dict[str, Any]:
        """Who contributed what, by the certificates that this node holds. Raises ValueError."""

    async def ban(self, order: BanOrder) -> dict[str, Any]:
        """Ban a peer; returns the entry. Raises ValueError if that cannot be."""

    async def unban(self, peer: str) -> bool:
        """Lift a ban and forget points; False if there was nothing. Raises ValueError if that cannot be."""

    async def sample(self, order: SampleOrder) -> Sample:
        """A text from the latest round. Raises BusyError, or ValueError if there can be none."""

    async def apply_settings(self) -> dict[str, list[str]]:
        """Take what the configuration file says now. Raises ValueError, then nothing has changed."""


class ApiServer:
    """Serves one node. Call `run` once."""

    def __init__(self, node: NodeView, *, port: int, token: str) -> None:
        """`port` 0 is any free one. `token` allows changes."""
        self._node = node
        self._port = port
        self._token = token.encode()
        self._hosts: frozenset[str] = frozenset()
        self._assets = assets()
        self._events = Events(self._frames)

    def set_token(self, token: str) -> None:
        """From now on this one allows changes: it is written down once the port is known."""
        self._token = token.encode()

    async def run(self, *, started: Callable[[int], None]) -> None:
        """Serve until cancelled; `started` is called with the port that is listened on.

        Raises ConfigError if the port cannot be had.
        """
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=STOP_TIMEOUT_S)
        await runner.setup()
        try:
            with self._listening() as listener:
                port = int(listener.getsockname()[1])
                self._hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))
                started(port)
                assert runner.server is not None
                await accept(listener, runner.server)
        finally:
            await runner.cleanup()

    def _listening(self) -> socket.socket:
        try:
            listener = socket.create_server(("127.0.0.1", self._port), backlog=BACKLOG)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(
                f"cannot listen on 127.0.0.1:{self._port}: {why}; choose another --http-port"
            ) from error
        listener.setblocking(False)
        return listener

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[errors_as_json, self._guard], client_max_size=MAX_BODY_BYTES)
        for path in self._assets:
            app.router.add_get(path, self._asset)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        add_routes(app.router, self._node.peer_metrics, lambda _request: self._node.targets())
        add_probe_routes(app.router, self._node)
        app.router.add_get("/api/v1/status", self._status)
        app.router.add_get("/api/v1/rounds", self._rounds)
        app.router.add_get("/api/v1/events", self._listen, allow_head=False)
        app.router.add_post(_SAMPLE, self._sample)
        app.router.add_post("/api/v1/invite", self._invite)
        app.router.add_get("/api/v1/invites", self._invites)
        app.router.add_post("/api/v1/revoke", self._revoke)
        app.router.add_post("/api/v1/config", self._config)
        add_order_routes(app.router, self._node)
        app.router.add_get("/api/v1/peers", self._peers)
        app.router.add_get("/api/v1/leaderboard", self._leaderboard)
        app.router.add_post("/api/v1/ban", self._ban)
        app.router.add_post("/api/v1/unban", self._unban)
        app.on_response_prepare.append(add_headers)
        app.on_shutdown.append(lambda _app: self._events.close())
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.getall("Host", []) not in [[host] for host in self._hosts]:
            raise web.HTTPForbidden(text="this Host is not served")
        if any(origin not in self._origins() for origin in request.headers.getall("Origin", [])):
            raise web.HTTPForbidden(text="other origins are refused")
        if request.path != "/" and request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            raise web.HTTPForbidden(text="other sites are refused")
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, request.content_length or 0)
        if request.method not in ("GET", "HEAD") and not _asks_from_the_page(request):
            self._require_token(request)
        await request.read()
        return await handler(request)

    def _origins(self) -> set[str]:
        return {f"http://{host}" for host in self._hosts}

    def _require_token(self, request: web.Request) -> None:
        given = request.headers.get(TOKEN_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._token):
            raise web.HTTPUnauthorized(text=f"the {TOKEN_HEADER} header must hold the content of api.token")

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        return asset_response(self._assets[request.path])

    def _frames(self) -> Frames:
        rounds = {"rounds": self._node.rounds(LAST_ROUNDS)}
        return {"status": as_json(self._node.status()), "rounds": as_json(rounds)}

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._events.serve(request)
        except TooManyListenersError as error:
            raise web.HTTPServiceUnavailable(text="enough pages listen already; this one may poll") from error

    async def _sample(self, request: web.Request) -> web.StreamResponse:
        with _conflicts():
            try:
                made = await self._node.sample(_order(await request.read(), SampleOrder))
            except BusyError as error:
                raise web.HTTPTooManyRequests(text=str(error)) from error
            return json_response({"round": made.round, "prompt": made.prompt, "text": made.text})

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        status = self._node.status()
        return state_response(status, good=status["state"] != "failed")

    async def _readyz(self, _request: web.Request) -> web.StreamResponse:
        status = self._node.status()
        return state_response(status, good=status["state"] in _READY_STATES and not status.get("sync"))

    async def _metrics(self, _request: web.Request) -> web.StreamResponse:
        metrics = self._node.metrics
        metrics.refresh()
        body = await asyncio.to_thread(metrics.expose)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        return json_response(self._node.status())

    async def _rounds(self, request: web.Request) -> web.StreamResponse:
        """`?last=N`: only so many, at most."""
        return json_response({"rounds": self._node.rounds(number_of(request, "last"))})

    async def _invite(self, _request: web.Request) -> web.StreamResponse:
        with _conflicts():
            return json_response({"invite": await self._node.invite()})

    async def _invites(self, _request: web.Request) -> web.StreamResponse:
        with _conflicts():
            return json_response({"invites": self._node.invites()})

    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        with _conflicts():
            order = _order(await request.read(), RevokeOrder)
            return json_response({"revoked": await self._node.revoke(order.invite)})

    async def _config(self, _request: web.Request) -> web.StreamResponse:
        with _conflicts():
            return json_response(await self._node.apply_settings())

    async def _peers(self, _request: web.Request) -> web.StreamResponse:
        return json_response({"peers": self._node.peers()})

    async def _leaderboard(self, request: web.Request) -> web.StreamResponse:
        """`?top=N`: only the first N peers."""
        most = number_of(request, "top")
        with _conflicts():
            board = await self._node.leaderboard()
        return json_response(board | {"peers": board["peers"][:most]})

    async def _ban(self, request: web.Request) -> web.StreamResponse:
        with _conflicts():
            return json_response(await self._node.ban(_order(await request.read(), BanOrder)))

    async def _unban(self, request: web.Request) -> web.StreamResponse:
        with _conflicts():
            order = _order(await request.read(), UnbanOrder)
            return json_response({"lifted": await self._node.unban(order.peer)})


def _order(body: bytes, kind: type[OrderT]) -> OrderT:
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the body is not what is asked for: {error}") from error


@contextmanager
def _conflicts() -> Iterator[None]:
    """What cannot be done as things are, in the words of the node."""
    try:
        yield
    except UnknownInviteError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    except ValueError as error:
        raise web.HTTPConflict(text=str(error)) from error


def _asks_from_the_page(request: web.Request) -> bool:
    """Whether it is our page, in a browser on this machine, that asks for a sample.

    Browsers send both headers by themselves with such a request, and scripts cannot set either.
    """
    own = "Origin" in request.headers and request.headers.get("Sec-Fetch-Site") == "same-origin"
    return own and request.path == _SAMPLE and request.content_type == "application/json"
