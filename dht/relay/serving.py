"""The swarms that a relay serves: it reads their directories, and announces itself there.

Both go through a libp2p host with a name of its own, made anew at each start. Under the relay's own name a
peer would have two connections with it and ask for a reservation on the one that offers none.
"""

import time
from collections.abc import Mapping, Sequence

import trio

from talkoot.dht.identity import Identity
from talkoot.dht.outside.directory import OutsideDirectory
from talkoot.dht.outside.host import Outside
from talkoot.dht.records import MAX_ADDRESSES, PeerRecord, SignedRecord
from talkoot.dht.relay.config import Agent, SwarmName
from talkoot.dht.relay.tally import Tally

ANNOUNCE_S = 30.0
"""How often the relay announces itself."""
TTL_S = 120.0
"""How long others believe it."""
_FAREWELL_S = 4.0


class ServedSwarm:
    """One swarm; an `admission.Directory`."""

    def __init__(self, host: Outside, name: SwarmName) -> None:
        self.swarm = name.swarm
        self._directory = OutsideDirectory(host, name.swarm, name.bootstrap)
        self._turn = trio.Lock()

    def peers(self) -> Mapping[bytes, SignedRecord]:
        """See `Directory`."""
        return self._directory.peers()

    async def look(self) -> bool:
        """See `Directory`."""
        async with self._turn:
            return bool((await self._directory.look()).answered)

    def take(self, owner: bytes, envelope: bytes) -> bool:
        """See `Directory`."""
        return self._directory.table.accept(owner, envelope, time.time())

    async def announce(self, relay: Identity, addresses: Sequence[str], agent: Agent, state: str) -> int:
        """Say that the relay is there, and where; how many nodes keep it."""
        record = PeerRecord(
            swarm=self.swarm,
            key=relay.key,
            protocol=agent.protocol,
            version=agent.version,
            addresses=tuple(f"{each}/p2p/{relay.peer_id}" for each in addresses)[:MAX_ADDRESSES],
            role="relay",
            round=0,
            digest=bytes(32),
            steps=0,
            tokens=0,
            speed=0.0,
            upload=0.0,
            download=0.0,
            corpus=b"",
            loss=0.0,
            state=state,
        )
        async with self._turn:
            return await self._directory.publish(record, ttl_s=TTL_S, identity=relay)


class Announcer:
    """Announces one relay in all of its swarms, now and again."""

    def __init__(
        self,
        swarms: Sequence[ServedSwarm],
        relay: Identity,
        addresses: Sequence[str],
        agent: Agent,
        tally: Tally,
    ) -> None:
        self._swarms = swarms
        self._relay = relay
        self._addresses = addresses
        self._agent = agent
        self._tally = tally

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._announce("relaying")
            await trio.sleep(ANNOUNCE_S)

    async def farewell(self) -> None:
        """Say that it is about to go, in a moment at most."""
        with trio.move_on_after(_FAREWELL_S):
            await self._announce("draining")

    async def _announce(self, state: str) -> None:
        async with trio.open_nursery() as nursery:
            for swarm in self._swarms:
                nursery.start_soon(self._in_one, swarm, state)

    async def _in_one(self, swarm: ServedSwarm, state: str) -> None:
        kept = await swarm.announce(self._relay, self._addresses, self._agent, state)
        self._tally.announced += kept > 0
