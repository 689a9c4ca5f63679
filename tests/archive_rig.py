"""Whole nodes on the network in memory and a virtual clock: founders, volunteers with invites, archivists."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from talkoot.averaging.certificate import Certificate, genesis
from talkoot.averaging.digest import state_tree
from talkoot.averaging.ledger import voters_hash
from talkoot.dht.identity import Identity
from talkoot.dht.memory import Link, MemoryHub
from talkoot.peer import admission, restorable, restoring
from talkoot.peer.belonging import Membership
from talkoot.peer.founding import first_ledger
from talkoot.peer.guest.settings import UNDISTURBED
from talkoot.peer.holdings import number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.manifest import Exchange, Manifest, Model, Outer, Round, Swarm
from talkoot.peer.metrics import Metrics
from talkoot.peer.node import Node
from talkoot.peer.options import Role, RunOptions
from talkoot.peer.rules_of import founder_keys, rules_of
from talkoot.peer.simulation.sim_trainer import SimTrainer
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.trainer.protocol import TrainerEvent, TrainerSpec

NUMEL = 900
FOUNDERS = [Identity.from_seed(bytes([n]) * 32) for n in range(1, 5)]
VOLUNTEERS = [Identity.from_seed(bytes([n]) * 32) for n in range(11, 15)]
ARCHIVIST = Identity.from_seed(bytes([21]) * 32)
KEEPER = Identity.from_seed(bytes([22]) * 32)
"""An archivist that is a founder, where it is one of the swarm's founders."""

PATIENCE_S = 600.0
"""Virtual seconds for any one event."""

Admission = Literal["invite", "open"]


def manifest_of(admission_kind: Admission, founders: Sequence[Identity], exchange: Exchange) -> Manifest:
    return Manifest(
        swarm=Swarm(
            name="archive", founders=tuple(one.peer_id for one in founders), admission=admission_kind
        ),
        model=Model(kind="numpy", layout="simulated", numel=NUMEL),
        outer=Outer(inner_steps=30, momentum=0.5),
        round=Round(
            min_interval_s=1.0, max_interval_s=60.0, announce_s=2.0, form_s=3.0, exchange_s=6.0,
            certify_s=3.0, floor_s=1.0, max_absent_rounds=3, eval_windows=0, exchange=exchange,
        ),
    )  # fmt: skip


@dataclass(eq=False)
class Peer:
    """One computer; its disk outlives its node."""

    identity: Identity
    folder: Path
    node: Node
    task: asyncio.Task[None]
    trainers: list[SimTrainer] = field(default_factory=list)
    heads: list[Certificate] = field(default_factory=list)
    """Of every state that it held in this life."""

    @property
    def round(self) -> int:
        holdings = self.node.holdings
        return holdings.ledger.round if holdings is not None else -1

    @property
    def digest(self) -> bytes:
        assert self.node.holdings is not None
        return self.node.holdings.digest

    @property
    def head(self) -> Certificate:
        assert self.node.holdings is not None
        return self.node.holdings.head


