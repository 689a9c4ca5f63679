"""An explorer's HTTP: the page, its JSON, /metrics and /sd. It only reads, and holds nothing secret.

On loopback it is as careful as a node's local API, so that no web page of a stranger reads it. Published with
`--host` it is for everybody: any Host is answered, and what browsers enforce stays.
"""

import asyncio
import os
import re
import socket
from collections.abc import Callable
from ipaddress import ip_address

from aiohttp import web

from talkoot.dht.errors import ConfigError
from talkoot.peer import answering
from talkoot.peer.events import Events, TooManyListenersError
from talkoot.peer.exploring.view import Explored
from talkoot.peer.metrics import CONTENT_TYPE
from talkoot.peer.observing.routes import add_routes
from talkoot.peer.page import assets

MAX_LISTENERS = 64
"""Pages that are fed at a time; more of them ask again and again."""

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9a-f:.]{2,45}\](:[0-9]{1,5})?")


def is_published(host: str) -> bool:
    """Whether others than this machine can ask there. Raises ConfigError for what is no IP address."""
    try:
        return not ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigError(f"--host: {host!r} is no IP address such as 0.0.0.0") from error


class ExplorerServer:
    """Serves one swarm. Call `run` once."""

    def __init__(self, explored: Explored, *, host: str, port: int) -> None:
        """`host` is an IP address to listen on, `port` 0 any free one. Raises ConfigError."""
        self._published = is_published(host)
        self._explored = explored
        self._host, self._port = host, port
        self._hosts: frozenset[str] = frozenset()
        self._assets = assets()
        self._events = Events(self._frames, max_listeners=MAX_LISTENERS)

    async def run(self, *, started: Callable[[int], None]) -> None:
        """Serve until cancelled; `started` is called with the port. Raises ConfigError if that is taken."""
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=answering.STOP_TIMEOUT_S)
        await runner.setup()
        try:
            with self._listening() as listener:
                port = int(listener.getsockname()[1])
                names = ("127.0.0.1", "localhost", "[::1]", f"[{self._host}]", self._host)
                self._hosts = frozenset(f"{name}:{port}" for name in names)
                started(port)
                assert runner.server is not None
                await answering.accept(listener, runner.server)
        finally:
            await runner.cleanup()

    def _listening(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listener = socket.create_server(
                (self._host, self._port), family=family, backlog=answering.BACKLOG
            )
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port}: {why}; choose another port after --serve"
            ) from error
        listener.setblocking(False)
        return listener

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[answering.errors_as_json, self._guard], client_max_size=1024)
        for path in self._assets:
            app.router.add_get(path, self._asset)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        add_routes(app.router, self._explored.peer_metrics, self._targets)
        app.router.add_get("/api/v1/status", self._status)
        app.router.add_get("/api/v1/rounds", self._rounds)
        app.router.add_get("/api/v1/peers", self._peers)
        app.router.add_get("/api/v1/events", self._listen, allow_head=False)
        app.on_response_prepare.append(answering.add_headers)
        app.on_shutdown.append(lambda _app: self._events.close())
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: answering.Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise web.HTTPBadRequest(text="one Host is needed")
        if not self._published:
            if hosts[0] not in self._hosts:
                raise web.HTTPForbidden(text="this Host is not served")
            if request.path != "/" and request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
                raise web.HTTPForbidden(text="other sites are refused")
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        return await handler(request)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        return answering.asset_response(self._assets[request.path])

    def _frames(self) -> dict[str, bytes]:
        rounds = {"rounds": self._explored.rounds(answering.LAST_ROUNDS)}
        return {"status": answering.as_json(self._explored.status()), "rounds": answering.as_json(rounds)}

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._events.serve(request)
        except TooManyListenersError as error:
            raise web.HTTPServiceUnavailable(text="enough pages listen already; this one may poll") from error

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        """Whether the process works; a swarm that is gone is no fault of its."""
        return answering.state_response(self._explored.status(), good=True)

    async def _readyz(self, _request: web.Request) -> web.StreamResponse:
        return answering.state_response(self._explored.status(), good=self._explored.state == "observing")

    async def _metrics(self, _request: web.Request) -> web.StreamResponse:
        self._explored.refresh()
        body = await asyncio.to_thread(self._explored.exporter.expose)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    def _targets(self, request: web.Request) -> list[dict[str, object]]:
        """At the address by which we were asked, so that it is one that the asker can reach."""
        return self._explored.targets(request.headers["Host"])

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        return answering.json_response(self._explored.status())

    async def _rounds(self, request: web.Request) -> web.StreamResponse:
        return answering.json_response(
            {"rounds": self._explored.rounds(answering.number_of(request, "last"))}
        )

    async def _peers(self, _request: web.Request) -> web.StreamResponse:
        return answering.json_response({"peers": self._explored.peers()})
