"""What a node answers other peers that look at their connection: put together from what it has."""

import math
from typing import TYPE_CHECKING

from talkoot.peer.probing.server import ProbeServer
from talkoot.peer.protocol import PROTOCOL_VERSION

if TYPE_CHECKING:
    from talkoot.peer.node import Node


def serve_probes(node: "Node") -> None:
    """Register `talkoot/probe/1`. Before the node runs."""
    ProbeServer(
        node.network,
        exchanging=lambda: node.swarming is not None and node.swarming.exchanging,
        rate=lambda: node.options.serve_rate or math.inf,
        protocol=lambda: node.manifest.protocol if node.manifest is not None else PROTOCOL_VERSION,
    )
