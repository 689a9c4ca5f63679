"""A node as the eyes of a Prometheus beside it: which peers there are, and what each says of itself.

The list is what `/sd` shows, the answers are those of `/peer/<id>/metrics`. A peer that is not there any more
stays on the list for a while, so that it is seen to be down; one that said goodbye, or shares nothing, does
not.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.records import PeerRecord
from talkoot.peer import clock
from talkoot.peer.observing.protocol import Dialler, Private, ask
from talkoot.peer.observing.report import exposition

log = logging.getLogger("talkoot.observing")

MAX_TARGETS = 256
"""Peers on the list: four times the largest group. Who votes comes first, then who was on it before."""

KEEP_S = 900.0
"""How long a peer stays on the list that has gone without a word."""

PRIVATE_S = 3600.0
"""How long a peer that shares nothing, or cannot, is left alone."""

SCRAPE_S = 8.0
"""Longest wait for one peer; Prometheus waits for ten seconds unless told otherwise."""

FRESH_S = 0.5
"""An answer that is not older is given again."""

MAX_AT_ONCE = 16
"""Peers that are asked at once; others wait."""

FIRST_PAUSE_S, LAST_PAUSE_S = 2.0, 60.0
"""A peer that did not answer is asked again after this, doubled each time up to the second."""

SHORT_ID = 12
"""Last characters of a PeerID that tell peers apart: 70 bits, which nobody makes a second key for."""

BLAMELESS = frozenset({"unreachable", "busy", "timeout", "lost", "ended", "closed", "refused"})
"""Failures that are no lie."""


class Announced(Protocol):
    """An announcement, with whatever else is known of it."""

    @property
    def record(self) -> PeerRecord:
        """What the peer says of itself."""


class UnknownPeer(Exception):  # noqa: N818 - reads well where it is caught
    """No peer on the list has this id."""


class NoAnswer(Exception):  # noqa: N818 - reads well where it is caught
    """The peer gave no metrics; the text says why, in words of ours."""


@dataclass(slots=True)
class _Peer:
    role: str
    seen_s: float
    """When its announcement was last there."""
    draining: bool = False
    failures: int = 0
    wait_until: float = 0.0
    why: str = ""
    private_until: float = 0.0
    answer: tuple[float, bytes] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Listed:
    """One peer on the list."""

    peer_id: str
    role: str


class Observer:
    """Of one node. Nothing runs unless somebody asks."""

    def __init__(
        self,
        network: Dialler,
        swarm: bytes,
        *,
        others: Callable[[], Mapping[bytes, Announced]],
        voters: Callable[[], Iterable[bytes]],
        run: Callable[[], str],
        fresh_s: float = FRESH_S,
    ) -> None:
        """`others`: announcements of now. `voters`: keys that come first. `run`: the swarm's name. `fresh_s`:
        an answer that is not older is given again."""
        self._fresh_s = fresh_s
        self._network = network
        self._swarm = swarm
        self._others = others
        self._voters = voters
        self._run = run
        self._peers: dict[bytes, _Peer] = {}
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    def listed(self) -> list[Listed]:
        """Peers to watch, this node left out. Quick: called on the event loop."""
        self._look()
        now = clock.now()
        return [
            Listed(peer_id_of(key), peer.role)
            for key, peer in sorted(self._peers.items())
            if now >= peer.private_until
        ]

    async def metrics(self, peer_id: str) -> bytes:
        """What a listed peer says of itself, as text. Raises UnknownPeer, NoAnswer."""
        self._look()
        key = next((key for key in self._peers if peer_id_of(key) == peer_id), None)
        if key is None:
            raise UnknownPeer
        peer = self._peers[key]
        async with peer.lock:
            now = clock.now()
            if peer.answer is not None and now - peer.answer[0] < self._fresh_s:
                return peer.answer[1]
            if now < max(peer.wait_until, peer.private_until):
                raise NoAnswer(peer.why)
            text = await self._ask(key, peer)
            peer.answer, peer.failures = (clock.now(), text), 0
            return text

    # -- the list ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take up the announcements of now, and forget who has gone."""
        now, others = clock.now(), self._others()
        for key, seen in others.items():
            record = seen.record
            if record.role == "relay":
                continue  # it trains nothing and serves its own
            peer = self._peers.get(key)
            if peer is None:
                peer = self._peers[key] = _Peer(record.role, now)
            peer.role, peer.seen_s, peer.draining = record.role, now, record.state == "draining"
        banned = self._network.company.banned
        for key, peer in list(self._peers.items()):
            gone = key not in others and (peer.draining or now - peer.seen_s > KEEP_S)
            if gone or key in banned:
                del self._peers[key]
        if len(self._peers) > MAX_TARGETS:
            first = set(self._voters())
            order = sorted(self._peers, key=lambda key: key not in first)  # else in the order of arrival
            self._peers = {key: self._peers[key] for key in order[:MAX_TARGETS]}

    # -- one peer ------------------------------------------------------------------------------------

    async def _ask(self, key: bytes, peer: _Peer) -> bytes:
        """Raises NoAnswer."""
        try:
            async with asyncio.timeout(SCRAPE_S), self._slots:
                data = await ask(self._network, key, self._swarm, timeout_s=SCRAPE_S)
            return await asyncio.to_thread(exposition, data, peer=key, run=self._run(), role=peer.role)
        except Private:
            self._leave_alone(peer, "this peer shares no metrics")
        except TimeoutError:
            self._pause(peer, "no answer in time")
        except RemoteError as error:
            if error.reason == "unsupported":
                self._leave_alone(peer, "this peer's version shares no metrics")
            else:
                if error.reason not in BLAMELESS:
                    self._network.events.reject(error.reason, key, "metrics")
                self._pause(peer, f"no metrics ({error.reason})")
        log.debug("peer %s: %s", peer_id_of(key)[-8:], peer.why)
        raise NoAnswer(peer.why)

    @staticmethod
    def _leave_alone(peer: _Peer, why: str) -> None:
        peer.private_until, peer.why = clock.now() + PRIVATE_S, why

    @staticmethod
    def _pause(peer: _Peer, why: str) -> None:
        pause_s = min(FIRST_PAUSE_S * 2**peer.failures, LAST_PAUSE_S)
        peer.failures = min(peer.failures + 1, 16)
        peer.wait_until, peer.why = clock.now() + pause_s, why


def targets(listed: Iterable[Listed], own: Listed, *, swarm: str, address: str) -> list[dict[str, object]]:
    """What Prometheus' http_sd reads: this node and whom it watches, all at `address` (host and port).

    `instance` tells them apart in every query; it comes from here and never from a peer.
    """
    found: list[dict[str, object]] = []
    for peer in [own, *listed]:
        path = "/metrics" if peer is own else f"/peer/{peer.peer_id}/metrics"
        labels = {"__metrics_path__": path, "instance": peer.peer_id[-SHORT_ID:], "role": peer.role}
        found.append({"targets": [address], "labels": labels | {"swarm": swarm}})
    return found
