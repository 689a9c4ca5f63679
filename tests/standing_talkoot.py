"""`talkoot`, with a daemon that can be made to stand still: SIGUSR1 blocks its event loop for good, SIGUSR2
hangs one of its worker threads for good. Started in place of the command:

    python tests/standing_talkoot.py LOOKS run ...

LOOKS is after how many seconds its watchdog finds that; 0: as a user's does.
"""

import asyncio
import signal
import sys
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any

from talkoot.cli.main import main

NEVER = threading.Event()


def hang() -> None:
    """What a worker thread does that waits for somebody who never comes."""
    NEVER.wait()


async def _standing(work: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, NEVER.wait)
    loop.add_signal_handler(signal.SIGUSR2, lambda: loop.run_in_executor(None, hang) and None)
    await work


def prepare(looks: int) -> None:
    """Have the daemon listen to the signals."""
    from talkoot.peer import daemon
    from talkoot.peer.guest import watchdog
    from talkoot.peer.guest.standstill import Standstill

    serve = daemon._serve
    vars(daemon)["_serve"] = lambda *options: _standing(serve(*options))
    if looks:
        limited = partial(Standstill, loop_looks=looks, job_looks=looks)
        vars(watchdog)["Standstill"] = limited


if __name__ == "__main__":
    if sys.argv[2:3] == ["run"]:
        prepare(int(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    main()
