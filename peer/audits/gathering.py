"""Fetching what a part was made of: from its reducer, which claims to have all of it, else from those that
contributed it. What we hold ourselves is not fetched.

Rounds come first: nothing is asked for while one is exchanged.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from talkoot.averaging.certificate import CertificateError, Contribution
from talkoot.averaging.contribution import Entry
from talkoot.averaging.digest import content_hash
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.inquiry import Inquiry
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.network import Network
from talkoot.peer.audits.evidence import Evidence
from talkoot.peer.audits.protocol import AskChunk, AskIndex, AuditClient, Busy

log = logging.getLogger("talkoot.audit")

PAUSE_S = 0.25
"""Between two looks at whether a round is still being exchanged: the pause between two may be a second."""

MAX_PAUSES = 3600
"""Longest wait for its end, in pauses."""


class GoneError(Exception):
    """Somebody's contribution is not to be had."""


class Gathering:
    """Of one claim. As a context it closes its channels."""

    def __init__(
        self,
        network: Network,
        inquiry: Inquiry,
        evidence: Evidence,
        *,
        busy: Callable[[], bool],
        doubt: Callable[[bytes], None],
    ) -> None:
        """`doubt` hears of the reducer when it does not give what it claims to have."""
        self._network = network
        self._inquiry = inquiry
        self._claim = inquiry.claim
        self._evidence = evidence
        self._busy = busy
        self._doubt = doubt
        self._clients: dict[bytes, AuditClient] = {}
        self._useless: set[bytes] = set()
        """Who does not have it all, or cannot be asked."""

    async def index(self, position: int) -> tuple[bytes, tuple[Entry, ...]]:
        """A contribution's index, encoded, and what it says about the part. Raises GoneError."""
        item = self._inquiry.cut[position]
        kept = self._evidence.find(self._claim.prior, item.key)
        if kept is not None:
            ours = kept.index.encode()
            return ours, self._inquiry.entries(position, ours)
        for peer in self._holders(item):
            data = await self._ask(peer, AskIndex(self._claim.prior, item.key))
            try:
                if data is not None:
                    return data, await asyncio.to_thread(self._inquiry.entries, position, data)
            except CertificateError:
                pass
            self._give_up(peer, answered=True)
        raise GoneError

    async def chunk(self, position: int, number: int, entries: Sequence[Entry]) -> Bytes:
        """One chunk of a contribution, as it was signed. Raises GoneError."""
        item = self._inquiry.cut[position]
        kept = self._evidence.find(self._claim.prior, item.key)
        ours = kept.chunk(number) if kept is not None else None
        if ours is not None:
            return ours
        signed = entries[number - self._inquiry.part.first_chunk].hash
        for peer in self._holders(item):
            data = await self._ask(peer, AskChunk(self._claim.prior, item.key, number))
            sized = data is not None and len(data) == self._inquiry.chunk_bytes(number)
            if data is not None and sized and content_hash(data) == signed:
                return data
            self._give_up(peer, answered=True)
        raise GoneError

    def _holders(self, item: Contribution) -> list[bytes]:
        """Whom to ask for a contribution, the reducer first."""
        peers = dict.fromkeys((self._claim.reducer, item.key))
        return [peer for peer in peers if peer != self._network.key and peer not in self._useless]

    def _give_up(self, peer: bytes, *, answered: bool) -> None:
        """Ask a peer no more."""
        if peer not in self._useless:
            self._useless.add(peer)
            if answered and peer == self._claim.reducer:
                self._doubt(peer)

    async def _ask(self, peer: bytes, request: AskIndex | AskChunk) -> bytes | None:
        for _ in range(MAX_PAUSES):
            if not self._busy():
                break
            await asyncio.sleep(PAUSE_S)
        new = peer not in self._clients
        try:
            if new:
                swarm = self._claim.swarm
                self._clients[peer] = await AuditClient.connect(self._network, peer, swarm)
            return await self._clients[peer].ask(request)
        except Busy:
            self._give_up(peer, answered=False)
            return None
        except (RemoteError, TimeoutError) as error:
            log.debug("nothing from %s: %s", peer_id_of(peer), error)
        if peer in self._clients:
            await self._clients.pop(peer).close()
        return None if new else await self._ask(peer, request)  # the channel may have been idle for too long

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channels."""
        for client in self._clients.values():
            await client.close()
