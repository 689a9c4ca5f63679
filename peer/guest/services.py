"""What runs in a node so that it is a good guest."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talkoot.peer.node import Node


def begin_guest(node: "Node", group: asyncio.TaskGroup) -> None:
    """Begin all of it, as tasks of the node's group, before it loads or fetches anything."""
