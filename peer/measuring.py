"""What a scrape looks up: everything about a node that metrics do not count as it happens.

Looked at when somebody scrapes, so that it costs nothing where nobody does; with five hundred known peers it
takes under a millisecond of the event loop.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from talkoot.dht.records import PeerRecord
from talkoot.peer import clock
from talkoot.peer.announcement import VERSION
from talkoot.peer.guest.words import STATES
from talkoot.peer.metrics.family import OTHER
from talkoot.peer.metrics.labels import Follow
from talkoot.peer.metrics.words import way_of
from talkoot.peer.reachability import Reachability

if TYPE_CHECKING:
    from talkoot.peer.node import Node

_REACHABLE: dict[Reachability, float] = {"public": 1.0, "private": 0.0, "unknown": math.nan}

AGAIN_S = 0.2
"""Within this time nothing is looked up again."""


class Measuring:
    """Keeps the metrics of one node up to date. In the event loop's thread."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._at = -math.inf
        self._follow = Follow()
        self._tokens: int | None = None
        """When they were first looked at."""

    def look(self) -> None:
        """Unless it was done just now."""
        if clock.now() - self._at >= AGAIN_S:
            self.look_now()

    def look_now(self) -> None:
        """Everything."""
        self._at = clock.now()
        node, metrics = self._node, self._node.metrics
        metrics.state(node.state_now, node.reason)
        follow = self._follow
        metrics.follow_network(node.network.traffic, node.network.events, follow)
        metrics.follow_serving(node.gate, node.network.pacing, follow)
        metrics.quota_used.set(node.quota.month.used)
        metrics.quota_limit.set(node.settings.now.quota_bytes)
        metrics.follow_checks(node.joiner.checks, follow)
        follow.totals(metrics.messages_sent, node.runner.sent)
        follow.totals(metrics.messages_received, node.runner.received)
        metrics.armed.set(node.runner.armed)
        follow.total(metrics.peer_connections, node.links.connections)
        follow.totals(metrics.peer_disconnections, node.links.disconnections)
        self._connected()
        self._reach()
        if node.swarming is not None:
            self._swarm({key: seen.record for key, seen in node.swarming.view.others.items()})

    def _connected(self) -> None:
        node = self._node
        outbound, paths = node.links.outbound, node.network.paths
        node.metrics.peers_connected.show(
            Counter(
                ("outbound" if key in outbound else "inbound", way_of(paths.of(key)))
                for key in node.links.connected
            )
        )

    def _reach(self) -> None:
        node, metrics, relays = self._node, self._node.metrics, self._node.network.relays
        metrics.node_reachable.set(_REACHABLE[node.reach.state])
        metrics.relay_reservations.set(len(relays.held))
        self._follow.totals(metrics.relay_faults, relays.faults)

    def _swarm(self, others: dict[bytes, PeerRecord]) -> None:
        node, metrics = self._node, self._node.metrics
        assert node.swarming is not None
        own = node.swarming.ledger
        metrics.peers_known.set(len(others))
        metrics.round_frontier.set(max([own.round, *(record.round for record in others.values())]))
        paths = node.network.paths
        metrics.peers_by_path.show(Counter((paths.of(key),) for key in others))
        metrics.peers_by_agent.show(Counter((agent_of(record.version),) for record in others.values()))
        metrics.peers_by_score.show(Counter((band,) for band in node.conduct.bands(others)))
        if node.options.observes:
            self._observed(others.values(), own.tokens)

    def _observed(self, records: Iterable[PeerRecord], tokens: int) -> None:
        metrics = self._node.metrics
        metrics.observed_peers.show(Counter((observed_state(record.state),) for record in records))
        rounds = [record.round for record in records if record.role != "observer"]
        metrics.observed_round_min.set(min(rounds, default=math.nan))
        metrics.observed_round_max.set(max(rounds, default=math.nan))
        self._tokens = tokens if self._tokens is None else self._tokens
        self._follow.total(metrics.observed_tokens, tokens - self._tokens)


def observed_state(claimed: str) -> str:
    """One of `STATES`, or `other`: a peer may claim anything."""
    return claimed if claimed in STATES else OTHER


@lru_cache(maxsize=256)
def agent_of(version: str) -> str:
    """How a peer's version, in its own words, compares with ours: one of `AGENTS`."""
    theirs, ours = _numbers(version), _numbers(VERSION)
    if theirs is None or ours is None:
        return "unknown"
    return "same" if theirs == ours else "newer" if theirs > ours else "older"


def _numbers(version: str) -> tuple[int, ...] | None:
    match = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", version, re.ASCII)
    return tuple(int(part or 0) for part in match.groups()) if match else None
