"""One peer of a simulated swarm: its computer, its disk, its link, and its node while it is on."""

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from talkoot.dht.memory import Link, MemoryNetwork
from talkoot.peer.node import Node
from talkoot.peer.options import Role
from talkoot.peer.simulation.hosts import Host, here
from talkoot.peer.simulation.signatures import SimIdentity
from talkoot.peer.simulation.sim_trainer import SimTrainer


@dataclass(eq=False, slots=True)
class SimPeer:
    """One simulated computer: its disk outlives its crashes."""

    number: int
    identity: SimIdentity
    folder: Path
    usual_link: Link
    speed: float
    host: Host
    role: Role = "full"
    changes: list[dict[str, Any]] = field(default_factory=list)
    """What faults change in its link at present, in order."""
    wall_jump_s: float = 0.0
    slowness: float = 1.0
    node: Node | None = None
    network: MemoryNetwork | None = None
    trainer: SimTrainer | None = None
    task: asyncio.Task[None] | None = None
    lives: int = 0

    @property
    def key(self) -> bytes:
        """Its key."""
        return self.identity.key

    @property
    def round(self) -> int:
        """Rounds in its outer state; -1 while it has none open."""
        holdings = self.node.holdings if self.node is not None else None
        return holdings.ledger.round if holdings is not None else -1

    @property
    def link(self) -> Link:
        """How it is connected at present."""
        link = self.usual_link
        for change in self.changes:
            link = replace(link, **change)
        return link

    def adjust(self) -> None:
        """Let what runs here feel the present conditions."""
        if self.network is not None:
            self.network.link = self.link
            self.network.wall_offset_s = self.host.wall_offset_s + self.wall_jump_s
        if self.trainer is not None:
            trainer = self.trainer
            self.inside(lambda: trainer.change_speed(self.speed * self.slowness))

    def context(self) -> Context:
        """For code that runs on this computer."""
        context = copy_context()
        context.run(here.set, self.host)
        return context

    def inside(self, call: Callable[[], None]) -> None:
        """Run something on this computer."""
        self.context().run(call)
