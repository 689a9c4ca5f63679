"""What a node says about itself in the directory."""

import math
from importlib.metadata import version
from typing import TYPE_CHECKING

from talkoot.dht.records import PeerRecord
from talkoot.peer.public_name import version_text

if TYPE_CHECKING:
    from talkoot.peer.node import Node

VERSION = version("talkoot")


def record_of(node: "Node") -> PeerRecord | None:
    """The announcement of now; None as long as it holds no state."""
    swarming, contributor = node.swarming, node.contributor
    if swarming is None or contributor is None:
        return None
    progress, ready = contributor.progress, contributor.ready
    loss = progress.loss if progress is not None and progress.loss is not None else 0.0
    return PeerRecord(
        swarm=node.membership.swarm,
        key=node.identity.key,
        protocol=swarming.manifest.protocol,
        version=version_text(VERSION, node.options.public_name),
        addresses=node.network.addresses[:8],
        role=swarming.role,
        round=swarming.ledger.round,
        digest=swarming.holdings.digest,
        steps=contributor.steps,
        tokens=progress.tokens if progress is not None else 0,
        speed=progress.steps_per_second if progress is not None else 0.0,
        upload=node.links.upload.rate,
        download=0.0,
        corpus=ready.corpus_hash if ready is not None else b"",
        loss=loss if math.isfinite(loss) else 0.0,
        state=node.announced_state,
    )
