"""A simulated swarm: whole nodes on the network in memory, on a virtual clock, from one seed.

Everything but the network, the trainer and the clock is the code that a daemon runs, its files included.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import torch
from blake3 import blake3

from talkoot.averaging.certificate import Certificate, genesis
from talkoot.averaging.digest import state_tree
from talkoot.averaging.rules import Rules
from talkoot.dht.identity import Identity
from talkoot.dht.memory import Link, MemoryHub
from talkoot.peer import clock
from talkoot.peer.founding import first_ledger
from talkoot.peer.manifest import Manifest, Model, Outer, Round, Swarm
from talkoot.peer.metrics import Metrics
from talkoot.peer.node import Membership, Node
from talkoot.peer.options import RunOptions
from talkoot.peer.rules_of import rules_of
from talkoot.peer.simulation.sim_trainer import SimTrainer
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.trainer.protocol import TrainerEvent, TrainerSpec

CHUNK_SIZE = 256
NUMEL = 4 * CHUNK_SIZE - 100
INNER_STEPS = 30


class SimIdentity(Identity):
    """An identity that tells a witness what it signs."""

    __slots__ = ("_witness",)

    def __init__(self, seed: bytes, witness: Callable[[bytes, bytes], None]) -> None:
        super().__init__(seed)
        self._witness = witness

    def sign(self, message: bytes) -> bytes:
        """As `Identity.sign`."""
        self._witness(self.key, message)
        return super().sign(message)


@dataclass(slots=True)
class SimPeer:
    """One simulated computer: its disk outlives its crashes."""

    number: int
    identity: SimIdentity
    folder: Path
    link: Link
    speed: float
    node: Node | None = None
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


@dataclass(slots=True)
class Trace:
    """What happened, in order: the same for the same seed."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Note one event with its virtual time."""
        self.lines.append(f"{clock.now():.6f} {line}")

    @property
    def hash(self) -> str:
        """BLAKE3 of all lines."""
        return blake3("\n".join(self.lines).encode()).hexdigest()


class World:
    """N peers, all of them founders, in a folder."""

    def __init__(
        self,
        num_peers: int,
        seed: int,
        folder: Path,
        *,
        witness: Callable[[bytes, bytes], None],
        on_head: Callable[[SimPeer, Certificate], None],
    ) -> None:
        """`witness` hears all that is signed; `on_head` is told of every new head of every peer."""
        self.random = Random(f"world {seed}")  # noqa: S311 - a simulation is to be repeatable
        self.hub = MemoryHub(seed=seed)
        self.trace = Trace()
        self.folder = folder
        self._on_head = on_head
        self._metrics = Metrics()
        identities = [
            SimIdentity(blake3(f"{seed} {number}".encode()).digest(), witness) for number in range(num_peers)
        ]
        self.manifest = _manifest(identities)
        self.rules = replace(rules_of(self.manifest), chunk_size=CHUNK_SIZE)
        self.peers = [
            SimPeer(number, identity, folder / f"peer-{number}", self._link(), self._speed())
            for number, identity in enumerate(identities)
        ]
        self._group: asyncio.TaskGroup | None = None
        self._found()

    def _link(self) -> Link:
        return Link(latency_s=self.random.uniform(0.002, 0.05), upload=1e6, download=1e7)

    def _speed(self) -> float:
        return self.random.uniform(2.0, 8.0)

    def _found(self) -> None:
        """Give every peer the first state, as if all had been there when the swarm was founded."""
        first = self.peers[0]
        generator = torch.Generator().manual_seed(self.random.getrandbits(32))
        theta = torch.randn(NUMEL, generator=generator)
        keys = tuple(peer.key for peer in self.peers)
        ledger = first_ledger(self.manifest, keys)
        digest = state_tree(theta, torch.zeros(NUMEL), ledger.encode()).digest
        start = genesis(self.manifest.swarm_id, digest, keys, first.identity)
        for peer in self.peers:
            paths = StateDir(peer.folder)
            paths.prepare()
            OuterStore.create(paths.outer, NUMEL, theta, ledger=ledger.encode(), certificate=start.encode())
            paths.save_manifest(self.manifest.canonical())
            paths.claim(self.manifest.swarm_id)

    # -- peers ---------------------------------------------------------------------------------------

    async def run(self, script: Callable[[], Awaitable[None]]) -> None:
        """Run all peers while the script plays; ends with it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for peer in self.peers:
                self.start(peer)
            await script()
            for peer in self.peers:
                self.crash(peer)

    def start(self, peer: SimPeer) -> None:
        """Switch a peer on."""
        assert self._group is not None
        peer.lives += 1
        paths = StateDir(peer.folder)
        network = self.hub.node(peer.identity, swarm=self.manifest.swarm_id, link=peer.link)
        membership = Membership(
            swarm=self.manifest.swarm_id,
            manifest=self.manifest,
            bootstrap=(),
            anchor=None,
            admission=b"",
            data_base=None,
        )

        def make_trainer(spec: TrainerSpec, on_event: Callable[[TrainerEvent], None]) -> SimTrainer:
            return SimTrainer(
                spec,
                on_event,
                numel=NUMEL,
                speed=peer.speed,
                seed=1000 * peer.number + peer.lives,
                start_s=self.random.uniform(0.5, 3.0),
            )

        def make_rules(_manifest: Manifest) -> Rules:
            return self.rules

        peer.node = Node(
            RunOptions(state_dir=peer.folder, profile="test"),
            paths,
            peer.identity,
            network,
            membership,
            self._metrics,
            make_trainer=make_trainer,
            make_rules=make_rules,
            on_head=lambda certificate: self._head(peer, certificate),
        )
        peer.task = self._group.create_task(peer.node.run())
        self.trace.add(f"start {peer.number}")

    def _head(self, peer: SimPeer, certificate: Certificate) -> None:
        value = certificate.value
        self.trace.add(f"head {peer.number} {value.round} {certificate.kind} {value.digest.hex()[:16]}")
        self._on_head(peer, certificate)

    def crash(self, peer: SimPeer) -> None:
        """Pull the plug: nothing is said and nothing saved."""
        if peer.task is not None:
            self.hub.crash(peer.key)
            peer.task.cancel()
            self.trace.add(f"crash {peer.number}")
        peer.task = peer.node = None

    @property
    def living(self) -> list[SimPeer]:
        """Peers that are switched on."""
        return [peer for peer in self.peers if peer.task is not None]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _manifest(identities: list[SimIdentity]) -> Manifest:
    return Manifest(
        swarm=Swarm(name="simulated", founders=tuple(identity.peer_id for identity in identities)),
        model=Model(kind="numpy", layout="simulated", numel=NUMEL),
        outer=Outer(inner_steps=INNER_STEPS, learning_rate=0.7, momentum=0.5),
        round=Round(
            min_interval_s=1.0,
            max_interval_s=60.0,
            announce_s=2.0,
            form_s=3.0,
            exchange_s=6.0,
            certify_s=3.0,
            max_absent_rounds=3,
            eval_windows=0,
        ),
    )
