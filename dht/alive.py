"""Whether p2pd still reacts: one that hangs is ended, so that it is started again like one that died."""

import asyncio
import contextlib
import logging
import os
import signal

from talkoot.dht.control import Control
from talkoot.dht.errors import RemoteError
from talkoot.dht.p2pd import P2pdError

logger = logging.getLogger(__name__)

ASK_S = 5.0
"""Pause between two questions."""

MISSED = 4
"""So many questions in a row without an answer: it hangs. With 5 s for each it is found within 40 s."""


async def end_if_stuck(control: Control, pid: int) -> None:
    """Ask p2pd again and again, until cancelled; kill it when it does not answer.

    An answer of any kind is one. When it was we who stood still, the next question is answered.
    """
    missed = 0
    while missed < MISSED:
        await asyncio.sleep(ASK_S)
        try:
            await control.identify()
            missed = 0
        except TimeoutError:
            missed += 1
        except (P2pdError, RemoteError):
            missed = 0  # it answers, or has died, which is known elsewhere
    logger.warning("p2pd does not react any more: it is ended")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    await asyncio.get_running_loop().create_future()
