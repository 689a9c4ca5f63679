"""A running founder's invites: each is on disk before it is given out, and so is its revocation."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from talkoot.averaging.ledger import Ledger
from talkoot.averaging.revocations import Revocation
from talkoot.averaging.rules import Rules
from talkoot.dht.identity import Identity
from talkoot.peer.admission import Token
from talkoot.peer.issued import IssuedInvites

if TYPE_CHECKING:
    from talkoot.peer.node import Node


class Issuing:
    """Of one life of a node."""

    def __init__(self, invites: IssuedInvites, identity: Identity, swarm: bytes) -> None:
        self._invites = invites
        self._identity = identity
        self._swarm = swarm
        self._writing = asyncio.Lock()

    def pending(self, ledger: Ledger) -> tuple[Revocation, ...]:
        """What our next join takes back."""
        return self._invites.pending(ledger, self._identity)

    def as_json(self, ledger: Ledger) -> list[dict[str, Any]]:
        """All that were made here."""
        return self._invites.as_json(ledger, time.time())

    async def add(self, token: Token) -> None:
        """Remember one before it is given out. Raises ValueError."""
        async with self._writing:
            self._invites.add(token, time.time())
            await self._write()

    async def revoke(self, name: str, ledger: Ledger) -> list[dict[str, Any]]:
        """Take back what `name` stands for with our next joins; their entries. Raises ValueError."""
        async with self._writing:
            keys = self._invites.revoke(
                name, own=self._identity.key, swarm=self._swarm, ledger=ledger, now=time.time()
            )
            await self._write()
        names = {key.hex() for key in keys}
        return [entry for entry in self.as_json(ledger) if entry["token"] in names]

    async def _write(self) -> None:
        await asyncio.to_thread(self._invites.write, self._invites.encode())


async def begin_issuing(node: "Node", rules: Rules) -> Issuing | None:
    """For a founder of a swarm whose invites admit somebody. Raises ConfigError."""
    if node.identity.key not in rules.founders or not rules.invited_vote or rules.listed:
        return None
    invites = await node.disk.run(IssuedInvites.load, node.paths.issued)
    return Issuing(invites, node.identity, rules.swarm)


def issuing_of(node: "Node") -> tuple[Issuing, Ledger]:
    """Where there is something to list and to revoke. Raises ValueError."""
    if node.swarming is None:
        raise ValueError("this peer is not in the swarm yet: try again in a moment")
    if node.runner.issuing is None:
        raise ValueError("this peer makes no invites that could be revoked: it is no founder, or needs none")
    return node.runner.issuing, node.swarming.ledger
