"""A simulated swarm: whole nodes on the network in memory, on a virtual clock, from one seed.

Everything but the network, the trainer and the clock is the code that a daemon runs, its files included.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from traceback import extract_tb
from typing import Literal

import torch
from blake3 import blake3

from talkoot.averaging.certificate import Certificate, genesis
from talkoot.averaging.digest import state_tree
from talkoot.averaging.rules import Rules
from talkoot.compression import codec as codecs
from talkoot.dht.memory import Link, MemoryHub
from talkoot.peer.belonging import Membership
from talkoot.peer.founding import first_ledger
from talkoot.peer.guest.settings import UNDISTURBED
from talkoot.peer.manifest import Compression, Exchange, Manifest, Model, Outer, Round, Swarm
from talkoot.peer.metrics import Metrics
from talkoot.peer.node import Node
from talkoot.peer.options import RunOptions
from talkoot.peer.rules_of import rules_of
from talkoot.peer.simulation.disks import PowerCutError
from talkoot.peer.simulation.hosts import Host
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.signatures import SimIdentity
from talkoot.peer.simulation.strangers import AUDITS, Strangers
from talkoot.peer.simulation.tasks import Task, drift
from talkoot.peer.simulation.virtual_time import TrueClock, virtual_loop
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.swarming import NodeFailed
from talkoot.peer.trainer.handle import Trainer
from talkoot.peer.trainer.protocol import TrainerEvent, TrainerSpec

AUTO = 0.04
"""Part of the seeds in which the links choose the codecs."""

FEW = 0.04
"""Part of the seeds with codecs of few bits, which make a seed of 924 numbers three times as dear."""

PIECES = (0, 1, 2, 2)
"""Chunks in a piece of a blob that is passed on, as large ones are; 0: every peer hands out its whole blob.
By the seed."""

OBSERVER = 0.15
"""Part of the seeds of four peers or more in which one only observes: an archivist with the vote."""

CODECS = ("int8", "bf16", "fp16", "fp32")
FEW_BITS = ("int4", "lloyd4", "lloyd2", "sign", "topk")
AGGREGATES = ("int8", "int4", "lloyd4", "lloyd2")


@dataclass(slots=True)
class Trace:
    """What happened, in order: the same for the same seed."""

    clock: TrueClock
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Note one event with its virtual time."""
        self.lines.append(f"{self.clock.time():.6f} {line}")

    @property
    def hash(self) -> str:
        """BLAKE3 of all lines."""
        return blake3("\n".join(self.lines).encode()).hexdigest()


