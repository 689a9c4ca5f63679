"""One peer of `talkoot bench round`; speaks JSON lines with `talkoot.peer.bench_round`."""

import asyncio
import hashlib
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import torch
import uvloop

from talkoot.averaging import outputs
from talkoot.averaging.certificate import Certificate, Value
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import LocalContribution, encode_delta, sign_contribution
from talkoot.averaging.deadlines import Pace
from talkoot.averaging.digest import state_tree
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.outer import outer_step
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.round import Round
from talkoot.averaging.rules import Rules, Timing
from talkoot.compression.arithmetic import ARITHMETIC_VERSION
from talkoot.dht.config import NetworkConfig
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity, verify
from talkoot.dht.network import Network
from talkoot.peer.links import Links
from talkoot.peer.manifest import Exchange
from talkoot.peer.runner import Runner

STEPS = 100
LinksT = TypeVar("LinksT", bound=Links)
TIMING = Timing(form_s=30.0, exchange_s=120.0, certify_s=60.0)


def pseudo_gradient(number: int, numel: int) -> torch.Tensor:
    """What peer `number` contributes: Gaussian, as pseudo-gradients nearly are, the same in every run."""
    return torch.randn(numel, generator=torch.Generator().manual_seed(1000 + number)) * 0.01


class Bench:
    """A `Workshop` without trainer and disk."""

    make_round: type[Round] = Round
    """The machine of a round; other benchmarks listen in on it."""

    def __init__(
        self,
        number: int,
        peers: int,
        numel: int,
        codec: str,
        exchange: Exchange = "dense",
        aggregate_codec: str | None = None,
    ) -> None:
        self.aggregate_codec = aggregate_codec or codec
        self.number, self.peers, self.numel, self.codec = number, peers, numel, codec
        self.identity = Identity.from_seed(bytes([number + 1]) * 32)
        voters = tuple(sorted(Identity.from_seed(bytes([i + 1]) * 32).key for i in range(peers)))
        self.rules = Rules(
            swarm=b"b" * 32,
            numel=numel,
            founders=voters,
            invited_vote=True,
            admit=lambda _key, _proof: None,
            inner_steps=STEPS,
            outer_learning_rate=0.7,
            outer_momentum=0.9,
            error_feedback=False,
            max_absent_rounds=3,
            exchange=exchange,
        )
        self.voters = voters
        self.start = torch.zeros(numel)
        self.local = -pseudo_gradient(number, numel)
        self.aggregate = torch.zeros(numel)
        self.carry = torch.zeros(numel)
        self.theta, self.momentum = torch.zeros(numel), torch.zeros(numel)
        self.pace = Pace()
        self.suspects: frozenset[bytes] = frozenset()
        self.times: dict[str, float] = {}
        self.attempts = 0
        self.done = asyncio.Event()

    def ledger(self, number: int) -> Ledger:
        return Ledger(
            swarm=self.rules.swarm,
            arithmetic=ARITHMETIC_VERSION,
            round=number,
            voters=self.voters,
            absent=(0,) * self.peers,
            global_step=0,
            tokens=0,
            reference_steps=STEPS,
            codec=self.codec,
            aggregate_codec=self.aggregate_codec,
        )

    def begin(self, number: int) -> Round:
        """The machine of the next round; every round starts from a state of its own."""
        self.times, self.attempts, self.done = {}, 0, asyncio.Event()
        self.context = Context(
            ledger=self.ledger(number),
            prior=hashlib.sha256(b"%d" % number).digest(),
            rules=self.rules,
            timing=TIMING,
            signer=self.identity,
            verify=verify,
            pace=self.pace,
        )
        return self.make_round(self.context, role="full", upload=0.0, earliest=0.0, suspects=self.suspects)

    def takes_part(self, peer: bytes) -> bool:
        return peer in self.voters

    async def encode(self) -> LocalContribution:
        return await asyncio.to_thread(self._encode)

    def _encode(self) -> LocalContribution:
        self.carry.zero_()
        self.times["began"] = time.monotonic()
        codec = codec_of(self.codec, self.context.prior, self.identity.key)
        index, chunks = encode_delta(
            self.start, self.local, self.carry, scale=1.0, codec=codec, rules=self.rules
        )
        header = sign_contribution(
            index,
            ledger=self.context.ledger,
            prior=self.context.prior,
            steps=STEPS,
            tokens=STEPS,
            carried=0,
            carried_tokens=0,
            admission=b"",
            rules=self.rules,
            signer=self.identity,
        )
        return LocalContribution(header, index, chunks)

    def aggregate_vector(self) -> torch.Tensor:
        return self.aggregate

    async def apply(self, ledger: Ledger) -> bytes:
        times = self.times  # of this round: the next may begin meanwhile
        times["decoded"] = time.monotonic()
        digest = await asyncio.to_thread(self._apply, ledger)
        times["apply"] = time.monotonic() - times["decoded"]
        return digest

    def _apply(self, ledger: Ledger) -> bytes:
        outer_step(
            self.start,
            self.start,
            self.aggregate,
            learning_rate=0.7,
            momentum=0.9,
            theta_out_P=self.theta,
            momentum_out_P=self.momentum,
        )
        return state_tree(self.theta, self.momentum, ledger.encode()).digest

    async def obtain(self, value: Value, ledger: Ledger, holders: tuple[bytes, ...]) -> bool:
        """Nobody restarts here."""
        return False

    async def persist(self, entry: bytes) -> None:
        """Nothing to write: the disk is not measured here."""

    async def commit(self, certificate: Certificate, ledger: Ledger) -> None:
        self.times["committed"] = time.monotonic()
        self.digest = certificate.value.digest.hex()
        self.done.set()

    async def need_state(self, certificate: Certificate) -> None:
        raise RuntimeError("a round was committed without this peer")

    def behind(self, peer: bytes, round_number: int) -> None:
        """Messages between two rounds of the benchmark: the others have begun a little earlier."""

    def answer_stale(self, peer: bytes, round_number: int) -> None:
        """Likewise."""

    def note(self, output: outputs.Output) -> None:
        if isinstance(output, outputs.AttemptOver):
            self.attempts += 1

    def error(self) -> float | None:
        """Relative L2 error of the aggregate against the exact mean; measured by the first peer."""
        if self.number:
            return None
        exact = torch.zeros(self.numel, dtype=torch.float64)
        for number in range(self.peers):
            exact += pseudo_gradient(number, self.numel)
        exact /= self.peers
        return float((self.aggregate - exact).norm() / exact.norm())


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def line() -> Any:
    """The next line of standard input, decoded; None at its end."""
    text = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(text) if text else None


