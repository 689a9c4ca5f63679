"""Runs simulated swarms, one for each seed, and says what went wrong."""

import asyncio
import tempfile
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from talkoot.averaging.certificate import Certificate
from talkoot.peer.manifest import Exchange
from talkoot.peer.simulation.bounds import exceeded
from talkoot.peer.simulation.checks import Safety
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.faults import Faults
from talkoot.peer.simulation.liveness import HEAL_ROUNDS, Liveness
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.strangers import ROUNDS, strangers_of
from talkoot.peer.simulation.virtual_time import DeadlockError, run_virtual, virtual_loop
from talkoot.peer.simulation.world import World

HEAL_S = 240.0
"""Virtual time within which all peers must be together in a new round once the faults have ended."""

MAX_CONTROL_BYTES = 4_000
"""Control messages that a peer may send in an attempt at a round, on average, for each peer of the swarm."""

MEAN_GAP_S = 5.0
"""Between two faults, on average, with `GAP_PEERS` peers or fewer; more peers have more faults."""

GAP_PEERS = 6

ROUND_S = 8.0
"""Faults go on for so many seconds for each round that is asked for."""

REAL_SIGNATURES = 16
"""One seed of so many signs with Ed25519."""

SOME_PEERS = (4, 5, 6)
"""Peers of a seed that is asked to choose for itself."""

SPARSE = 5
"""One seed of so many makes its rounds in the sparse mode."""


