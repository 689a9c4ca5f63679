"""How a node watches contributions: its watcher, put together from what it has."""

import asyncio
from typing import TYPE_CHECKING

from talkoot.averaging.rules import Rules
from talkoot.peer.watcher import Watcher

if TYPE_CHECKING:
    from talkoot.peer.node import Node


def begin_watching(node: "Node", rules: Rules, group: asyncio.TaskGroup) -> Watcher:
    """Start the service."""
    watcher = Watcher(
        node.identity,
        rules,
        node.paths.watch,
        count=node.metrics.contributions_odd.inc,
        suspects=node.metrics.peers_suspected.set,
    )
    group.create_task(watcher.run())
    return watcher
