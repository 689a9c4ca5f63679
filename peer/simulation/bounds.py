"""Bounded memory: what may not grow in a node, whatever the faults, with its limit."""

from talkoot.peer.links import MAX_QUEUED
from talkoot.peer.node import Node

MAX_BACKLOG = 20_000
"""Outputs of a round that wait to be carried out."""

MAX_BULK_QUEUED = 2_000
"""Bulk frames that wait for one peer: two attempts of a simulated round are far below."""

MAX_TASKS_A_PEER = 64
"""Tasks of a node for each peer that it knows of."""


def exceeded(node: Node) -> list[str]:
    """What is beyond its limit in a node."""
    found = []
    for name, waiting in node.links.waiting().items():
        limit = MAX_QUEUED if name == "control" else MAX_BULK_QUEUED
        if waiting > limit:
            found.append(f"{waiting} {name} frames wait for one peer")
    if node.runner.backlog > MAX_BACKLOG:
        found.append(f"{node.runner.backlog} outputs wait to be carried out")
    return found
