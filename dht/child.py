"""Child processes that are dead and reaped at the end of the scope that started them, whatever ends it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any


@contextlib.asynccontextmanager
async def child(*command: str | Path, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process, started with the options of asyncio.create_subprocess_exec; killed if it outlives the scope.

    With `start_new_session` its own children in that session are killed with it. A scope that is cancelled
    while the process starts kills it as well: the event loop alone would leave it unreaped.

    Raises OSError when it cannot be started.
    """
    creating = asyncio.create_subprocess_exec(*command, **options)
    starting = asyncio.ensure_future(creating)  # noqa: TID251 - ends in this scope, but not when that is cancelled
    in_session = bool(options.get("start_new_session"))
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await _end(await starting, in_session=in_session)
        raise
    try:
        yield process
    finally:
        await _end(process, in_session=in_session)


async def _end(process: asyncio.subprocess.Process, *, in_session: bool) -> None:
    if process.returncode is None:
        send_signal(process, signal.SIGKILL, in_session=in_session)
        await process.wait()
    process._transport.close()  # type: ignore[attr-defined]  # its own may hold the pipes open a while


def send_signal(process: asyncio.subprocess.Process, number: int, *, in_session: bool = False) -> None:
    """Send `process` (or its whole session, which it leads) a signal; nothing if it is gone."""
    # Not Popen's: it would reap a process that just died, behind asyncio's back. A session of which only an
    # unreaped leader is left may be refused (macOS).
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if in_session else os.kill)(process.pid, number)
