"""How peers behave, in this node's opinion, and what follows: points, closed connections, bans.

Local from end to end. A banned peer is cut off and its announcements are not looked at; what rounds compute
depends on certificates alone, so that nodes with other bans end on the same bits.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.network import Network, Source
from talkoot.peer import clock
from talkoot.peer.bans import Ban, BanList
from talkoot.peer.metrics import Metrics
from talkoot.peer.penalties import BAN_S, DISCONNECT_POINTS, OPERATOR, penalty_of
from talkoot.peer.scores import Scores

log = logging.getLogger("talkoot.conduct")

LOOK_S = 30.0
"""Pause between two looks at what was forgotten and which bans have ended."""

RETRY_S = 30.0
"""Pause before a list that could not be written is written again."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A peer as `talkoot peers` shows it."""

    points: float
    reason: str
    """What its last points were for, or empty."""
    ban: Ban | None


class Conduct:
    """Scores and bans of one node. Hears of offences from the network's events; `run` is a service."""

    def __init__(
        self, network: Network, path: Path, metrics: Metrics, *, wall: Callable[[], float] = time.time
    ) -> None:
        """The list of bans is at `path`; nobody is banned before `load`."""
        self._network = network
        self._metrics = metrics
        self._wall = wall
        self._path = path
        self._loaded = False
        self._bans = BanList(path)
        self._scores = Scores()
        self._unsaved = asyncio.Event()
        network.events.on_offence = self.offence

    def load(self) -> BanList:
        """Read the list from disk; for `begin`. Blocks. Raises ConfigError where it is damaged."""
        return BanList.load(self._path)

    def begin(self, bans: BanList) -> None:
        """Go on with what `load` gave."""
        self._bans = bans
        self._loaded = True
        self._apply()

    async def run(self) -> None:
        """Keep the list on disk and end what has lasted long enough, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._save_changes())
            while True:
                await asyncio.sleep(LOOK_S)
                if self._bans.expire(self._wall()):
                    self._unsaved.set()
                self._apply()

    def offence(self, peer: bytes, source: Source, reason: str) -> None:
        """Something of this peer was refused; most reasons are no offence."""
        penalty = penalty_of(source, reason)
        if penalty == "none" or peer == self._network.key:
            return
        self._metrics.peer_penalties.inc(reason)
        points = self._scores.add(peer, penalty, reason, clock.now())
        if self._scores.is_ban(points):
            self._ban_for(peer, reason)
        elif points >= DISCONNECT_POINTS:
            log.info("peer %s is disconnected: %s", peer_id_of(peer), reason)
            self._apply()
            self._network.disconnect(peer)

    def proven(self, peer: bytes, reason: str) -> None:
        """Ban whoever signed what no honest key signs. Only for a proof that was just verified here: what
        another peer says about it is an opinion, and opinions do not travel."""
        self._metrics.peer_penalties.inc(reason)
        self._ban_for(peer, reason)

    def _ban_for(self, peer: bytes, reason: str) -> None:
        if not self._loaded or self._bans.of(peer, self._wall()) is not None:
            return
        with suppress(ValueError):  # a list full of the operator's
            self._bans.add(peer, reason=reason, by="score", for_s=BAN_S, now=self._wall())
            self._metrics.peer_bans.inc(reason)
            log.warning("peer %s is banned for %d hours: %s", peer_id_of(peer), BAN_S / 3600, reason)
            self._unsaved.set()
        self._apply()

    # -- the operator --------------------------------------------------------------------------------

    async def ban(self, peer: bytes, reason: str, for_s: float | None) -> Ban:
        """Ban a peer; on disk when this returns. Raises ValueError for what the operator should change."""
        self._require_loaded()
        if peer == self._network.key:
            raise ValueError("that is this peer itself")
        ban = self._bans.add(peer, reason=reason, by=OPERATOR, for_s=for_s, now=self._wall())
        self._metrics.peer_bans.inc(OPERATOR)
        self._apply()
        await self._write()
        return ban

    async def unban(self, peer: bytes) -> bool:
        """Lift a ban and forget what was held against the peer; whether there was anything."""
        self._require_loaded()
        points = self._scores.points(peer, clock.now())
        lifted = self._bans.lift(peer)
        self._scores.forgive(peer)
        self._apply()
        if lifted:
            await self._write()
        return lifted or points > 0

    def _require_loaded(self) -> None:
        if not self._loaded:
            raise ValueError("this peer is just starting: try again in a moment")

    def standing(self, peer: bytes) -> Standing:
        """What is held against a peer."""
        return Standing(
            points=self._scores.points(peer, clock.now()),
            reason=self._scores.reason(peer),
            ban=self._bans.of(peer, self._wall()),
        )

    def bands(self, peers: Collection[bytes]) -> Iterator[str]:
        """For each of these peers, how it stands, as one of `metrics.words.BANDS`."""
        banned, bad = self._network.company.banned, self._scores.distrusted(clock.now())
        noted = self._scores.known(clock.now())
        for peer in peers:
            yield (
                "banned"
                if peer in banned
                else "bad"
                if peer in bad
                else "neutral"
                if peer in noted
                else "good"
            )

    def noted(self) -> set[bytes]:
        """Peers that have points or a ban."""
        return {*self._scores.known(clock.now()), *self._bans.current(self._wall())}

    # -- what follows --------------------------------------------------------------------------------

    def _apply(self) -> None:
        """Have the network refuse whom it should."""
        banned = frozenset(self._bans.current(self._wall()))
        self._metrics.peers_banned.set(len(banned))
        self._network.company.distrusted = self._scores.distrusted(clock.now())
        if banned != self._network.company.banned:
            self._network.ban(banned)

    async def _save_changes(self) -> None:
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            try:
                await self._write()
            except ConfigError as error:
                log.warning("the list of bans is not saved: %s", error)
                await asyncio.sleep(RETRY_S)
                self._unsaved.set()

    async def _write(self) -> None:
        """Raises ConfigError."""
        data = self._bans.encode()
        await asyncio.to_thread(self._bans.write, data)