class World:
    """N peers, all of them founders but for strangers, in a folder."""

    def __init__(
        self,
        num_peers: int,
        seed: int,
        folder: Path,
        *,
        witness: Callable[[bytes, bytes], None],
        on_head: Callable[[SimPeer, Certificate], None],
        on_trouble: Callable[[str], None] = lambda _what: None,
        real_signatures: bool = False,
        wrong_clocks: bool = False,
        exchange: Exchange = "dense",
        compression: Compression | None = None,
        task: Task | None = None,
        num_strangers: int = 0,
    ) -> None:
        """`witness` hears all that is signed, `on_head` of every new head of every peer, `on_trouble` of
        nodes that end by themselves. Without `compression` the seed chooses it. Without `task` nothing is
        learned: parameters drift at random. With strangers, which are the last peers, the swarm is open and
        its trainers are audited.
        """
        self.random = Random(f"world {seed}")  # noqa: S311 - a simulation is to be repeatable
        self.clock = TrueClock()
        self.hub = MemoryHub(seed=seed, clock=self.clock)
        self.trace = Trace(self.clock)
        self.folder = folder
        self._on_head = on_head
        self.trouble = on_trouble
        self._wrong_clocks = wrong_clocks
        self._metrics = Metrics()
        identities = [
            SimIdentity(blake3(f"{seed} {number}".encode()).digest(), witness, real=real_signatures)
            for number in range(num_peers)
        ]
        compression = compression or self._compression(seed)
        self._task = task or drift(seed, exchange, compression)
        num_founders = num_peers - num_strangers
        self.manifest = _manifest(identities[:num_founders], exchange, compression, self._task)
        if num_strangers:
            self.manifest = _opened(self.manifest)
        self.rules = replace(rules_of(self.manifest), chunk_size=self._task.chunk_size)
        if chunks := PIECES[seed % len(PIECES)]:
            chosen = self.manifest.compression.codec
            size = 1 if chosen == "auto" else codecs.get(chosen).encoded_size(self._task.chunk_size)
            self.rules = replace(self.rules, piece_bytes=chunks * size, eager_bytes=0)
        self.peers = [self._peer(number, identity) for number, identity in enumerate(identities)]
        keys = [peer.key for peer in self.peers]
        self.founders = self.peers[:num_founders]
        split = keys[:num_founders], keys[num_founders:]
        self.strangers = Strangers(*split, seed) if num_strangers else None
        more = Random(f"keeper {seed}")  # noqa: S311 - a simulation is to be repeatable
        if num_peers >= 4 and more.random() < OBSERVER:
            more.choice(self.peers).role = "observer"
        self._group: asyncio.TaskGroup | None = None
        self._found()

    def _compression(self, seed: int) -> Compression:
        """Every seed has codecs of its own."""
        codec, aggregate_codec = (self.random.choice(CODECS) for _ in range(2))
        feedback: bool | Literal["auto"] = self.random.random() < 0.5
        more = Random(f"compression {seed}")  # noqa: S311 - a simulation is to be repeatable
        if more.random() < FEW:
            codec, aggregate_codec = more.choice(FEW_BITS), more.choice(AGGREGATES)
            feedback = "auto"
        if more.random() < AUTO:
            codec = aggregate_codec = "auto"
        return Compression(
            codec=codec,
            aggregate_codec=aggregate_codec,
            error_feedback=feedback,
            feedback_decay=more.choice((1.0, 0.95)),
            exchange_share=10 ** more.uniform(-3.5, -2.5),
            warm_rounds=3,
        )

    def _peer(self, number: int, identity: SimIdentity) -> SimPeer:
        random = self.random
        host = Host(Random(random.getrandbits(64)))  # noqa: S311 - a simulation is to be repeatable
        if self._wrong_clocks:
            host.offset = random.uniform(0.0, 1e5)
            host.rate = random.uniform(0.99, 1.01)
            host.wall_offset_s = random.uniform(-1.0, 1.0)
        link = Link(latency_s=random.uniform(0.002, 0.05), upload=1e6, download=1e7)
        folder = self.folder / f"peer-{number}"
        return SimPeer(number, identity, folder, link, random.uniform(2.0, 8.0), host)

    def _found(self) -> None:
        """Give every peer the first state, as if all had been there when the swarm was founded."""
        first = self.peers[0]
        theta = self._task.theta
        if theta is None:
            generator = torch.Generator().manual_seed(self.random.getrandbits(32))
            theta = torch.randn(self._task.numel, generator=generator)
        keys = tuple(peer.key for peer in self.founders)
        ledger = first_ledger(self.manifest, keys)
        digest = state_tree(theta, torch.zeros_like(theta), ledger.encode()).digest
        start = genesis(self.manifest.swarm_id, digest, keys, first.identity)
        for peer in self.peers:
            paths = StateDir(peer.folder)
            paths.prepare()
            OuterStore.create(
                paths.outer, theta.numel(), theta, ledger=ledger.encode(), certificate=start.encode()
            )
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
        assert peer.task is None
        peer.lives += 1
        peer.host.refused = False
        self.trace.add(f"start {peer.number}")
        peer.task = self._group.create_task(self._life(peer, peer.lives), context=peer.context())

    async def _life(self, peer: SimPeer, life: int) -> None:
        """A node, as long as it runs. Runs on the peer's computer."""
        node = self._node(peer)
        peer.host.on_power_cut = lambda: self.crash(peer)
        ended = ""
        try:
            await node.run()
        except* PowerCutError:
            self.crash(peer)
        except* (NodeFailed, OSError) as failure:
            ended = str(_first_of(failure))  # a daemon says why and exits
        except* Exception as failure:  # noqa: BLE001 - a daemon would have died of it: that is a finding
            ended = "unexpected"
            self.trouble(f"peer {peer.number} died: {_with_place(_first_of(failure))}")
        finally:
            if node.holdings is not None:
                node.holdings.close()
        if peer.lives == life and peer.node is node:
            self.trace.add(f"end {peer.number} {ended}")
            self.hub.crash(peer.key)
            self._off(peer)
            if ended and not peer.host.refused:
                self.trouble(f"peer {peer.number} ended: {ended}")
            elif ended and not peer.host.full:  # it took longer to end than the disk was full
                self.start(peer)

    def _node(self, peer: SimPeer) -> Node:
        paths = StateDir(peer.folder)
        network = self.hub.node(peer.identity, swarm=self.manifest.swarm_id, link=peer.link)
        peer.network = network
        membership = Membership(
            swarm=self.manifest.swarm_id,
            manifest=self.manifest,
            bootstrap=(),
            anchor=None,
            admission=b"",
            data_base=None,
        )

        def make_trainer(spec: TrainerSpec, on_event: Callable[[TrainerEvent], None]) -> Trainer:
            start_s = self.random.uniform(0.5, 3.0)
            peer.trainer = self._task.make_trainer(peer, spec, on_event, start_s)
            return peer.trainer

        def make_rules(_manifest: Manifest) -> Rules:
            return self.rules

        peer.node = Node(
            RunOptions(state_dir=peer.folder, profile="test", role=peer.role, guest=UNDISTURBED),
            paths,
            peer.identity,
            network,
            membership,
            self._metrics,
            make_trainer=make_trainer,
            make_rules=make_rules,
            on_head=lambda certificate: self._head(peer, certificate),
        )
        if self.rules.adaptive is not None:  # what is sent here is too little to be measured
            peer.node.links.upload.stated = self.random.uniform(2e5, 1e6)
        if self.strangers is not None:
            self.strangers.attach(peer.node)
        peer.adjust()
        return peer.node

    def _head(self, peer: SimPeer, certificate: Certificate) -> None:
        value = certificate.value
        self.trace.add(f"head {peer.number} {value.round} {certificate.kind} {value.digest.hex()[:16]}")
        self._on_head(peer, certificate)

    def crash(self, peer: SimPeer) -> None:
        """Kill the process: nothing is said and nothing saved."""
        if peer.task is not None:
            self.hub.crash(peer.key)
            virtual_loop().thaw(peer.host)
            peer.task.cancel()
            self.trace.add(f"crash {peer.number}")
        self._off(peer)

    def _off(self, peer: SimPeer) -> None:
        peer.task = peer.node = peer.network = peer.trainer = None
        peer.host.fuse = None

    async def stop(self, peer: SimPeer, limit_s: float) -> bool:
        """Stop a peer in order; False when it takes longer, and it is killed then."""
        node, task = peer.node, peer.task
        assert node is not None
        assert task is not None
        self.trace.add(f"stop {peer.number}")
        node.stopping.set()
        await asyncio.wait([task], timeout=limit_s)
        if peer.task is task:
            self.crash(peer)
        return task.done()

    @property
    def living(self) -> list[SimPeer]:
        """Peers that are switched on."""
        return [peer for peer in self.peers if peer.task is not None]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _first_of(failure: BaseException) -> BaseException:
    """What is inside of groups."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _with_place(error: BaseException) -> str:
    """An error with where it happened."""
    place = next(
        (
            f"{f.name} {f.lineno}"
            for f in reversed(extract_tb(error.__traceback__))
            if "peer/" in f.filename and "simulation" not in f.filename
        ),
        "",
    )
    return f"{error!r} in {place}"


def _manifest(
    identities: list[SimIdentity], exchange: Exchange, compression: Compression, task: Task
) -> Manifest:
    return Manifest(
        compression=compression,
        robustness=task.robustness,
        audits=task.audits,
        swarm=Swarm(
            name="simulated",
            founders=tuple(identity.peer_id for identity in identities),
            start_peers=task.start_peers,
        ),
        model=Model(kind="numpy", layout="simulated", numel=task.numel),
        outer=Outer(inner_steps=task.inner_steps, learning_rate=0.7, momentum=0.5),
        round=Round(
            min_interval_s=1.0,
            max_interval_s=60.0,
            announce_s=2.0,
            form_s=3.0,
            exchange_s=6.0,
            certify_s=3.0,
            floor_s=1.0,
            max_absent_rounds=3,
            eval_windows=0,
            exchange=exchange,
        ),
    )


def _opened(manifest: Manifest) -> Manifest:
    """The manifest of a swarm that strangers join. Founders keep their vote, however long they are away: with
    fewer voters fewer may lie."""
    return replace(
        manifest,
        swarm=replace(manifest.swarm, admission="open"),
        round=replace(manifest.round, max_absent_rounds=10**6),
        audits=AUDITS,
    )
