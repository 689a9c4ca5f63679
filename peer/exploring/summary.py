"""What a reading of a swarm comes to: one row a peer, and the figures of the whole. Pure.

Everything that peers say of themselves is a claim. A figure of the swarm therefore counts the peers that were
reached, if any was: anybody can announce peers that do not exist.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from talkoot.dht.identity import peer_id_of
from talkoot.dht.outside.reading import Followed, Reading
from talkoot.dht.records import PeerRecord
from talkoot.peer.public_name import split_version

TRAINS = frozenset({"training", "exchanging"})
"""States of a peer that trains."""
PATHS = ("direct", "relayed", "unreachable", "unknown")
MAX_CLOCK_S = 2.0
"""A clock that is further off is shown as wrong: beyond three seconds announcements are refused."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The swarm at one moment."""

    announced: int
    """Peers that announce themselves, relays left out."""
    reached: int
    """Of them, those that were reached directly."""
    relays: int
    training: int
    by_role: Mapping[str, int]
    by_state: Mapping[str, int]
    by_path: Mapping[str, int]
    by_version: Mapping[str, int]
    frontier: int | None
    """The highest round that two peers announce; of a single peer its own. None: there is nobody."""
    agreeing: int
    """Peers at the frontier that announce the state which most of them announce."""
    at_frontier: int
    steps_per_second: float
    """Of all that train, together."""
    loss: float | None
    """Median of the training losses of those that train."""
    clock_offset_s: float | None
    """Median of how far peers' clocks are ahead of ours."""
    rtt_s: float | None
    """Median of one question and its answer."""


def summary(reading: Reading) -> Summary:
    """The figures of a reading."""
    peers = [peer for peer in reading.peers if peer.record.role != "relay"]
    reached = [peer for peer in peers if path_of(peer) == "direct"]
    counted = reached or peers
    trainers = [peer.record for peer in counted if trains(peer.record)]
    frontier = _frontier([peer.record.round for peer in counted])
    digests = Counter(peer.record.digest for peer in counted if peer.record.round == frontier)
    visits = [peer.visit for peer in reading.peers if peer.visit is not None]
    return Summary(
        announced=len(peers),
        reached=len(reached),
        relays=len(reading.peers) - len(peers),
        training=len(trainers),
        by_role=Counter(peer.record.role for peer in reading.peers),
        by_state=Counter(peer.record.state for peer in peers),
        by_path=Counter(path_of(peer) for peer in peers),
        by_version=Counter(split_version(peer.record.version)[0] for peer in peers),
        frontier=frontier,
        agreeing=max(digests.values(), default=0),
        at_frontier=sum(digests.values()),
        steps_per_second=sum(record.speed for record in trainers),
        loss=_median(record.loss for record in trainers if record.loss > 0),
        clock_offset_s=_median(v.clock_offset_s for v in visits if v.clock_offset_s is not None),
        rtt_s=_median(v.rtt_s for v in visits if v.rtt_s is not None),
    )


def rows(reading: Reading) -> list[dict[str, Any]]:
    """One row a peer: those that were reached first, then by how far they are and how fast."""
    return [_row(peer, reading.at_s) for peer in sorted(reading.peers, key=_order)]


def trains(record: PeerRecord) -> bool:
    """Whether a peer says that it trains."""
    return record.role in ("full", "client") and record.state in TRAINS


def path_of(peer: Followed) -> str:
    """One of `PATHS`."""
    return peer.visit.path if peer.visit is not None else "unknown"


def _row(peer: Followed, now: float) -> dict[str, Any]:
    record, visit = peer.record, peer.visit
    release, name = split_version(record.version)
    return {
        "peer_id": peer_id_of(peer.key),
        "public_name": name,
        "role": record.role,
        "state": record.state,
        "round": record.round,
        "steps": record.steps,
        "speed": record.speed,
        "loss": record.loss if record.loss > 0 else None,
        "path": path_of(peer),
        "version": release,
        "clock_offset_s": visit.clock_offset_s if visit is not None else None,
        "rtt_s": visit.rtt_s if visit is not None else None,
        "age_s": round(max(0.0, now - peer.heard_s), 1),
    }


def _order(peer: Followed) -> tuple[int, int, float, bytes]:
    record = peer.record
    return PATHS.index(path_of(peer)), -record.round, -record.speed, peer.key


def _frontier(rounds: Sequence[int]) -> int | None:
    """One peer alone does not move it."""
    highest = sorted(rounds, reverse=True)[:2]
    return highest[-1] if highest else None


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None
