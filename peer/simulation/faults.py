"""Draws faults from a seed: what, to whom, when and for how long."""

import asyncio
from random import Random

from talkoot.peer.simulation import host_faults, link_faults
from talkoot.peer.simulation.harm import Harm, Maker
from talkoot.peer.simulation.world import World

MAKERS: dict[str, Maker] = host_faults.MAKERS | link_faults.MAKERS


class Faults:
    """Makes faults until a given time, then repairs everything."""

    def __init__(self, world: World, seed: int, kinds: tuple[str, ...], mean_gap_s: float) -> None:
        self._world = world
        self._random = Random(f"faults {seed}")  # noqa: S311 - a simulation is to be repeatable
        self._kinds = kinds
        self._mean_gap_s = mean_gap_s
        self._harm = Harm(world, self._random)

    @property
    def made(self) -> list[str]:
        """All faults, in order."""
        return self._harm.made

    async def run(self, seconds: float) -> None:
        """Make faults for so long; then all of them end at once, and have ended when this returns."""
        if not self._kinds:
            return
        clock = self._world.clock
        until = clock.time() + seconds
        async with asyncio.TaskGroup() as group:
            while True:
                gap_s = self._random.expovariate(1 / self._mean_gap_s)
                if clock.time() + gap_s >= until:
                    break
                await asyncio.sleep(gap_s)
                group.create_task(MAKERS[self._random.choice(self._kinds)](self._harm))
            await asyncio.sleep(until - clock.time())
            self._harm.end()
