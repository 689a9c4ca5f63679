"""The peers of `talkoot peers`: those of the swarm, and those against whom something is held."""

from collections.abc import Mapping
from typing import Any

from talkoot.averaging.history import WARM_ROUNDS
from talkoot.averaging.watch import Record
from talkoot.dht.identity import peer_id_of
from talkoot.peer.bans import as_json
from talkoot.peer.conduct import Standing
from talkoot.peer.judging.standing import standing_of
from talkoot.peer.node import Node
from talkoot.peer.public_name import split_version


def listed(node: Node) -> list[dict[str, Any]]:
    """One entry a peer, ours left out. Quick: called on the event loop."""
    seen = node.swarming.view.others if node.swarming is not None else {}
    watched = node.runner.watcher.records if node.runner.watcher is not None else {}
    connected = node.links.connected
    entries = []
    for key in sorted({*seen, *connected, *node.conduct.noted(), *_suspected(watched)} - {node.identity.key}):
        record = seen[key].record if key in seen else None
        standing = node.conduct.standing(key)
        entries.append(
            {
                "peer_id": peer_id_of(key),
                "public_name": split_version(record.version)[1] if record is not None else None,
                "state": _state(standing, record.state if record is not None else None),
                "role": record.role if record is not None else None,
                "round": record.round if record is not None else None,
                "connected": key in connected,
                "path": node.network.paths.of(key),
                "voter": node.holdings is not None and key in node.holdings.ledger.voters,
                **_audited(node, key),
                "score": round(-standing.points, 1) + 0.0,  # never -0.0
                "score_reason": standing.reason,
                "watch": _watched(watched.get(key)),
                "ban": None if standing.ban is None else as_json(standing.ban),
            }
        )
    return entries


def _suspected(watched: Mapping[bytes, Record]) -> set[bytes]:
    return {key for key, record in watched.items() if record.suspected}


def _watched(record: Record | None) -> dict[str, Any] | None:
    """What this node makes of a peer's contributions: an opinion."""
    if record is None:
        return None
    judged = record.history.norm.count >= WARM_ROUNDS
    return {
        "rounds": record.rounds,
        "last_round": record.last,
        "suspected": record.suspected,
        "suspicion": round(record.history.suspicion, 2),
        "norm_score": round(record.norm, 1) if judged else None,
        "direction_score": round(record.direction, 1) if judged else None,
        "signs": list(record.signs),
        "like": peer_id_of(record.like) if record.like else None,
    }


def _audited(node: Node, key: bytes) -> dict[str, Any]:
    """What the swarm's audits have come to; of those whom it has counted or lets vote."""
    if node.swarming is None:
        return {"standing": None, "reputation": None, "audits_passed": None}
    return standing_of(key, node.swarming.ledger, node.swarming.rules)


def _state(standing: Standing, announced: str | None) -> str:
    return "banned" if standing.ban is not None else announced or "unknown"
