"""What a node tells others of its metrics, and what it asks them: put together from what it has."""

from typing import TYPE_CHECKING

from talkoot.peer.observing.observer import Listed, Observer, targets
from talkoot.peer.observing.protocol import MetricsServer
from talkoot.peer.observing.report import take

if TYPE_CHECKING:
    from talkoot.peer.node import Node


def observer_of(node: "Node") -> Observer:
    """The node's observer. Registers the protocol by which others ask this node."""
    share = node.options.share_metrics
    MetricsServer(
        node.network,
        node.membership.swarm,
        share=share,
        refresh=node.metrics.refresh,
        take=lambda: take(node.metrics.registry, share),
    )
    return Observer(
        node.network,
        node.membership.swarm,
        others=lambda: node.swarming.view.others if node.swarming is not None else {},
        voters=lambda: node.holdings.ledger.voters if node.holdings is not None else (),
        run=lambda: _run(node),
    )


def targets_of(node: "Node", http_port: int) -> list[dict[str, object]]:
    """The list for `/sd`. Quick: called on the event loop."""
    own = Listed(node.identity.peer_id, node.options.role)
    return targets(node.observer.listed(), own, swarm=_run(node), address=f"127.0.0.1:{http_port}")


def _run(node: "Node") -> str:
    return node.manifest.swarm.name if node.manifest is not None else ""
