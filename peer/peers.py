"""The peers of `talkoot peers`: those of the swarm, and those against whom something is held."""

from typing import Any

from talkoot.dht.identity import peer_id_of
from talkoot.peer.bans import as_json
from talkoot.peer.conduct import Standing
from talkoot.peer.node import Node


def listed(node: Node) -> list[dict[str, Any]]:
    """One entry a peer, ours left out. Quick: called on the event loop."""
    seen = node.swarming.view.others if node.swarming is not None else {}
    connected = node.links.connected
    entries = []
    for key in sorted({*seen, *connected, *node.conduct.noted()} - {node.identity.key}):
        record = seen[key].record if key in seen else None
        standing = node.conduct.standing(key)
        entries.append(
            {
                "peer_id": peer_id_of(key),
                "state": _state(standing, record.state if record is not None else None),
                "role": record.role if record is not None else None,
                "round": record.round if record is not None else None,
                "connected": key in connected,
                "voter": node.holdings is not None and key in node.holdings.ledger.voters,
                "score": round(-standing.points, 1) + 0.0,  # never -0.0
                "score_reason": standing.reason,
                "ban": None if standing.ban is None else as_json(standing.ban),
            }
        )
    return entries


def _state(standing: Standing, announced: str | None) -> str:
    return "banned" if standing.ban is not None else announced or "unknown"
