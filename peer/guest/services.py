"""What runs in a node so that it is a good guest."""

import asyncio
from typing import TYPE_CHECKING

from talkoot.peer.announcement import VERSION
from talkoot.peer.guest.bookkeeping import Books
from talkoot.peer.guest.releases import tell_of_releases
from talkoot.peer.guest.traffic import begin_traffic
from talkoot.peer.guest.tuning import begin_tuning

if TYPE_CHECKING:
    from talkoot.peer.node import Node


def begin_guest(node: "Node", group: asyncio.TaskGroup) -> None:
    """Begin all of it, as tasks of the node's group, before it loads or fetches anything."""
    group.create_task(tell_of_releases(node, VERSION))
    group.create_task(node.resting.run())
    group.create_task(node.orders.run())
    begin_tuning(node)
    group.create_task(Books(node).run())
    group.create_task(node.room.run())
    group.create_task(node.senses.run())
    begin_traffic(node, group)