class Archive:
    """The swarm. Every founder's disk holds its first state."""

    def __init__(
        self,
        folder: Path,
        kind: Admission,
        group: asyncio.TaskGroup,
        founders: Sequence[Identity] = FOUNDERS,
        exchange: Exchange = "dense",
    ) -> None:
        self.hub = MemoryHub()
        self.folder = folder
        self.manifest = manifest_of(kind, founders, exchange)
        self.rules = replace(rules_of(self.manifest), chunk_size=256)
        self._group = group
        self._moved = asyncio.Event()
        self.tokens: list[admission.Token] = []
        """Of the invites so far."""
        self._issuer = founders[0]
        self.running: list[Peer] = []
        for founder in founders:
            self._found(founder)

    def _path(self, identity: Identity) -> Path:
        return self.folder / identity.peer_id[-6:]

    def _found(self, founder: Identity) -> None:
        keys = founder_keys(self.manifest)
        ledger = first_ledger(self.manifest, keys)
        theta = torch.randn(NUMEL, generator=torch.Generator().manual_seed(3))
        digest = state_tree(theta, torch.zeros(NUMEL), ledger.encode()).digest
        start = genesis(self.manifest.swarm_id, digest, keys, self._issuer)
        paths = StateDir(self._path(founder))
        paths.prepare()
        OuterStore.create(paths.outer, NUMEL, theta, ledger=ledger.encode(), certificate=start.encode())

    def invite(self, identity: Identity, anchor: Anchor | None) -> tuple[bytes, Anchor | None]:
        """Proof of admission and anchor, as an invite of the first founder gives them."""
        seed, swarm = bytes([101 + len(self.tokens)]) * 32, self.manifest.swarm_id
        token = admission.issue(self._issuer, swarm=swarm, seed=seed, expires=2**40)
        self.tokens.append(token)
        return admission.prove(token, swarm=swarm, seed=seed, key=identity.key), anchor

    def anchor_of(self, peer: Peer) -> Anchor:
        """What an invite that is made now by a peer vouches for."""
        assert peer.node.holdings is not None
        final = peer.node.holdings.last_final()
        return Anchor(
            round=number_of(final),
            digest=final.value.digest,
            voters=voters_hash(final.value.voters),
            date=2**33,
        )

    def start(
        self,
        identity: Identity,
        role: Role = "full",
        invite: tuple[bytes, Anchor | None] = (b"", None),
        checkpoint_every: int = 0,
        link: Link | None = None,
    ) -> Peer:
        """Switch a node on; known addresses stand for bootstrap."""
        paths = StateDir(self._path(identity))
        paths.prepare()
        paths.claim(self.manifest.swarm_id)
        paths.save_manifest(self.manifest.canonical())
        membership = Membership(
            swarm=self.manifest.swarm_id, manifest=self.manifest, bootstrap=(), anchor=invite[1],
            admission=invite[0], data_base=None,
        )  # fmt: skip
        trainers: list[SimTrainer] = []
        heads: list[Certificate] = []

        def make_trainer(spec: TrainerSpec, on_event: Callable[[TrainerEvent], None]) -> SimTrainer:
            seed = identity.key[0]
            made = SimTrainer(spec, on_event, numel=NUMEL, speed=5.0, seed=seed, start_s=1.0)
            trainers.append(made)
            return made

        def on_head(certificate: Certificate) -> None:
            heads.append(certificate)
            self._moved.set()

        node = Node(
            RunOptions(
                state_dir=paths.path,
                profile="test",
                role=role,
                checkpoint_every=checkpoint_every,
                guest=UNDISTURBED,
            ),
            paths,
            identity,
            self.hub.node(identity, swarm=self.manifest.swarm_id, link=link),
            membership,
            Metrics(),
            make_trainer=make_trainer,
            make_rules=lambda _manifest: self.rules,
            on_head=on_head,
        )
        peer = Peer(identity, paths.path, node, self._group.create_task(self._life(node)), trainers, heads)
        self.running.append(peer)
        return peer

    async def _life(self, node: Node) -> None:
        try:
            await node.run()
        finally:
            if node.holdings is not None:
                node.holdings.close()

    def lose(self, identity: Identity) -> None:
        """The disk of a peer that does not run is gone, but for its key."""
        shutil.rmtree(self._path(identity), ignore_errors=True)

    def restore(
        self,
        identity: Identity,
        checkpoint: Path,
        role: Role = "full",
        invite: tuple[bytes, Anchor | None] = (b"", None),
    ) -> Peer:
        """Switch a node on whose state directory begins with a checkpoint, as `talkoot run` does."""
        paths = StateDir(self._path(identity))
        paths.prepare()
        file = restorable.read(checkpoint)
        restorable.require_no_state(paths)
        restorable.require_trust(file, paths, invite[1], identity.key)
        restorable.require_whole(file)
        restoring.restore(file, paths)
        return self.start(identity, role, invite)

    async def stop(self, *peers: Peer) -> None:
        """In order, all at once."""
        for peer in peers:
            peer.node.stopping.set()
        await asyncio.wait([peer.task for peer in peers])
        for peer in peers:
            self.running.remove(peer)
            self.hub.crash(peer.identity.key)

    async def kill(self, *peers: Peer) -> None:
        """At once, all of them: nothing is said and nothing saved."""
        for peer in peers:
            self.hub.crash(peer.identity.key)
            peer.task.cancel()
            self.running.remove(peer)
        await asyncio.wait([peer.task for peer in peers])

    async def until(self, event: Callable[[], bool]) -> None:
        """Wait until something is so; looked at with every new state, and every virtual second."""
        async with asyncio.timeout(PATIENCE_S):
            while not event():
                self._moved.clear()
                try:
                    async with asyncio.timeout(1.0):
                        await self._moved.wait()
                except TimeoutError:
                    pass

    async def together(self, *peers: Peer, since: int = 0) -> None:
        """Wait until all of these hold the same state of a round after `since`."""
        await self.until(
            lambda: min(peer.round for peer in peers) > since and len({peer.digest for peer in peers}) == 1
        )


def play(
    folder: Path,
    script: Callable[[Archive], Awaitable[None]],
    kind: Admission = "invite",
    founders: Sequence[Identity] = FOUNDERS,
    exchange: Exchange = "dense",
) -> None:
    """Run a script with a fresh swarm."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            archive = Archive(folder, kind, group, founders, exchange)
            try:
                await script(archive)
            finally:
                if archive.running:
                    await archive.stop(*archive.running)

    run_virtual(main())


def keys(identities: Sequence[Identity]) -> set[bytes]:
    return {one.key for one in identities}
