"""Runs `outside_worker.py`, or says why that cannot be here."""

import asyncio
import atexit
import contextlib
import importlib.util
import json
import subprocess
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from talkoot.dht.identity import Identity

WORKER = Path(__file__).parent / "outside_worker.py"
TIMEOUT_S = 60.0
IDENTITY = Identity.from_seed(b"\x55" * 32)
"""Of the worker."""

needs_libp2p = pytest.mark.skipif(
    importlib.util.find_spec("libp2p") is None,
    reason="py-libp2p is not installed: pip install talkoot[relay]",
)


class _Worker:
    """One process that does task after task: loading py-libp2p takes a second."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, str(WORKER)], stdin=pipe, stdout=pipe)
        self._turn = threading.Lock()
        atexit.register(self._end)

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """What came of a task."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
            result: dict[str, Any] = json.loads(self._process.stdout.readline())
        return result

    def _end(self) -> None:
        self._process.communicate()


@cache
def _worker() -> _Worker:
    return _Worker()


async def outside(name: str, **task: Any) -> dict[str, Any]:
    """What one task of the worker came to."""
    async with asyncio.timeout(TIMEOUT_S):
        return await asyncio.to_thread(lambda: _worker().do(task | {"do": name}))


@contextlib.asynccontextmanager
async def serving(**task: Any) -> AsyncIterator[list[str]]:
    """A host that serves, in a process of its own; its addresses."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(WORKER), stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        wanted = task | {"do": "serve", "listen": ["/ip4/127.0.0.1/tcp/0"]}
        process.stdin.write(json.dumps(wanted).encode() + b"\n")
        async with asyncio.timeout(TIMEOUT_S):
            yield json.loads(await process.stdout.readline())["addresses"]
            process.stdin.close()
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