def say(message: Any) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def link_up(
    network: Network, bench: Bench, runner: Runner, on_change: Callable[[int], None], links: type[LinksT]
) -> LinksT:
    """Links of this kind that the runner works over for the bench; `on_change` hears how many there are."""

    def changed(peers: frozenset[bytes]) -> None:
        runner.links_changed(peers)
        on_change(len(peers))

    made = links(
        network,
        bench.rules.swarm,
        on_control=runner.on_control,
        on_bulk=runner.on_bulk,
        on_change=changed,
    )
    runner.attach(made)
    runner.work_for(bench)
    return made


@asynccontextmanager
async def serving(network: Network, links: Links, runner: Runner) -> AsyncIterator[None]:
    """All three run until the end of the scope."""
    started = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        services = [group.create_task(network.run(started=started.set))]
        await started.wait()
        services += [group.create_task(links.run()), group.create_task(runner.run())]
        yield
        for service in services:
            service.cancel()


async def meet(network: Network, others: Iterable[dict[str, Any]]) -> None:
    """Where the other peers are, as they said."""
    for other in others:
        await network.add_addresses(bytes.fromhex(other["key"]), other["addresses"])


def begin_round(bench: Bench, runner: Runner, number: int) -> None:
    """Start a round, with the suspects of the one before, and close it at once."""
    bench.suspects = runner.round.suspects if runner.round is not None else frozenset()
    runner.seconds.clear()
    runner.set_round(bench.begin(number))
    runner.close()


async def _work(bench: Bench) -> None:
    network = P2PNetwork(bench.identity, NetworkConfig.test(), swarm=bench.rules.swarm)
    runner = Runner()
    complete = asyncio.Event()

    def changed(count: int) -> None:
        if count == bench.peers - 1:
            complete.set()

    links = link_up(network, bench, runner, changed, Links)
    async with serving(network, links, runner):
        say({"key": bench.identity.key.hex(), "addresses": network.addresses})
        await meet(network, await line())
        links.keep(frozenset(bench.voters))
        await complete.wait()
        say("connected")
        while (number := await line()) is not None:
            say(await _round(bench, network, runner, number))


async def _round(bench: Bench, network: P2PNetwork, runner: Runner, number: int) -> dict[str, Any]:
    sent, cpu = network.traffic.bytes_sent, _cpu_seconds()
    begin_round(bench, runner, number)
    await bench.done.wait()
    cpu = _cpu_seconds() - cpu
    return bench.times | {
        "bytes_sent": network.traffic.bytes_sent - sent,
        "digest": bench.digest,
        "attempts": bench.attempts,
        "error": bench.error() if number == 1 else None,
        "cpu": cpu,
        "jobs": {name: round(seconds, 3) for name, seconds in runner.seconds.items()},
    }


def main() -> None:
    """Serve one benchmark; ends with its standard input."""
    number, peers, numel = map(int, sys.argv[1:4])
    torch.set_num_threads(1)

    async def work() -> None:
        codec, aggregate_codec, mode = sys.argv[4:7]
        exchange: Exchange = "sparse" if mode == "sparse" else "dense"
        await _work(Bench(number, peers, numel, codec, exchange, aggregate_codec))

    uvloop.run(work())


if __name__ == "__main__":
    main()
