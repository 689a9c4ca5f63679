"""What a node shows of itself: the JSON of the local API, which the command line and the page read."""

import math
from importlib.metadata import version
from typing import Any

import msgspec

from talkoot.averaging.revocations import is_revoked
from talkoot.dht.identity import peer_id_of
from talkoot.peer import clock
from talkoot.peer.audits import proofs
from talkoot.peer.disk import WORDS
from talkoot.peer.guest.releases import announced_to, newer_release
from talkoot.peer.judging.services import judging_of
from talkoot.peer.node import Node
from talkoot.peer.protocol import PROTOCOL_VERSION
from talkoot.peer.public_name import split_version
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.watch import resident_bytes

_VERSION = version("talkoot")
"""Looked up once: every time would open files."""


def status(node: Node, http_port: int) -> dict[str, Any]:
    """The node now. Quick: called on the event loop."""
    return (
        _who(node, http_port)
        | _round(node)
        | _training(node)
        | _traffic(node)
        | {
            "refused": dict(node.metrics.messages_rejected.exact),
            "audits": judging_of(node),
            "senses": node.senses.report(),
            "peers": _peers(node),
        }
    )


def state_of(node: Node) -> dict[str, Any]:
    """What it does, and all that keeps it from training; `finishing`: it pauses after so many rounds."""
    return {
        "state": node.state_now,
        "reason": node.reason,
        "detail": node.detail,
        "until": node.until,
        "holds": [{"reason": one.reason, "detail": one.words, "until": one.until} for one in node.holds.all],
        "finishing": node.orders.after,
    }


def _who(node: Node, http_port: int) -> dict[str, Any]:
    manifest, progress = node.manifest, node.joiner.progress
    return {
        "version": _VERSION,
        "newer_release": newer_release(_VERSION, announced_to(node)),
        "protocol": PROTOCOL_VERSION,
        "peer_id": node.identity.peer_id,
        "public_name": node.options.public_name or None,
        "swarm_id": node.membership.swarm.hex(),
        "swarm_name": manifest.swarm.name if manifest else None,
        "numel": manifest.model.numel if manifest else None,
        "role": node.swarming.role if node.swarming else None,
        **state_of(node),
        "proven": _proven(node),
        "revoked": _revoked(node),
        "disk": WORDS[node.disk.fault] if node.disk.fault is not None else None,
        "addresses": list(node.network.addresses),
        "state_dir": str(node.paths.path),
        "http_port": http_port,
        "uptime_s": round(clock.now() - node.started_s, 3),
        "memory_bytes": resident_bytes(),
        "reachability": node.reach.state,
        "relays": [peer_id_of(relay) for relay in sorted(node.network.relays.held)],
        "role_reason": node.reach.cause,
        "reach_advice": node.reach.advice,
        "warning": node.network.events.warning or node.reach.advice,
        "sync": None if progress is None else _sync(progress),
    }


def _proven(node: Node) -> str | None:
    """What there is a proof of against this peer itself."""
    offence = node.proofs.convictions.offence(node.identity.key)
    return proofs.WORDS[offence] if offence is not None else None


def _revoked(node: Node) -> bool:
    """Whether the invite of this peer was taken back, and it holds no other: its work does not count."""
    if node.swarming is None:
        return False
    rules, ledger, own = node.swarming.rules, node.swarming.ledger, node.identity.key
    if own in ledger.voters or any(use.peer == own for use in ledger.used):
        return False
    token = rules.admit(own, node.membership.admission)
    return token is not None and is_revoked(token, ledger)


def _sync(progress: SyncProgress) -> dict[str, Any]:
    return {
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "found_bytes": progress.found_bytes,
        "received_bytes": progress.received_bytes,
        "wasted_bytes": progress.wasted_bytes,
        "bytes_per_second": round(progress.rate),
        "left_s": None if progress.left_s is None else round(progress.left_s, 1),
        "sources": list(progress.sources),
    }


def _round(node: Node) -> dict[str, Any]:
    swarming, holdings = node.swarming, node.holdings
    machine = node.runner.round
    return {
        "round": holdings.ledger.round if holdings else None,
        "digest": holdings.digest.hex() if holdings else None,
        "certificate": holdings.head.kind if holdings else None,
        "voters": len(holdings.ledger.voters) if holdings else None,
        "voting": holdings is not None and node.identity.key in holdings.ledger.voters,
        "global_step": holdings.ledger.global_step if holdings else None,
        "codec": holdings.ledger.codec if holdings else None,
        "aggregate_codec": holdings.ledger.aggregate_codec
        if holdings and holdings.rules.exchange == "dense"
        else None,
        "frontier": swarming.view.frontier(swarming.ledger.round) if swarming else None,
        "attempt": machine.attempt if machine else None,
        "rounds_committed": swarming.history.committed if swarming else 0,
        "rounds_aborted": swarming.history.aborted if swarming else 0,
    }


def _training(node: Node) -> dict[str, Any]:
    contributor = node.contributor
    progress = contributor.progress if contributor else None
    ready = node.training.ready
    share = None
    if progress is not None and progress.total_seconds > 0:
        share = round(progress.inner_seconds / progress.total_seconds, 4)
    return {
        "steps_total": node.training.steps_before + (progress.steps_total if progress else 0),
        "tokens_total": node.training.tokens_before + (progress.tokens_total if progress else 0),
        "steps_per_second": _number(progress.steps_per_second if progress else 0.0),
        "round_steps": contributor.steps if contributor else 0,
        "loss": _number(progress.loss if progress else None),
        "eval_loss": _number(contributor.eval_loss if contributor else None),
        "residual_norm": _number(contributor.residual_norm if contributor else None),
        "inner_share": share,
        "power": node.settings.now.power,
        "power_measured": _number(node.training.duty_cycle),
        "device": ready.device if ready else None,
        "micro_batch": progress.micro_batch if progress else ready.micro_batch if ready else None,
        "trainer_memory_bytes": progress.memory_bytes if progress else None,
        "gpus": [msgspec.to_builtins(gpu) for gpu in contributor.gpus] if contributor else [],
        "trainer": node.training.phase,
        "trainer_pid": node.training.pid,
    }


def _number(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _traffic(node: Node) -> dict[str, Any]:
    sent, received = node.network.traffic.sent, node.network.traffic.received
    return {
        "bytes_sent": sum(count for name, count in sent.items() if "/state/" not in name),
        "bytes_received": sum(count for name, count in received.items() if "/state/" not in name),
        "state_bytes_sent": sum(count for name, count in sent.items() if "/state/" in name),
        "state_bytes_received": sum(count for name, count in received.items() if "/state/" in name),
    }


def _version(announced: str) -> dict[str, str | None]:
    """What a peer runs and, if it gave one, the name that it goes by."""
    release, name = split_version(announced)
    return {"version": release, "public_name": name}


def _peers(node: Node) -> list[dict[str, Any]]:
    if node.swarming is None:
        return []
    now = clock.now()
    connected = node.links.connected
    return [
        {
            "peer_id": peer_id_of(key),
            "role": seen.record.role,
            "round": seen.record.round,
            "steps": seen.record.steps,
            "speed": seen.record.speed,
            "loss": seen.record.loss,
            "state": seen.record.state,
            **_version(seen.record.version),
            "connected": key in connected,
            "path": node.network.paths.of(key),
            "age_s": round(now - seen.at_s, 1),
        }
        for key, seen in sorted(node.swarming.view.others.items())
    ]
