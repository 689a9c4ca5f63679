"""The volunteer's limits of the network, handed to what keeps them; they may change at any time."""

import asyncio
from typing import TYPE_CHECKING

from talkoot.peer.guest.quota import require_quota
from talkoot.peer.guest.settings import GuestSettings

if TYPE_CHECKING:
    from talkoot.peer.node import Node

CLAIMED = 0.9
"""Part of a limit that is claimed as the uplink: the rest is for what keeps a node in touch."""


def begin_traffic(node: "Node", group: asyncio.TaskGroup) -> None:
    """Keep to the limits from now on. Raises ConfigError where a newcomer's quota is used up already."""
    if node.manifest is None:
        require_quota(node.paths.quota, node.settings.now)

    def apply(settings: GuestSettings) -> None:
        node.network.pacing.limit(settings.upload, settings.download)
        node.links.upload.limit = CLAIMED * narrower(settings)

    node.settings.follow(apply)
    group.create_task(node.quota.run())


def narrower(settings: GuestSettings) -> float:
    """The smaller of both limits: a part of the vector is received about as often as it is sent. 0: none."""
    limits = [limit for limit in (settings.upload, settings.download) if limit > 0]
    return min(limits, default=0.0)
