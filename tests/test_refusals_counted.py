"""What a node refuses is counted by its reason where operators look."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from talkoot.averaging.messages import Abort, Committed, Message, Receipt
from talkoot.averaging.wire import encode
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World


def refused(world: World) -> dict[str, float]:
    return dict(world._metrics.messages_rejected.exact)


async def said(world: World, message: Message) -> dict[str, float]:
    """What one peer says to the other adds to these counts."""
    teller, listener = world.peers
    assert teller.node is not None
    before = refused(world)
    teller.node.links.send(listener.key, encode(message))
    await asyncio.sleep(0.3)
    return {
        reason: count - before.get(reason, 0)
        for reason, count in refused(world).items()
        if count > before.get(reason, 0)
    }


async def attack(world: World) -> None:
    await asyncio.sleep(20.0)  # virtual time, enough for a round or two
    listener = world.peers[1].node
    assert listener is not None
    assert listener.holdings is not None
    holdings = listener.holdings
    here: dict[str, Any] = {"round": holdings.ledger.round, "attempt": 0}
    assert here["round"] > 0
    before = holdings.digest
    name = bytes(32)
    receipt = Receipt(**here, roster=name, reducer=name, contributor=name, root=name)
    assert set(await said(world, receipt)) <= {"out_of_order", "stale"}
    assert await said(world, Abort(round=0, attempt=0, reason="", suspects=())) == {"stale": 1}
    last = holdings.head
    forged = msgspec.structs.replace(last.value, round=holdings.ledger.round, prior=holdings.digest, cut=())
    certificate = msgspec.structs.replace(last, value=forged)
    assert await said(world, Committed(**here, certificate=certificate)) == {"signature": 1}
    few = msgspec.structs.replace(certificate, votes=certificate.votes[:1])
    assert await said(world, Committed(**here, certificate=few)) == {"no_quorum": 1}
    foreign = msgspec.structs.replace(certificate, value=msgspec.structs.replace(forged, swarm=b"x" * 32))
    assert await said(world, Committed(**here, certificate=foreign)) == {"wrong_branch": 1}
    assert holdings.digest == before


def test_by_their_reason(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(2, 1, tmp_path, witness=lambda *_: None, on_head=lambda *_: None)
        await world.run(lambda: attack(world))

    with simulated_disks(), stand_in_signatures():
        run_virtual(main())
