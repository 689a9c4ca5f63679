"""Runs `outside_worker.py`, or says why that cannot be here."""

import asyncio
import contextlib
import importlib.util
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
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


async def outside(name: str, **task: Any) -> dict[str, Any]:
    """What one task of the worker came to."""
    async with _started(name, task) as process:
        output, _ = await process.communicate()
    return last_line(output, process)


@contextlib.asynccontextmanager
async def serving(**task: Any) -> AsyncIterator[list[str]]:
    """A host that serves; its addresses."""
    async with _started("serve", task | {"listen": ["/ip4/127.0.0.1/tcp/0"]}) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = await process.stdout.readline()
        yield json.loads(line)["addresses"]
        process.stdin.close()
        await process.wait()


def last_line(output: bytes, process: Process) -> dict[str, Any]:
    assert process.returncode == 0, process.returncode
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


@contextlib.asynccontextmanager
async def _started(name: str, task: dict[str, Any]) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, str(WORKER), name, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(task).encode() + b"\n")
        async with asyncio.timeout(TIMEOUT_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
