"""Sources of one state, some of which misbehave, over the network in memory, and one who fetches it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch

from talkoot.averaging.digest import CHUNK_BYTES, StateTree, state_tree, tensor_bytes
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.memory import Link, MemoryHub, MemoryNetwork
from talkoot.dht.network import Channel
from talkoot.peer.assembly import Assembly
from talkoot.peer.fetching import Fetch
from talkoot.peer.generation import Generation
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.transfer import Answer, AskChunk, StateClient, Status, state_protocol

SWARM = bytes(32)
SPEC = state_protocol(SWARM)
NEWCOMER = Identity.from_seed(b"n" * 32)


class State:
    """An outer state, somewhere."""

    def __init__(self, numel: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.numel = numel
        self.theta, self.momentum = (torch.randn(numel, generator=generator) for _ in range(2))
        self.tree: StateTree = state_tree(self.theta, self.momentum, b"ledger")

    def chunk(self, request: AskChunk) -> bytes:
        vector = self.theta if request.vector == "theta" else self.momentum
        return bytes(tensor_bytes(vector)[request.index * CHUNK_BYTES : (request.index + 1) * CHUNK_BYTES])

    @property
    def num_bytes(self) -> int:
        return 8 * self.numel


async def answer_honestly(state: State, channel: Channel) -> None:
    """Serve chunks of a state for as long as the channel lasts."""
    while True:
        request = msgspec.msgpack.decode((await channel.receive(timeout_s=3600)).header, type=AskChunk)
        await channel.send(msgspec.msgpack.encode(Answer("ok")), state.chunk(request), timeout_s=600)


Fault = Callable[["Source", AskChunk, bytes], Awaitable[tuple[Status, bytes]]]
"""What a source answers instead of this chunk; it may also never answer."""


async def honest(_source: "Source", _request: AskChunk, chunk: bytes) -> tuple[Status, bytes]:
    return "ok", chunk


async def corrupt(source: "Source", _request: AskChunk, chunk: bytes) -> tuple[Status, bytes]:
    index = (7919 * source.answered) % len(chunk)
    return "ok", chunk[:index] + bytes([chunk[index] ^ 1]) + chunk[index + 1 :]


async def truncated(_source: "Source", _request: AskChunk, chunk: bytes) -> tuple[Status, bytes]:
    return "ok", chunk[:-1]


async def swapped(source: "Source", request: AskChunk, chunk: bytes) -> tuple[Status, bytes]:
    other = msgspec.structs.replace(request, index=0 if request.index else 1)
    return "ok", source.state.chunk(other)


async def stalled(_source: "Source", _request: AskChunk, _chunk: bytes) -> tuple[Status, bytes]:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def dead(source: "Source", _request: AskChunk, _chunk: bytes) -> tuple[Status, bytes]:
    source.hub.crash(source.identity.key)
    return "ok", b""


async def leaving(source: "Source", _request: AskChunk, _chunk: bytes) -> tuple[Status, bytes]:
    raise RemoteError(source.identity.key, "refused")  # ends the channel in band


async def gone(_source: "Source", _request: AskChunk, _chunk: bytes) -> tuple[Status, bytes]:
    return "gone", b""


async def busy(source: "Source", _request: AskChunk, chunk: bytes) -> tuple[Status, bytes]:
    return ("busy", b"") if source.answered % 2 else ("ok", chunk)


@dataclass(eq=False)
class Source:
    """Honest for its first answers, then as its fault says."""

    hub: MemoryHub
    number: int
    state: State
    fault: Fault = honest
    after: int = 0
    """Answers before the fault begins."""
    link: Link = field(default_factory=Link)
    answered: int = 0

    def __post_init__(self) -> None:
        self.identity = Identity.from_seed(bytes([self.number]) * 32)
        self.network: MemoryNetwork = self.hub.node(self.identity, swarm=SWARM, link=self.link)
        self.network.serve(SPEC, self._serve)

    async def _serve(self, channel: Channel) -> None:
        while True:
            frame = await channel.receive(timeout_s=3600)
            request = msgspec.msgpack.decode(frame.header, type=AskChunk)
            chunk = self.state.chunk(request)
            fault = self.fault if self.answered >= self.after else honest
            status, payload = await fault(self, request, chunk)
            await channel.send(msgspec.msgpack.encode(Answer(status)), payload, timeout_s=600)
            self.answered += 1


@dataclass
class Outcome:
    """What came of a download."""

    assembly: Assembly
    progress: SyncProgress
    blamed: dict[int, str]
    """Reason by number of the source."""
    received_bytes: int
    """All that came over the newcomer's link, frames and all."""
    seconds: float
    error: Exception | None = None


Make = Callable[[MemoryHub], list[Source]]


def fetch(
    path: Path,
    state: State,
    make: Make,
    *,
    prepare: Callable[[Assembly], None] = lambda _: None,
    seed: int = 0,
    download: float = float("inf"),
) -> Outcome:
    """Download a state from sources; virtual time."""
    staged = Generation.map(path, state.numel)
    outcomes: list[Outcome] = []

    async def main() -> None:
        hub = MemoryHub(seed=seed)
        sources = make(hub)
        network = hub.node(NEWCOMER, swarm=SWARM, link=Link(download=download))
        tasks = []
        async with asyncio.timeout(36_000), asyncio.TaskGroup() as group:
            for node in [network, *(source.network for source in sources)]:
                started = asyncio.Event()
                tasks.append(group.create_task(node.run(started=started.set)))
                await started.wait()
            outcomes.append(await _download(network, sources, staged, state, prepare))
            for task in tasks:
                task.cancel()

    run_virtual(main())
    return outcomes[0]


async def _download(
    network: MemoryNetwork,
    sources: list[Source],
    staged: Generation,
    state: State,
    prepare: Callable[[Assembly], None],
) -> Outcome:
    assembly = Assembly(staged, state.tree)
    prepare(assembly)
    progress = SyncProgress()
    progress.begin(assembly.total_bytes)
    progress.found(assembly.total_bytes - assembly.missing_bytes)
    blamed: dict[int, str] = {}
    numbers = {source.identity.key: source.number for source in sources}

    def blame(peer: bytes, error: Exception) -> None:
        blamed[numbers[peer]] = error.reason if isinstance(error, RemoteError) else "timeout"

    clients = [await StateClient.connect(network, source.identity.key, SWARM) for source in sources]
    loop = asyncio.get_running_loop()
    outcome = Outcome(assembly, progress, blamed, 0, loop.time())
    try:
        go = asyncio.Event()
        go.set()
        await Fetch(state.tree.digest, assembly, clients, progress, blame, go).run()
    except Exception as error:  # noqa: BLE001 - for the test to look at
        outcome.error = error
    outcome.seconds = loop.time() - outcome.seconds
    outcome.received_bytes = network.traffic.bytes_received
    return outcome


def is_whole(outcome: Outcome, state: State) -> bool:
    """Whether the staged generation holds this state, byte for byte."""
    staged = outcome.assembly.staged
    same = torch.equal(staged.theta, state.theta) and torch.equal(staged.momentum, state.momentum)
    return same and not outcome.assembly.missing
