"""How this node is reached: which relays it is told of, what others say of its reachability, and what
follows.

Peers that it is connected with are asked to dial it back. As long as they do not say that they can, it holds
reservations at relays. Between rounds, channels move from a relay to a better connection as soon as there is
one.
"""

import asyncio
import ipaddress
import logging
from typing import TYPE_CHECKING, Literal

from blake3 import blake3

from talkoot.dht.errors import RemoteError
from talkoot.dht.multiaddr import Address, parse_address
from talkoot.dht.paths import Path
from talkoot.dht.relays import by_relay
from talkoot.peer import clock
from talkoot.peer.manifest import Manifest
from talkoot.peer.options import Role
from talkoot.peer.probing.client import probing
from talkoot.peer.reachability import Cause, Reachability, Votes, advice, effective_role

if TYPE_CHECKING:
    from talkoot.peer.node import Node

log = logging.getLogger("talkoot.reach")

LOOK_S = 2.0
"""Pause between two looks at the paths to other peers."""

ASK_S = (5.0, 300.0)
"""Pause between two times that peers are asked: while they have not settled it, and after."""

ASKED = 3
"""Peers that are asked at a time."""

MAX_PORTS = 2
"""Ports of ours that each is asked to dial."""

DEAF_S = 600.0
"""A peer that gave no answer is not asked again for so long."""


class Reach:
    """Of one life of a node. `run` is a service; it may be asked for all else before."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._network = node.network
        self._wanted: Role = node.options.role
        self._uses_relays = node.network.relays.wanted
        self._asks = self._uses_relays or node.options.relayed == "refuse"
        self._turn = 0
        self._deaf: dict[bytes, float] = {}
        self._places: tuple[Address, ...] = ()
        self._told = ""
        self.votes = Votes()
        self.role: Role = self._wanted
        """In the next round."""
        self.cause: Cause = ""
        """Why that is not what this node was started as."""
        self.refused_by: Literal["", "swarm", "node"] = "node" if node.options.relayed == "refuse" else ""
        self._network.company.refuses_relayed = bool(self.refused_by)
        self._network.company.busy = lambda: node.swarming is not None and node.swarming.exchanging
        self._network.relays.name("invite", by_relay(node.membership.relays))
        if node.membership.manifest is not None:
            self.follow(node.membership.manifest)

    def follow(self, manifest: Manifest) -> None:
        """These are the swarm's rules."""
        self._network.relays.name("manifest", by_relay(manifest.swarm.relays))
        if manifest.swarm.relayed == "refuse":
            self.refused_by = "swarm"
            self._network.company.refuses_relayed = True
        self._want_relays()

    @property
    def state(self) -> Reachability:
        """Whether others can dial this node."""
        return self.votes.state(clock.now())

    @property
    def paths(self) -> dict[bytes, Path]:
        """To those whom rounds need."""
        return {peer: self._network.paths.of(peer) for peer in self._network.company.wanted}

    @property
    def advice(self) -> str:
        """What a person could do, in one line, or nothing."""
        ports = self._ports()
        return advice(
            self.state,
            refused_by=self.refused_by,
            reservations=len(self._network.relays.held),
            port=ports[0] if ports else 0,
        )

    # -- services ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._asks:
                group.create_task(self._ask_again())
            group.create_task(self._look_again())

    async def _look_again(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(LOOK_S)

    def _look(self) -> None:
        self._want_relays()
        before = self.role
        self.role, self.cause = effective_role(self._wanted, self.state, self.paths)
        if self.role != before:
            log.info("%s", _ROLE_WORDS[self.cause])
        self._node.links.upload.relayed = "relayed" in self.paths.values()
        if (swarming := self._node.swarming) is not None and not swarming.exchanging:
            swarming.role = self.role
            self._node.links.renew()
        if (words := self.advice) != self._told:
            self._told = words
            if words:
                log.warning("%s", words)

    def _want_relays(self) -> None:
        relays = self._network.relays
        state = self.state
        relays.wanted = self._uses_relays and not self.refused_by and state != "public"
        relays.instead = state == "private"

    async def _ask_again(self) -> None:
        while True:
            moved = self._network.places != self._places
            if not {place.host for place in self._network.places} & {place.host for place in self._places}:
                self.votes.forget()  # on another network
            self._places = self._network.places
            await self._ask_some()
            settled = self.votes.is_settled(clock.now()) and not moved
            await asyncio.sleep(ASK_S[settled])

    async def _ask_some(self) -> None:
        now = clock.now()
        self._deaf = {peer: at for peer, at in self._deaf.items() if now - at < DEAF_S}
        there = [peer for peer in self._network.paths.connected() if peer not in self._deaf]
        self._turn += 1
        async with asyncio.TaskGroup() as group:
            for peer in sorted(there, key=self._order)[:ASKED]:
                group.create_task(self._ask(peer))

    def _order(self, peer: bytes) -> tuple[bool, bytes]:
        """Whom to ask first: those whom rounds need, and of them others each time."""
        lot = blake3(b"%d" % self._turn + self._network.key + peer).digest()
        return peer not in self._network.company.wanted, lot

    async def _ask(self, peer: bytes) -> None:
        """Have a peer dial us, at each port that we say we have; what comes of it is its vote."""
        try:
            async with probing(self._network, peer) as probe:
                seen_at = (await probe.hello()).address
                outcomes = [await probe.dial_back(port) for port in self._ports()] if seen_at else []
        except (RemoteError, TimeoutError) as error:
            log.debug("a peer does not dial back: %s", error)
            if not (isinstance(error, RemoteError) and error.reason in ("busy", "exchanging")):
                self._deaf[peer] = clock.now()
            return
        tried = [outcome for outcome in outcomes if outcome not in ("unknown", "unroutable")]
        if not tried:
            self._deaf[peer] = clock.now()
            return
        far = ipaddress.ip_address(parse_address(seen_at).host).is_global
        before = self.state
        self.votes.note(peer, reached="reached" in tried, far=far, now=clock.now())
        if self.state != before:
            log.info("other peers %s dial this one", "can" if self.state == "public" else "cannot")

    def _ports(self) -> list[int]:
        return list(dict.fromkeys(place.port for place in self._network.places))[:MAX_PORTS]


_ROLE_WORDS: dict[Cause, str] = {
    "": "reached without a relay: reduces again",
    "relayed": "reached through a relay only: takes part as a client, which does not reduce",
}
