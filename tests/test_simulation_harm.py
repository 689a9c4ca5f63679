"""How long a simulated fault lasts."""

import asyncio
from random import Random
from typing import cast

import pytest

from talkoot.peer.simulation.harm import Harm
from talkoot.peer.simulation.virtual_time import run_virtual, virtual_loop
from talkoot.peer.simulation.world import World

NO_WORLD = cast("World", None)


def test_a_fault_lasts_for_a_random_while() -> None:
    async def main() -> list[float]:
        harm, ends = Harm(NO_WORLD, Random(1)), []
        for _ in range(50):
            began = virtual_loop().now
            await harm.last(2.0, 25.0)
            ends.append(virtual_loop().now - began)
        return ends

    lasted = run_virtual(main())
    assert min(lasted) >= 2.0
    assert max(lasted) <= 25.0
    assert max(lasted) - min(lasted) > 15.0


def test_all_faults_end_together() -> None:
    async def main() -> float:
        harm = Harm(NO_WORLD, Random(1))
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(harm.last(60.0, 90.0))
            await asyncio.sleep(7.0)
            harm.end()
            group.create_task(harm.last(60.0, 90.0))
        return virtual_loop().now

    assert run_virtual(main()) == pytest.approx(7.0)
