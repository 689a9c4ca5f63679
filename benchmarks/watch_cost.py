"""What watching contributions costs a node, beside its share of the aggregation.

   nice python benchmarks/watch_cost.py [--peers 8] [--numel 25000000] [--repetitions 5]

Prints processor milliseconds a round, medians: aggregating one part of N by the plain mean and by the rule of
the preset `public` (dense) or all of it (sparse), looking at the round's contributions in a worker thread,
and what of it runs on the event loop: taking the pieces and a sample of the aggregate.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import torch

from talkoot.averaging.aggregate import EncodedPart, aggregate_part, combine
from talkoot.averaging.certificate import Contribution, Value
from talkoot.averaging.contribution import Index
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.parts import Part
from talkoot.averaging.robustness import Robustness
from talkoot.averaging.rules import Rules
from talkoot.averaging.slices import Slice
from talkoot.averaging.source import source_of
from talkoot.averaging.succession import weigh
from talkoot.compression.arithmetic import ARITHMETIC_VERSION
from talkoot.compression.codec import get
from talkoot.dht.identity import Identity
from talkoot.peer import watcher
from talkoot.peer.bench_aggregate_worker import Exchange, Subject, rules_for
from talkoot.peer.presets import make


class Round:
    """One committed round of N peers, as one of them holds it."""

    def __init__(self, *, peers: int, numel: int, codec: str, exchange: Exchange) -> None:
        self.sources = Subject(peers=peers, numel=numel, codec=get(codec)).sources
        self.rules: Rules = rules_for(numel, exchange=exchange)
        keys = [bytes([number + 1]) * 32 for number in range(peers)]
        part = range(self.rules.num_chunks if exchange == "sparse" else -(-self.rules.num_chunks // peers))
        self.part = Part(keys[0], 0, len(part))
        indexes = [Index(source.entries) for source in self.sources]
        cut = tuple(
            Contribution(
                swarm=bytes(32), round=1, prior=bytes(32), key=key, root=index.root, norm2=index.norm2,
                steps=1, tokens=1, numel=numel, codec=codec,
            )
            for key, index in zip(keys, indexes, strict=True)
        )  # fmt: skip
        slices = {
            item.key: Slice(item, index, {chunk: source.chunks[chunk] for chunk in part})
            for item, index, source in zip(cut, indexes, self.sources, strict=True)
        }
        self.value = Value(
            swarm=bytes(32), round=1, prior=bytes(32), cut=cut, present=tuple(keys), parts=(),
            digest=bytes(32), voters=tuple(keys),
        )  # fmt: skip
        ledger = Ledger(
            swarm=bytes(32), arithmetic=ARITHMETIC_VERSION, round=1, voters=tuple(keys), absent=(0,) * peers,
            global_step=1, tokens=1, reference_steps=1, codec=codec, aggregate_codec="int8",
        )  # fmt: skip
        context = SimpleNamespace(ledger=ledger)
        self.machine: Any = SimpleNamespace(context=context, slices=SimpleNamespace(whole=lambda: slices))
        self.encoded: Any = SimpleNamespace(complete=True, counted=lambda _value: self.sources)
        self.ledger, self.cut = ledger, cut

    def aggregate(self, robustness: Robustness) -> EncodedPart | None:
        """This peer's share of the work."""
        if self.rules.exchange == "sparse":
            combine(self.sources, rules=self.rules, out_P=torch.empty(self.rules.numel))
            return None
        rules = rules_for(self.rules.numel, robustness)
        chunks = self.part.chunks
        weighed = weigh(self.cut, self.ledger, rules)
        part = [
            source_of(item, [source.chunks[c] for c in chunks], [source.entries[c] for c in chunks])
            for source, item in zip(self.sources, weighed, strict=True)
        ]
        return aggregate_part(self.part, part, codec=get("int8"), rules=rules, seed=bytes(32))


def took(call: Callable[[], object], repetitions: int) -> float:
    """Processor milliseconds: the median."""
    times = []
    for _ in range(repetitions):
        began = time.process_time()
        call()
        times.append(1000 * (time.process_time() - began))
    return median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--numel", type=int, default=25_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds: tuple[tuple[Exchange, str], ...] = (("dense", "int8"), ("sparse", "topk"))
    for exchange, codec in kinds:
        made = Round(peers=options.peers, numel=options.numel, codec=codec, exchange=exchange)
        figures = measure(made, options.repetitions)
        print(exchange, codec, {name: round(value, 1) for name, value in figures.items()})


def measure(made: Round, repetitions: int) -> dict[str, float]:
    """Milliseconds by kind of work."""
    watching = watcher.Watcher(
        Identity.from_seed(bytes(32)),
        made.rules,
        Path("unused"),
        count=lambda _sign: None,
        suspects=lambda _number: None,
    )
    aggregate_P = torch.randn(made.rules.numel)

    def end() -> None:
        watching.ending(made.machine, made.value, made.encoded, aggregate_P)

    end()
    figures = {
        "mean": took(lambda: made.aggregate(Robustness()), repetitions),
        "on the loop": took(end, repetitions),
        "look": took(lambda: watching._held(_ended(watching)), repetitions),
    }
    if made.rules.exchange == "dense":
        public = make("public", name="cost").robustness
        figures["public"] = took(lambda: made.aggregate(public), repetitions)
    return figures


def _ended(watching: watcher.Watcher) -> watcher.Ended:
    return cast(watcher.Ended, watching._ended)


if __name__ == "__main__":
    main()