@dataclass(slots=True)
class Result:
    """What one seed gave."""

    seed: int
    peers: int
    transcript: str
    """Hash over everything that happened."""
    rounds_committed: int
    rounds_aborted: int
    faults: int
    safety_violations: list[str]
    liveness_violations: list[str]
    control_bytes: int
    """Bytes of control messages that one peer sent in one attempt at a round, on average."""
    virtual_s: float
    seconds: float
    peer_rounds: int
    """Commits of all peers together."""
    peer_rounds_per_s: float

    @property
    def failed(self) -> bool:
        """Whether anything was violated."""
        return bool(self.safety_violations or self.liveness_violations)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class _Simulation:
    def __init__(
        self,
        peers: int,
        seed: int,
        kinds: tuple[str, ...],
        rounds: int,
        folder: Path,
        exchange: Exchange | None,
    ) -> None:
        num_strangers = strangers_of(seed, peers)
        self.rounds = max(rounds, ROUNDS) if num_strangers else rounds
        self.liveness: list[str] = []
        self.failed = False
        self._heads: set[bytes] = set()
        self._peace: Liveness | None = None
        self.safety = Safety(self._fail)
        self.real = seed % REAL_SIGNATURES == 0
        self.world = World(
            peers,
            seed,
            folder,
            witness=self.safety.signed,
            on_head=self._head,
            on_trouble=self.safety.violated,
            real_signatures=self.real,
            wrong_clocks=bool(kinds),
            exchange=exchange or ("sparse" if seed % SPARSE == SPARSE - 1 else "dense"),
            num_strangers=num_strangers,
        )
        self._founders = {peer.key for peer in self.world.founders}
        self.world.hub.on_sent = self.safety.sent
        self.world.hub.on_banned = self.safety.banned
        self.faults = Faults(self.world, seed, kinds, MEAN_GAP_S * min(1.0, GAP_PEERS / peers))
        self.aborted = 0
        self.sent = 0
        self._moved = asyncio.Event()

    def _fail(self, what: str) -> None:
        self.failed = True
        self.world.trace.add(f"violation {what}")

    def _head(self, peer: SimPeer, certificate: Certificate) -> None:
        holdings = peer.node.holdings if peer.node is not None else None
        self.safety.head(peer.number, holdings, certificate)
        self.check_bounds(peer)
        value, strangers = certificate.value, self.world.strangers
        if strangers is not None and holdings is not None:
            problem = strangers.problem(holdings.ledger, holdings.rules)
            if problem is not None:
                self.safety.violated(problem)
        self._heads.add(value.digest)
        told = self._peace is not None and peer.key in self._founders
        if told and self._peace is not None and not self._peace.head(peer.key, value.digest, value.present):
            self._stuck(f"not all committed within {HEAL_ROUNDS} rounds")
        self._moved.set()

    def check_bounds(self, peer: SimPeer) -> None:
        """Nothing of this peer grows without limit."""
        if peer.node is not None:
            for what in exceeded(peer.node):
                self.safety.violated(f"peer {peer.number}: {what}")

    async def play(self) -> None:
        """Faults for a while, then peace until all are together again and enough rounds are committed."""
        await self._until(lambda: self._slowest() >= 1, HEAL_S, "nobody finished the first round")
        await self.faults.run(ROUND_S * self.rounds)
        self.world.hub.heal()
        self.world.hub.release()
        await self._heal()
        await self._until(lambda: self._slowest() >= self.rounds, HEAL_S, f"no {self.rounds} rounds")
        self._count()
        self.sent = self.control_bytes()
        if self.sent > MAX_CONTROL_BYTES * len(self.world.peers):
            self.liveness.append(f"a storm: {self.sent} bytes of control messages an attempt")

    def control_bytes(self) -> int:
        """Of one peer in one attempt, on average over those that are alive at the end."""
        nodes = [peer.node for peer in self.world.peers if peer.node is not None]
        sent = sum(
            count
            for node in nodes
            for name, count in node.network.traffic.sent.items()
            if "/control/" in name
        )
        histories = [node.swarming.history for node in nodes if node.swarming is not None]
        return sent // max(1, sum(history.committed + history.aborted for history in histories))

    def _slowest(self) -> int:
        return min((peer.round for peer in self.world.peers), default=-1)

    async def _heal(self) -> None:
        self._peace = peace = Liveness((peer.key for peer in self.world.founders), self._heads)
        await self._until(lambda: peace.healed(self._states()), HEAL_S, "not all in one new round")

    def _states(self) -> list[bytes | None]:
        """What each founder holds; strangers follow."""
        holdings = (peer.node.holdings if peer.node is not None else None for peer in self.world.founders)
        return [held.digest if held is not None else None for held in holdings]

    async def _until(self, reached: Any, limit_s: float, otherwise: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not reached() and not self.failed:
                    self._moved.clear()
                    await self._moved.wait()
                return
        self._stuck(otherwise)

    def _stuck(self, what: str) -> None:
        where = ", ".join(f"{peer.number}:{peer.round}" for peer in self.world.peers)
        self.liveness.append(f"{what} ({where})")
        self.failed = True

    def _count(self) -> None:
        for peer in self.world.peers:
            node = peer.node
            if node is not None and node.swarming is not None:
                self.aborted = max(self.aborted, node.swarming.history.aborted)
            self.check_bounds(peer)


def run_seed(
    *, peers: int, seed: int, kinds: tuple[str, ...], rounds: int, exchange: Exchange | None = None
) -> tuple[Result, list[str]]:
    """Simulate one seed; returns the result and the lines of what happened.

    With 0 peers or without an exchange the seed chooses.
    """
    peers = peers or SOME_PEERS[seed % len(SOME_PEERS)]
    shared_memory = Path("/dev/shm")  # noqa: S108 - a file system in memory, where there is one
    where = str(shared_memory) if shared_memory.is_dir() else None
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="talkoot-sim-", dir=where) as folder, simulated_disks():
        simulation = _Simulation(peers, seed, kinds, rounds, Path(folder), exchange)
        with nullcontext() if simulation.real else stand_in_signatures():
            virtual_s = _run(simulation)
    seconds = time.perf_counter() - began
    commits = simulation.safety.commits
    result = Result(
        seed=seed,
        peers=peers,
        transcript=simulation.world.trace.hash,
        rounds_committed=max(0, simulation.safety.max_final + 1),
        rounds_aborted=simulation.aborted,
        faults=len(simulation.faults.made),
        safety_violations=simulation.safety.violations,
        liveness_violations=simulation.liveness,
        control_bytes=simulation.sent,
        virtual_s=round(virtual_s, 3),
        seconds=round(seconds, 3),
        peer_rounds=commits,
        peer_rounds_per_s=round(commits / seconds, 1),
    )
    return result, simulation.world.trace.lines


def _run(simulation: _Simulation) -> float:
    async def main() -> float:
        loop = virtual_loop()
        loop.set_exception_handler(lambda _loop, context: simulation.safety.violated(_words(context)))
        await simulation.world.run(simulation.play)
        simulation.world.trace.add(f"events {loop.num_events} sent {simulation.sent}")
        return loop.now

    try:
        return run_virtual(main())
    except DeadlockError as error:
        simulation.liveness.append(f"deadlock: {error}")
        return 0.0


def _words(context: dict[str, Any]) -> str:
    """What asyncio tells an exception handler."""
    return f"{context['message']}: {context.get('exception')!r}"
