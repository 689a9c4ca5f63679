"""What a node does about its holds: it shows them, ends its trainer's process, and stays out of rounds.

It stays connected, and announces that it is paused; a download of state waits. A round that has our
contribution is finished first, unless a hold is silent; the trainer is saved and ended meanwhile.
"""

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talkoot.peer.node import Node
    from talkoot.peer.swarming import Swarming

log = logging.getLogger("talkoot.node")

FINISH_S = 600.0
"""Longest that a round is finished first; what it has not counted then is kept, and carried over."""


class Resting:
    """Of one node. `changed` after each change of its holds; `run` is a service. On the event loop."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._for_trainer = asyncio.Event()
        self._for_rounds = asyncio.Event()
        self._absent = False
        """Whether the others were told not to wait for us."""

    def changed(self) -> None:
        """The holds of the node have changed. What must not wait happens at once."""
        node = self._node
        node.show()
        node.joiner.wait(node.holds.unloads and not node.leaves)
        swarming = node.swarming
        if swarming is not None and not node.leaves:
            if not node.holds.rests:
                swarming.hold(False)
            elif node.holds.silent:
                swarming.hold(True)
        self._for_trainer.set()
        self._for_rounds.set()

    async def run(self) -> None:
        """Follow the holds until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lead_trainer())
            group.create_task(self._lead_rounds())

    async def _lead_trainer(self) -> None:
        node = self._node
        while True:
            await self._for_trainer.wait()
            self._for_trainer.clear()
            if node.leaves:
                return
            if node.holds.unloads:
                await node.training.rest()
            else:
                node.training.go_on()

    async def _lead_rounds(self) -> None:
        node = self._node
        while True:
            await self._for_rounds.wait()
            self._for_rounds.clear()
            swarming = node.swarming
            if swarming is None or node.leaves:
                continue
            if node.holds.rests:
                await self._leave_rounds(swarming)
            elif self._absent:
                self._absent = False
                node.runner.pulse.back()
                node.announcing.soon()

    async def _leave_rounds(self, swarming: "Swarming") -> None:
        """Out of the running round, and no other; nobody has to wait for us."""
        node = self._node
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await swarming.hand_in()  # at once where a silent hold has ended the round already
        if node.holds.rests and not self._absent:
            self._absent = True
            swarming.hold(True)
            node.announcing.soon()
            await node.runner.say_goodbye()
