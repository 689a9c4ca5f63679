"""Taking the connections by which p2pd hands over what others opened: none is taken and then forgotten.

`loop.sock_accept` loses a connection when it is cancelled in the moment in which it has one, and a task
that is cancelled before its first step runs none of its code, so that it closes nothing. Either leaves a
stream open that nobody reads, until the descriptor is collected as garbage.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from talkoot.dht.p2pd import P2pdError

logger = logging.getLogger(__name__)

_BACKLOG = 128
_PAUSE_S = 1.0
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})
# What makes accepting fail, and passes.


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A unix socket at `path` that others can connect to; closed at the end. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(_BACKLOG)
        yield listener


async def next_connection(listener: socket.socket) -> socket.socket:
    """The next one that waits. Cancelled, it has taken none. Raises P2pdError."""
    told = False
    while True:
        await _readable(listener)
        try:
            connection, _ = listener.accept()
        except BlockingIOError:  # it went away meanwhile
            continue
        except OSError as error:
            if error.errno not in _SHORTAGES:
                raise P2pdError(f"streams cannot be accepted: {error}") from error
            if not told:
                logger.warning("streams of other peers have to wait: %s", error.strerror)
            told = True
            await asyncio.sleep(_PAUSE_S)  # to try at once would keep a core busy
            continue
        connection.setblocking(False)
        return connection


def serve_in(
    tasks: asyncio.TaskGroup,
    connection: socket.socket,
    serve: Callable[[socket.socket, contextlib.ExitStack], Coroutine[Any, Any, None]],
) -> asyncio.Task[None]:
    """Serve it in a task of its own. The stack closes the connection when the task is over, however it ended,
    unless `serve` took it off there (`pop_all`)."""
    stack = contextlib.ExitStack()
    stack.enter_context(connection)
    task = tasks.create_task(serve(connection, stack), name="channel")
    task.add_done_callback(lambda _: stack.close())
    return task


async def _readable(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(listener, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(listener)
