"""How much p2pd has carried: looked at again and again while it lives, and told to the pacing."""

import asyncio
import logging

from talkoot.dht.network import Traffic
from talkoot.dht.pacing import Pacing
from talkoot.dht.sockets import SocketMeter

logger = logging.getLogger(__name__)

LOOK_S = 0.25
"""Pause between two looks while there is a limit."""

IDLE_LOOK_S = 2.0
"""Pause between two looks while there is none."""

SURCHARGE = 1.1
"""Where the kernel does not tell: what goes through channels, and so much for all else."""


class Wire:
    """Measures one node's network. `run` once for each life of p2pd."""

    def __init__(self, pacing: Pacing, traffic: Traffic) -> None:
        self._pacing = pacing
        self._traffic = traffic
        self._frames = (0, 0)
        self._told = False

    async def run(self, pid: int) -> None:
        """Until cancelled; `pid` is p2pd's."""
        meter: SocketMeter | None = SocketMeter(pid)
        while True:
            if meter is not None:
                try:
                    self._pacing.measured(*meter.look())
                except OSError as error:
                    meter = None
                    self._say(error)
            frames = self._traffic.bytes_sent, self._traffic.bytes_received
            if meter is None:
                sent, received = (now - before for now, before in zip(frames, self._frames, strict=True))
                self._pacing.measured(int(sent * SURCHARGE), int(received * SURCHARGE))
            self._frames = frames
            await asyncio.sleep(LOOK_S if self._pacing.limited else IDLE_LOOK_S)

    def _say(self, error: OSError) -> None:
        if not self._told:
            logger.warning("what p2pd carries cannot be measured here (%s): it is estimated", error)
        self._told = True
