"""Runners carry rounds over the network: they commit, notice deaths, and survive what others send."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import torch

from talkoot.averaging import outputs
from talkoot.averaging.aggregate import EncodedPart
from talkoot.averaging.certificate import Certificate, Value
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import LocalContribution, encode_delta, sign_contribution
from talkoot.averaging.digest import content_hash, state_tree
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import Abort, BulkHeader, Call, Message
from talkoot.averaging.outer import outer_step
from talkoot.averaging.round import Round
from talkoot.averaging.rules import Rules, Timing
from talkoot.averaging.wire import encode, encode_bulk_header
from talkoot.compression.codec import get
from talkoot.dht.identity import Identity, verify
from talkoot.dht.memory import Link, MemoryHub
from talkoot.dht.network import Buffer
from talkoot.peer.links import Links, protocols
from talkoot.peer.runner import BULK_WAIT_S, Runner
from talkoot.peer.simulation.virtual_time import run_virtual

NUMEL, CHUNK, STEPS = 3000, 1024, 30
IDENTITIES = sorted((Identity.from_seed(bytes([n]) * 32) for n in range(1, 5)), key=lambda one: one.key)
RULES = Rules(
    swarm=b"w" * 32,
    numel=NUMEL,
    founders=(),
    invited_vote=True,
    admit=lambda key, proof: None,
    inner_steps=STEPS,
    outer_learning_rate=0.7,
    outer_momentum=0.5,
    error_feedback=False,
    max_absent_rounds=3,
    chunk_size=CHUNK,
)


class Bench:
    """A node without trainer and disk: network, links, runner, and a workshop in memory."""

    def __init__(self, hub: MemoryHub, identity: Identity, voters: tuple[bytes, ...], link: Link) -> None:
        self.identity = identity
        self.key = identity.key
        self.network = hub.node(identity, swarm=RULES.swarm, link=link)
        self.runner = Runner()
        self.links = Links(
            self.network,
            RULES.swarm,
            on_control=self.runner.on_control,
            on_bulk=self.runner.on_bulk,
            on_change=self._on_change,
        )
        self.runner.attach(self.links)
        self.ledger = Ledger(
            swarm=RULES.swarm, arithmetic=1, round=0, voters=voters, absent=(0,) * len(voters),
            global_step=0, tokens=0, reference_steps=STEPS, codec="int8", aggregate_codec="int8",
        )  # fmt: skip
        self.theta, self.momentum = torch.zeros(NUMEL), torch.zeros(NUMEL)
        self.aggregate = torch.zeros(NUMEL)
        self.digest = state_tree(self.theta, self.momentum, self.ledger.encode()).digest
        self.delta = 0.01 * torch.randn(NUMEL, generator=torch.Generator().manual_seed(identity.key[0]))
        self.commits: list[Certificate] = []
        self.needed: list[Certificate] = []
        self.notes: list[outputs.Output] = []
        self.asked: list[str] = []
        self.changed = asyncio.Event()

    def _on_change(self, peers: frozenset[bytes]) -> None:
        self.runner.links_changed(peers)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def begin(self) -> None:
        """Start the next round."""
        context = Context(
            ledger=self.ledger,
            prior=self.digest,
            rules=RULES,
            timing=Timing(form_s=2.0, exchange_s=4.0, certify_s=2.0),
            signer=self.identity,
            verify=verify,
        )
        self.runner.set_round(Round(context, role="full", upload=0.0, earliest=0.0))

    def takes_part(self, peer: bytes) -> bool:
        return True

    async def encode(self) -> LocalContribution:
        index, chunks = encode_delta(
            self.delta,
            torch.zeros(NUMEL),
            torch.zeros(NUMEL),
            scale=1.0,
            codec=get("int8"),
            rules=RULES,
        )
        header = sign_contribution(
            index,
            ledger=self.ledger,
            prior=self.digest,
            steps=STEPS,
            tokens=100,
            carried=0,
            carried_tokens=0,
            admission=b"",
            rules=RULES,
            signer=self.identity,
        )
        return LocalContribution(header, index, chunks)

    def aggregate_vector(self) -> torch.Tensor:
        return self.aggregate

    async def apply(self, ledger: Ledger) -> bytes:
        self.staged = torch.empty(NUMEL), torch.empty(NUMEL)
        outer_step(
            self.theta,
            self.momentum,
            self.aggregate,
            learning_rate=0.7,
            momentum=0.5,
            theta_out_P=self.staged[0],
            momentum_out_P=self.staged[1],
        )
        return state_tree(*self.staged, ledger.encode()).digest

    async def obtain(self, value: Value, ledger: Ledger, holders: tuple[bytes, ...]) -> bool:
        self.asked.append("obtain")
        return False

    async def persist(self, entry: bytes) -> None:
        self.asked.append("persist")

    async def commit(self, certificate: Certificate, ledger: Ledger) -> None:
        self.theta, self.momentum = self.staged
        self.digest, self.ledger = certificate.value.digest, ledger
        self.commits.append(certificate)
        self.begin()
        self.changed.set()

    async def need_state(self, certificate: Certificate) -> None:
        self.needed.append(certificate)
        self.changed.set()

    def behind(self, peer: bytes, round_number: int) -> None:
        self.asked.append(f"behind {round_number}")
        self.changed.set()

    def answer_stale(self, peer: bytes, round_number: int) -> None:
        self.asked.append(f"stale {round_number}")
        self.changed.set()

    def note(self, output: outputs.Output) -> None:
        self.notes.append(output)
        self.changed.set()


class World:
    """Three or so benches in one hub."""

    def __init__(self, group: asyncio.TaskGroup, count: int) -> None:
        self.hub = MemoryHub()
        self.group = group
        voters = tuple(identity.key for identity in IDENTITIES[:count])
        link = Link(latency_s=0.005, upload=1e7, download=1e7)
        self.benches = [Bench(self.hub, identity, voters, link) for identity in IDENTITIES[:count]]
        self.tasks: dict[bytes, list[asyncio.Task[None]]] = {}

    async def start(self) -> None:
        for bench in self.benches:
            bench.runner.work_for(bench)
            started = asyncio.Event()
            services = [self.group.create_task(bench.network.run(started=started.set))]
            await started.wait()
            services += [
                self.group.create_task(bench.links.run()),
                self.group.create_task(bench.runner.run()),
            ]
            self.tasks[bench.key] = services
        await asyncio.sleep(0)
        for bench in self.benches:
            bench.links.keep(frozenset(other.key for other in self.benches))
        for bench in self.benches:
            await bench.until(lambda bench=bench: len(bench.links.connected) == len(self.benches) - 1)  # type: ignore[misc]
            bench.begin()

    def kill(self, bench: Bench) -> None:
        self.hub.crash(bench.key)
        for task in self.tasks.pop(bench.key):
            task.cancel()

    def order(self) -> list[Bench]:
        """In the order in which they lead the running round."""
        machine = self.benches[0].runner.round
        assert machine is not None
        return [next(b for b in self.benches if b.key == key) for key in machine.context.order]

    async def stranger(self, spec_name: str, frames: list[tuple[bytes, bytes]], to: Bench) -> None:
        """Somebody else says something."""
        network = self.hub.node(Identity.from_seed(b"x" * 32), swarm=RULES.swarm)
        started = asyncio.Event()
        self.tasks[network.key] = [self.group.create_task(network.run(started=started.set))]
        await started.wait()
        channel = await network.dial(to.key, protocols(RULES.swarm)[spec_name], timeout_s=10)
        for header, payload in frames:
            await channel.send(header, payload, timeout_s=10)

    def stop(self) -> None:
        for services in self.tasks.values():
            for task in services:
                task.cancel()


def run(count: int, main: Callable[[World], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
            world = World(group, count)
            await world.start()
            try:
                await main(world)
            finally:
                world.stop()

    run_virtual(bounded())


async def one_round(benches: list[Bench], number: int) -> None:
    for bench in benches:
        bench.runner.close()
    for bench in benches:
        await bench.until(lambda bench=bench: len(bench.commits) == number)  # type: ignore[misc]
    assert len({bench.digest for bench in benches}) == 1


def test_three_runners_commit_round_after_round() -> None:
    async def main(world: World) -> None:
        for number in range(1, 4):
            await one_round(world.benches, number)
        first = world.benches[0]
        assert [certificate.kind for certificate in first.commits] == ["final"] * 3
        assert all(torch.equal(first.theta, other.theta) for other in world.benches)
        assert "persist" in first.asked
        mean = torch.stack([bench.delta for bench in world.benches]).mean(dim=0)
        assert torch.nn.functional.cosine_similarity(-first.theta, mean, dim=0) > 0.98
        assert not any(isinstance(note, outputs.AttemptOver) for b in world.benches for note in b.notes)

    run(3, main)


def test_alone_a_runner_commits_with_itself() -> None:
    async def main(world: World) -> None:
        await one_round(world.benches, 1)
        assert world.benches[0].commits[0].kind == "final"

    run(1, main)


def test_a_leader_that_crashes_in_mid_round_is_noticed_at_once() -> None:
    async def main(world: World) -> None:
        leader, *others = world.order()
        exchanging = asyncio.Event()
        send_bulk = others[0].links.send_bulk

        def first_slice(peer: bytes, header: bytes, payload: Buffer) -> None:
            exchanging.set()
            send_bulk(peer, header, payload)

        others[0].links.send_bulk = first_slice  # type: ignore[method-assign]
        for bench in world.benches:
            bench.runner.close()
        await exchanging.wait()
        began = asyncio.get_running_loop().time()
        world.kill(leader)
        for bench in others:
            await bench.until(lambda bench=bench: bool(bench.commits))  # type: ignore[misc]
        assert asyncio.get_running_loop().time() - began < 1.0
        assert len({bench.digest for bench in others}) == 1
        assert {bench.commits[0].kind for bench in others} == {"final"}
        assert {bench.commits[0].attempt for bench in others} == {1}

    run(4, main)


def test_a_follower_that_crashes_before_the_round_is_not_waited_for() -> None:
    async def main(world: World) -> None:
        leader, *others = world.order()
        world.kill(others[-1])
        for bench in (leader, *others[:-1]):
            await bench.until(lambda bench=bench: others[-1].key not in bench.links.connected)  # type: ignore[misc]
        began = asyncio.get_running_loop().time()
        await one_round([leader, *others[:-1]], 1)
        assert asyncio.get_running_loop().time() - began < 1.0

    run(4, main)


def test_bulk_waits_for_its_roster_and_is_dropped_when_it_never_comes() -> None:
    async def main(world: World) -> None:
        bench = world.benches[0]
        early = encode_bulk_header(BulkHeader("index", 0, 3, b"x" * 32, 0))
        late = encode_bulk_header(BulkHeader("index", 0, 0, b"x" * 32, 0))
        reading = world.group.create_task(world.stranger("bulk", [(early, b""), (late, b"")], bench))
        await reading
        await one_round(world.benches, 1)  # nobody else waits for that
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(BULK_WAIT_S + 1)
        assert asyncio.get_running_loop().time() - before > BULK_WAIT_S
        refused = [note for note in bench.notes if isinstance(note, outputs.Refused)]
        assert [(note.sender, note.reason) for note in refused] == [
            (Identity.from_seed(b"x" * 32).key, "stale")
        ] * 2
        await one_round(world.benches, 2)

    run(3, main)


def test_bad_frames_end_their_channel_and_nothing_else() -> None:
    async def main(world: World) -> None:
        bench = world.benches[0]
        message = encode(Abort(round=0, attempt=0, reason="x" * 9, suspects=()))
        for lane, header in (
            ("control", b"\xc1"),
            ("control", b""),
            ("control", message.replace(b"x" * 9, b"\xff" * 9)),
            ("control", msgspec.msgpack.encode({"t": "gossip", "round": 0, "attempt": 0})),
            ("bulk", b"\xc1"),
            ("bulk", msgspec.msgpack.encode(["slice", 0, 0, b"short", 0])),
            ("bulk", msgspec.msgpack.encode(["slice", 0, 0, b"o" * 32, 0]).replace(b"slice", b"\xffl\xffce")),
        ):
            before = bench.network.events.rejected["malformed"]
            await world.stranger(lane, [(header, b"")], bench)
            await asyncio.sleep(1)
            assert bench.network.events.rejected["malformed"] == before + 1
            for task in world.tasks.pop(Identity.from_seed(b"x" * 32).key):
                task.cancel()
            await asyncio.sleep(1)
        await one_round(world.benches, 1)

    run(3, main)


def test_a_peer_in_a_later_round_and_one_in_an_earlier_round() -> None:
    async def main(world: World) -> None:
        await one_round(world.benches, 1)
        bench = world.benches[0]
        call = Call(round=0, attempt=0, prior=bytes(32), form_s=1.0)
        aborts: list[Message] = [Abort(round=n, attempt=0, reason="", suspects=()) for n in (0, 9, 1)]
        frames = [(encode(message), b"") for message in (call, *aborts)]
        await world.stranger("control", frames, bench)
        await bench.until(lambda: sum(isinstance(note, outputs.Refused) for note in bench.notes) == 3)
        said = [word for word in bench.asked if word != "persist"]
        assert said == ["stale 0", "behind 9"]  # an answer that is late is not answered
        refused = [note.reason for note in bench.notes if isinstance(note, outputs.Refused)]
        assert refused == ["stale"] * 3
        await one_round(world.benches, 2)

    run(3, main)


def test_an_aggregate_that_does_not_decode_costs_an_attempt_not_the_runner() -> None:
    async def main(world: World) -> None:
        liar = world.order()[1]
        honest = liar.runner._job

        async def lying_job(machine: Round, output: outputs.Output) -> None:
            if isinstance(output, outputs.AggregatePart) and output.attempt == 0:
                size = len(output.sources[0].chunks[0])
                garbage = b"\xff" * size
                part = EncodedPart(
                    (garbage,) * output.part.num_chunks, (content_hash(garbage),) * output.part.num_chunks
                )
                liar.runner.feed(machine, machine.aggregated(0, part, liar.runner._clock()))
                return
            await honest(machine, output)

        liar.runner._job = lying_job  # type: ignore[method-assign]
        await one_round(world.benches, 1)
        assert {bench.commits[0].attempt for bench in world.benches} == {
            2
        }  # a suspect's turn to lead is skipped

    run(4, main)
