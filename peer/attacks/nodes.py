"""A run of whole nodes on the virtual clock, some of which lie as reducers, contributors or accusers.

Everything that such a lie meets is what a daemon runs: attempts, receipts, claims, audits, proofs, bans,
signatures. Only network, disk and clock are simulated. What is trained is the bench's model, by the same
steps as in runs without messages, so that losses can be compared.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from talkoot.averaging.certificate import Certificate
from talkoot.peer.attacks.catalogue import MESSAGES
from talkoot.peer.attacks.node_trainer import ModelTrainer
from talkoot.peer.attacks.swarm import Laboratory, Setting, first_weights
from talkoot.peer.manifest import Compression
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.tasks import OnEvent, Task
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World
from talkoot.peer.trainer.protocol import TrainerSpec

LIMIT_S = 600.0
"""Virtual time after which a round is not waited for any more."""


PATIENCE = 10
"""Rounds after the last one in which everybody has to be there."""


class SwarmStuck(Exception):  # noqa: N818 - reads well where it is caught
    """The honest peers did not get through their rounds together."""


class NodeRun:
    """One run. The liars are the first peers, as in the runs without messages."""

    def __init__(self, laboratory: Laboratory, setting: Setting, attack: str | None, folder: Path) -> None:
        """`attack` is one of `MESSAGES`, or None: nobody lies. In an empty folder."""
        self._setting = setting
        theta_P = first_weights(setting)
        self._workers = laboratory.workers(setting, theta_P)
        self.world = World(
            setting.workers,
            setting.seed,
            folder,
            witness=lambda _key, _message: None,
            on_head=self._head,
            on_trouble=self._trouble,
            real_signatures=True,
            compression=Compression(
                codec=setting.codec, aggregate_codec=setting.codec, error_feedback="auto"
            ),
            task=Task(
                numel=theta_P.numel(),
                chunk_size=-(-theta_P.numel() // setting.workers),
                inner_steps=setting.inner_steps,
                robustness=setting.robustness,
                make_trainer=self._trainer,
                start_peers=setting.workers,
                theta=theta_P,
            ),
        )
        self.world.hub.on_banned = self._banned
        self._attack = MESSAGES[attack] if attack is not None else None
        num_liars = setting.liars if attack is not None else 0
        self.liars = self.world.peers[:num_liars]
        self.honest = self.world.peers[num_liars:]
        self.theta_P: torch.Tensor | None = None
        """After the last round."""
        self._cuts: dict[int, frozenset[bytes]] = {}
        self._failed: str | None = None
        self.banned_after: dict[bytes, int] = {}
        """The round, counted from 1, in which the last of the honest peers banned somebody."""
        self.honest_banned: set[bytes] = set()
        """Honest peers that another one banned or disconnected for what it did."""
        self.suspected: dict[bytes, int] = {}
        """The round, counted from 1, after which an honest peer's watcher first suspected somebody."""
        self._bans: dict[bytes, set[bytes]] = {}
        self._digests: dict[int, bytes] = {}
        self._done: set[bytes] = set()
        self._moved = asyncio.Event()

    def _trainer(self, peer: SimPeer, spec: TrainerSpec, on_event: OnEvent, start_s: float) -> ModelTrainer:
        return ModelTrainer(
            spec,
            on_event,
            worker=self._workers[peer.number],
            numel=self.world.rules.numel,
            steps=self._setting.inner_steps,
            start_s=start_s,
        )

    # -- what is seen --------------------------------------------------------------------------------

    @property
    def counted(self) -> list[frozenset[bytes]]:
        """Whose contributions each round counted, as honest peers took it; a final one before a weak one."""
        return [cut for _, cut in sorted(self._cuts.items())]

    @property
    def _over(self) -> int:
        """Rounds that are over."""
        return max(self._cuts, default=-1) + 1

    def _trouble(self, what: str) -> None:
        self._failed = self._failed or what
        self._moved.set()

    def _head(self, peer: SimPeer, certificate: Certificate) -> None:
        if peer not in self.honest or certificate.kind == "genesis":
            return
        value, final = certificate.value, certificate.kind == "final"
        if final and self._digests.setdefault(value.round, value.digest) != value.digest:
            self._trouble(f"two states after round {value.round}")
        if final or value.round not in self._digests:  # a weak one may be rolled back
            self._cuts[value.round] = frozenset(item.key for item in value.cut)
        self._look(peer)
        last = self._setting.rounds - 1
        if value.round >= last:  # who was behind may have skipped it
            self._done.add(peer.key)
        if value.round == last and (final or value.round not in self._digests):
            assert peer.node is not None
            assert peer.node.holdings is not None
            self.theta_P = peer.node.holdings.store.theta.clone()
        self._moved.set()

    def _look(self, peer: SimPeer) -> None:
        """Whom a peer's watcher suspects: what it looked at are the rounds before the one just committed."""
        watcher = peer.node.runner.watcher if peer.node is not None else None
        for key, record in watcher.records.items() if watcher is not None else ():
            if record.suspected and key != peer.key:
                self.suspected.setdefault(key, self._over - 1)

    def _banned(self, node: bytes, peers: frozenset[bytes]) -> None:
        honest = {peer.key for peer in self.honest}
        if node not in honest:
            return
        self.honest_banned |= peers & honest
        for peer in peers - honest:
            bans = self._bans.setdefault(peer, set())
            bans.add(node)
            if bans == honest:
                self.banned_after.setdefault(peer, self._over + 1)
        self._moved.set()

    # -- the run -------------------------------------------------------------------------------------

    def play(self) -> None:
        """All rounds. Raises SwarmStuck."""
        stuck: BaseException | None = None
        try:
            with simulated_disks():
                run_virtual(self.world.run(self._script))
        except* SwarmStuck as group:
            stuck = group
        while isinstance(stuck, BaseExceptionGroup):
            stuck = stuck.exceptions[0]
        if stuck is not None:
            raise stuck

    async def _script(self) -> None:
        await asyncio.sleep(0)  # the nodes are made
        if self._attack is not None:
            self._attack(self.liars, self.honest)
        while len(self._done) < len(self.honest):
            before = self._over
            try:
                async with asyncio.timeout(LIMIT_S):
                    while self._over == before and len(self._done) < len(self.honest):
                        self._moved.clear()
                        await self._moved.wait()
                        self._switch_off()
                        if self._failed is not None:
                            raise SwarmStuck(self._failed)
            except TimeoutError:
                raise SwarmStuck(f"round {before} does not end") from None
            if before >= self._setting.rounds + PATIENCE:
                missing = [peer.number for peer in self.honest if peer.key not in self._done]
                raise SwarmStuck(f"peers {missing} are left behind")

    def _switch_off(self) -> None:
        """Who is banned by all would go on alone."""
        for peer in self.liars:
            if peer.key in self.banned_after and peer.task is not None:
                self.world.crash(peer)

    def loss(self) -> float:
        """On held-out data, nats a byte."""
        assert self.theta_P is not None
        return self._workers[0].loss(self.theta_P)

    @property
    def detected_after(self) -> int | None:
        """The round in which all liars were banned by all others."""
        return self._after(self.banned_after)

    @property
    def suspected_after(self) -> int | None:
        """The round in which each liar had been suspected by some honest peer."""
        return self._after(self.suspected)

    @property
    def honest_suspected(self) -> int:
        """How many honest peers another one's watcher ever suspected."""
        return sum(peer.key in self.suspected for peer in self.honest)

    def _after(self, since: Mapping[bytes, int]) -> int | None:
        found = [since.get(peer.key) for peer in self.liars]
        rounds = [round_ for round_ in found if round_ is not None]
        return max(rounds) if rounds and len(rounds) == len(found) else None


def run_nodes(laboratory: Laboratory, setting: Setting, attack: str | None) -> NodeRun:
    """Play one run. Raises SwarmStuck."""
    shared_memory = Path("/dev/shm")  # noqa: S108 - a file system in memory, where there is one
    where = str(shared_memory) if shared_memory.is_dir() else None
    with TemporaryDirectory(prefix="talkoot-attack-", dir=where) as folder:
        run = NodeRun(laboratory, setting, attack, Path(folder))
        run.play()
    return run
