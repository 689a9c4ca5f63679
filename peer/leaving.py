"""An orderly stop: hand in what is under way, save, and leave behind nothing that nobody else has."""

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from talkoot.dht.records import PeerRecord
from talkoot.peer.contributor import Contributor
from talkoot.peer.disk import WORDS

if TYPE_CHECKING:
    from talkoot.peer.node import Node

log = logging.getLogger("talkoot.node")

STOP_S = 30.0
"""How long an orderly stop waits for the running round, and for the trainer to save."""

SAVE_S = 2.0
"""How long it waits for a disk that refuses."""

LOOK_S = 1.0
"""Before and between two looks at whether an archivist has our state; who stops with us says so by then."""

HAND_OVER_S = 30.0
"""How long a stop waits for that at most."""


async def leave(node: "Node") -> None:
    """Everything but the end of the network."""
    swarming, contributor = node.swarming, node.contributor
    if swarming is not None and contributor is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await swarming.hand_in()
        await node.runner.say_goodbye()
        node.runner.set_round(None)
    await node.training.stop(timeout_s=STOP_S)
    if contributor is not None:
        await _save(node, contributor)
    if node.runner.watcher is not None and node.disk.fault is None:
        await node.runner.watcher.save()
    with suppress(TimeoutError):
        async with asyncio.timeout(3.0):
            await node.announcing.publish()
    with suppress(TimeoutError):
        async with asyncio.timeout(HAND_OVER_S):
            await _hand_over(node)


async def _save(node: "Node", contributor: Contributor) -> None:
    """Keep what no round has counted yet, if the disk takes it."""
    try:
        async with asyncio.timeout(None if node.disk.fault is None else SAVE_S):
            await contributor.save()
    except (OSError, TimeoutError) as error:
        words = getattr(error, "strerror", None) or WORDS.get(node.disk.fault or "", "it takes too long")
        log.warning("what no round has counted yet cannot be saved, and is lost: %s", words)


async def _hand_over(node: "Node") -> None:
    """Where there are archivists, and nobody else goes on: wait until one of them has our state."""
    if node.swarming is None or node.options.observes or not _archivists(node):
        return
    rounds = node.swarming.ledger.round
    told = False
    while True:
        await asyncio.sleep(LOOK_S)
        node.swarming.view.update(await node.network.directory.peers())
        if any(_keeps(seen.record, rounds) for seen in node.swarming.view.others.values()):
            return
        if not told:
            log.info("waiting until an archivist has round %d; once more to stop at once", rounds)
            told = True


def _archivists(node: "Node") -> bool:
    assert node.swarming is not None
    return any(seen.record.role == "observer" for seen in node.swarming.view.others.values())


def _keeps(record: PeerRecord, rounds: int) -> bool:
    """Whether what we hold is safe with this peer. One that trains on gets, or fetches, the round that its
    announcement does not name yet."""
    if record.state == "draining":
        return False
    return record.round >= (rounds if record.role == "observer" else rounds - 1)
