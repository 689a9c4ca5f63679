"""Server-sent events: the node's status and its last rounds, to a few listeners, as they change.

A listener has no queue. It is given what is so when its connection takes more, so that one who reads slowly
misses states in between, and costs no memory; one who reads nothing is dropped.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from aiohttp import web

MAX_LISTENERS = 8
"""Connections at a time; more are told to come again, and poll meanwhile."""

INTERVAL_S = 1.0
"""Time between two looks at the node."""

HEARTBEAT_S = 15.0
"""Longest silence: a comment is sent then."""

WRITE_TIMEOUT_S = 10.0
"""How long a listener may take nothing."""

RETRY_MS = 3000
"""How long a browser waits before it connects again."""

Frames = Mapping[str, bytes]
"""The newest JSON of each kind of event: one line each."""


class TooManyListenersError(Exception):
    """Every place is taken."""


class Events:
    """All listeners of one node."""

    def __init__(self, look: Callable[[], Frames], *, max_listeners: int | None = None) -> None:
        """`look` is called on the event loop, once an interval however many listen: be quick.

        `max_listeners`: in place of MAX_LISTENERS.
        """
        self._max_listeners = max_listeners
        self._look = look
        self._closing = asyncio.Event()
        self._seen: tuple[float, Frames] | None = None
        self.listeners = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request until the listener goes, or `close`. Raises TooManyListenersError."""
        if self.listeners >= (self._max_listeners or MAX_LISTENERS):
            raise TooManyListenersError
        self.listeners += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            with suppress(ConnectionError):
                await self._feed(request, response)
            return response
        finally:
            self.listeners -= 1

    async def close(self) -> None:
        """End all answers."""
        self._closing.set()

    async def _feed(self, request: web.Request, response: web.StreamResponse) -> None:
        clock = asyncio.get_running_loop().time
        told: Frames = {}
        news, silent_since = b"retry: %d\n\n" % RETRY_MS, clock()
        while not self._closing.is_set() and _listens(request):
            frames = self._newest(clock())
            news += b"".join(_event(name, data) for name, data in frames.items() if told.get(name) != data)
            told = frames
            if not news and clock() - silent_since >= HEARTBEAT_S:
                news = b": still here\n\n"
            if news:
                await _send(request, response, news)
                news, silent_since = b"", clock()
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._closing.wait()

    def _newest(self, now: float) -> Frames:
        """What the node says, not older than half an interval."""
        if self._seen is None or now - self._seen[0] >= INTERVAL_S / 2:
            self._seen = now, self._look()
        return self._seen[1]


async def _send(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send; a listener that takes nothing any more is cut off."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()


def _listens(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
