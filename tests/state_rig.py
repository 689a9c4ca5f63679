"""Small swarms with real keys and states on disk, served over the network in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from talkoot.averaging.certificate import Certificate, Contribution, Signature, Value, genesis, vote_bytes
from talkoot.averaging.digest import state_tree
from talkoot.averaging.succession import next_ledger
from talkoot.dht.identity import Identity
from talkoot.dht.memory import MemoryHub, MemoryNetwork
from talkoot.peer import presets
from talkoot.peer.founding import first_ledger
from talkoot.peer.holdings import Holdings, open_holdings
from talkoot.peer.joining import Joiner
from talkoot.peer.manifest import Manifest
from talkoot.peer.rules_of import founder_keys, rules_of
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.transfer import Request, StateServer

NUMEL = 600_000
"""Three chunks of a mebibyte, the last one short."""

TOKENIZER = b"{}" * 100

FOUNDERS = sorted((Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3)), key=lambda one: one.key)
NEWCOMER = Identity.from_seed(b"n" * 32)
SERVERS = [Identity.from_seed(bytes([n]) * 32) for n in (11, 12, 13)]

Answered = tuple[Any, bytes | memoryview]
Lie = Callable[[Request, Answered], Answered]
"""(request, honest answer) -> what is answered."""


def make_manifest(name: str = "s", founders: Sequence[Identity] = FOUNDERS) -> Manifest:
    draft = presets.make("numpy-test", name=name)
    return replace(
        draft,
        swarm=replace(draft.swarm, founders=tuple(founder.peer_id for founder in founders)),
        model=replace(draft.model, layout="00" * 32, numel=NUMEL),
    )


MANIFEST = make_manifest()
SWARM = MANIFEST.swarm_id
RULES = rules_of(MANIFEST)
KEYS = founder_keys(MANIFEST)


def found(path: Path, manifest: Manifest = MANIFEST) -> Holdings:
    """A founded swarm on disk; the same bytes in every call."""
    paths = StateDir(path)
    paths.prepare()
    ledger = first_ledger(manifest, founder_keys(manifest))
    theta = torch.randn(NUMEL, generator=torch.Generator().manual_seed(5))
    digest = state_tree(theta, torch.zeros(NUMEL), ledger.encode()).digest
    start = genesis(manifest.swarm_id, digest, ledger.voters, FOUNDERS[0])
    OuterStore.create(paths.outer, NUMEL, theta, ledger=ledger.encode(), certificate=start.encode())
    return open_holdings(paths, rules_of(manifest))


def contribute(holdings: Holdings, by: Identity) -> Contribution:
    header = Contribution(
        swarm=holdings.ledger.swarm,
        round=holdings.ledger.round,
        prior=holdings.digest,
        key=by.key,
        root=bytes(32),
        norm2=1.0,
        steps=20,
        tokens=100,
        numel=holdings.rules.numel,
        codec=holdings.ledger.codec,
    )
    return msgspec.structs.replace(header, signature=by.sign(header.unsigned()))


def certify(value: Value, by: Sequence[Identity], *, weak: bool = False) -> Certificate:
    message = vote_bytes(value, value.hash, 0, "commit", weak)
    votes = tuple(Signature(one.key, one.sign(message)) for one in by)
    return Certificate(value=value, attempt=0, weak=weak, votes=votes)


def advance(
    holdings: Holdings, *, by: Sequence[Identity] = FOUNDERS, weak: bool = False, step: float = 0.25
) -> Certificate:
    """One more round, in which every parameter moves alike; contributors sign."""
    present = tuple(sorted(one.key for one in by))
    cut = tuple(contribute(holdings, one) for one in sorted(by, key=lambda one: one.key))
    ledger = next_ledger(holdings.ledger, cut, present, holdings.rules)
    digest = holdings.apply(torch.full((holdings.rules.numel,), step), ledger)
    value = Value(
        swarm=ledger.swarm,
        round=holdings.ledger.round,
        prior=holdings.digest,
        cut=cut,
        present=present,
        parts=(),
        digest=digest,
        voters=ledger.voters,
    )
    certificate = certify(value, by, weak=weak)
    holdings.commit(certificate, ledger)
    return certificate


class Server(StateServer):
    """Serves holdings; may lie, and tells what it was asked."""

    def __init__(self, network: MemoryNetwork, holdings: Holdings | None, lie: Lie | None = None) -> None:
        super().__init__(
            network,
            SWARM,
            manifest=MANIFEST.canonical,
            tokenizer=lambda: TOKENIZER,
            holdings=lambda: holdings,
        )
        self.network = network
        self.lie = lie
        self.asked: list[Request] = []

    def _answer(self, request: Request) -> Answered:
        self.asked.append(request)
        honest = super()._answer(request)
        return self.lie(request, honest) if self.lie is not None else honest


MakeServer = Callable[[MemoryNetwork, Holdings | None, Lie | None], Server]


class World:
    """A hub with servers and one newcomer."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.hub = MemoryHub()
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []
        self.servers: list[Server] = []

    async def _start(self, network: MemoryNetwork) -> None:
        started = asyncio.Event()
        self._tasks.append(self._group.create_task(network.run(started=started.set)))
        await started.wait()

    async def serve(
        self, holdings: Holdings | None, lie: Lie | None = None, *, make: MakeServer = Server
    ) -> Server:
        """One more server."""
        network = self.hub.node(SERVERS[len(self.servers)], swarm=SWARM)
        self.servers.append(make(network, holdings, lie))
        await self._start(network)
        return self.servers[-1]

    async def newcomer(self) -> MemoryNetwork:
        """The network of the one who asks."""
        network = self.hub.node(NEWCOMER, swarm=SWARM)
        await self._start(network)
        return network

    async def joiner(self, path: Path, anchor: Any = None) -> Joiner:
        """A newcomer with an empty state directory."""
        paths = StateDir(path)
        paths.prepare()
        return Joiner(await self.newcomer(), SWARM, paths, anchor)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with asyncio.TaskGroup() as group:
        made = World(group)
        try:
            yield made
        finally:
            made.stop()


def keys(count: int) -> list[bytes]:
    """Of the first servers."""
    return [server.key for server in SERVERS[:count]]


def run(main: Callable[[World], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3600), world() as made:
            await main(made)

    run_virtual(bounded())


def same_state(one: Holdings, other: Holdings) -> bool:
    same = torch.equal(one.store.theta, other.store.theta)
    return same and torch.equal(one.store.momentum, other.store.momentum) and one.ledger == other.ledger


def blamed(joiner: Joiner) -> dict[str, int]:
    return dict(joiner._network.events.rejected)


def lying(kind: type[Request], change: Callable[[bytes], bytes | None]) -> Lie:
    """Honest but for one kind of request; None answers that there is nothing."""

    def lie(request: Request, honest: Answered) -> Answered:
        if not isinstance(request, kind):
            return honest
        changed = change(bytes(honest[1]))
        return ("gone", b"") if changed is None else (honest[0], changed)

    return lie


def flip(position: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        index = position % len(data)
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return change
