"""Telling others what a reducer claimed, or that there is a proof: who knows, and how much is under way."""

import asyncio
import logging
from collections.abc import Callable

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.network import Network
from talkoot.peer.audits.protocol import AuditClient, Busy, TellClaims, TellProof

log = logging.getLogger("talkoot.audit")

MAX_TELLS = 128
"""Messages to others that may be under way; reminders come every round."""


class Telling:
    """One for a node."""

    def __init__(self, network: Network, swarm: bytes, connected: Callable[[], frozenset[bytes]]) -> None:
        self._network = network
        self._swarm = swarm
        self._connected = connected
        self._under_way = 0
        self._told: dict[bytes, set[bytes]] = {}
        """By offender: who knows."""

    def knows(self, peer: bytes, offender: bytes) -> None:
        """A peer has the proof against somebody."""
        if peer in self._connected():
            self._told.setdefault(offender, set()).add(peer)

    def remind(self, group: asyncio.TaskGroup, offender: bytes, num_bytes: int) -> None:
        """Tell of a proof those that may not know."""
        knowing = self._told.setdefault(offender, set())
        knowing &= self._connected()
        self.everybody(group, TellProof(offender, num_bytes), but=knowing | {offender})

    def everybody(
        self, group: asyncio.TaskGroup, what: TellClaims | TellProof, but: set[bytes] | frozenset[bytes]
    ) -> None:
        """Tell all to whom we are connected, as far as there is room for more under way."""
        for peer in sorted(self._connected() - but):
            if self._under_way < MAX_TELLS:
                self._under_way += 1
                group.create_task(self._say(peer, what))

    async def _say(self, peer: bytes, what: TellClaims | TellProof) -> None:
        try:
            client = await AuditClient.connect(self._network, peer, self._swarm)
            try:
                await client.ask(what)
                if isinstance(what, TellProof):
                    self.knows(peer, what.offender)
            finally:
                await client.close()
        except (RemoteError, TimeoutError, Busy) as error:
            log.debug("peer %s is not told: %s", peer_id_of(peer), error)
        finally:
            self._under_way -= 1
