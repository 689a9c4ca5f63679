"""A little HTTP for whoever watches the relay: GET of a few paths, one request for each connection.

Loopback by default. Whatever is asked, a connection costs a few KiB and some seconds at most.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

MAX_HEAD_BYTES = 8192
"""Longest request."""
REQUEST_S = 5.0
MAX_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path says."""

    body: bytes
    content_type: str
    code: int = 200


Pages = Mapping[str, Callable[[], Answer]]
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


async def serve(host: str, port: int, pages: Pages, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Answer until cancelled; says on which port. Raises OSError when it cannot listen."""
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=MAX_AT_ONCE)
    slots = trio.CapacityLimiter(MAX_AT_ONCE)

    async def handle(stream: trio.SocketStream) -> None:
        with trio.move_on_after(REQUEST_S):
            async with slots, stream:
                try:
                    await _converse(stream, pages)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        task_status.started(listeners[0].socket.getsockname()[1])


async def _converse(stream: trio.SocketStream, pages: Pages) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some(MAX_HEAD_BYTES)
        head += data
        if not data or len(head) > MAX_HEAD_BYTES:
            await stream.send_all(_bytes(_words(400)))
            return
    await stream.send_all(_bytes(_answer(head, pages)))


def _answer(head: bytes, pages: Pages) -> Answer:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _words(400)
    if words[0] != b"GET":
        return _words(405)
    page = pages.get(words[1].split(b"?")[0].decode("latin-1"))
    return page() if page is not None else _words(404)


def _words(code: int) -> Answer:
    return Answer(_REASONS[code].encode() + b"\n", "text/plain; charset=utf-8", code)


def _bytes(answer: Answer) -> bytes:
    head = (
        f"HTTP/1.1 {answer.code} {_REASONS[answer.code]}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + answer.body
