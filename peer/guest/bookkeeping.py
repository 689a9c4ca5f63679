"""Keeps the books of what this node did (`talkoot.peer.guest.deeds`)."""

import asyncio
import contextlib
import logging
import math
import time
from typing import TYPE_CHECKING

from talkoot.dht.errors import ConfigError
from talkoot.peer import clock
from talkoot.peer.files import atomic_write
from talkoot.peer.guest import deeds
from talkoot.peer.guest.energy import Rapl
from talkoot.peer.small_files import read_small
from talkoot.peer.statedir import StateDir

if TYPE_CHECKING:
    from talkoot.peer.node import Node

log = logging.getLogger("talkoot.node")

LOOK_S = 5.0
"""Pause between two looks at what was done."""

SAVE_S = 60.0
"""Pause between two writes: a kill costs the books no more than that."""


def load(paths: StateDir) -> deeds.Deeds | None:
    """What is on the disk; None where there is nothing. Raises ConfigError where it cannot be read."""
    data = read_small(paths.deeds)
    if data is None:
        return None
    try:
        return deeds.read(data)
    except ValueError as error:
        raise ConfigError(f"{paths.deeds} is damaged, move it away to begin a new one: {error}") from error


class Books:
    """Of one node. `run` is a service."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._me = node.identity.peer_id
        self._since = deeds.Since()
        self._rapl = Rapl()
        self._deeds = deeds.Deeds(since_s=time.time())
        self._written = b""
        self._saved_at = -math.inf

    async def run(self) -> None:
        """Until cancelled; then what is new is saved."""
        try:
            self.begin(await asyncio.to_thread(load, self._node.paths))
        except ConfigError as error:
            log.warning("what this node did is not counted: %s", error)
            return
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                self.look()
                if clock.now() - self._saved_at >= SAVE_S:
                    self._saved_at = clock.now()
                    await asyncio.to_thread(self.save)
        finally:
            self.look()
            self.save()

    def begin(self, kept: deeds.Deeds | None) -> None:
        """Go on with what was kept, if anything was."""
        if kept is not None:
            self._deeds = kept
            self._written = deeds.write(kept)

    def look(self) -> None:
        """Add what was done since the last look."""
        node, now = self._node, time.time()
        for record in node.swarming.history.records if node.swarming is not None else ():
            self._deeds.add_round(record, self._me, now)
        traffic = node.network.traffic
        sent = self._since.more("sent", traffic.bytes_sent)
        received = self._since.more("received", traffic.bytes_received)
        self._deeds.add_traffic(int(sent), int(received), now)
        settings = node.settings.now
        self._deeds.energy_price, self._deeds.currency = settings.energy_price, settings.currency
        self._add_training()

    def _add_training(self) -> None:
        training, contributor = self._node.training, self._node.contributor
        cpu_joules = self._rapl.joules()
        progress = contributor.progress if contributor is not None else None
        if contributor is None or progress is None:
            return
        self._deeds.steps += int(self._since.more("steps", progress.steps_total))
        self._deeds.tokens += int(self._since.more("tokens", progress.tokens_total))
        busy_s = self._since.more("busy", progress.busy_seconds)
        joules = cpu_joules if training.ready is not None and training.ready.device == "cpu" else None
        if contributor.gpus:
            readings = [gpu.joules for gpu in contributor.gpus if gpu.joules is not None]
            joules = self._since.more("joules", sum(readings)) if readings else None
        self._deeds.add_work(busy_s, joules)

    def save(self) -> None:
        """If there is anything new. A disk that refuses is asked again the next time."""
        data = deeds.write(self._deeds)
        if data == self._written:
            return
        self._deeds.saved_s = time.time()
        data = deeds.write(self._deeds)
        with contextlib.suppress(OSError):
            atomic_write(self._node.paths.deeds, data)
            self._written = data
