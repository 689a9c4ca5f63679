"""Measures robust rules for `talkoot.peer.bench_aggregate`: a request comes in, an answer goes out, as JSON.

Two kinds of request, each in a process of its own: `time`, and `memory`, for which the allocator is told by
the environment to give back what is freed.
"""

import json
import sys
import time
from statistics import median
from typing import Any, Literal

import torch

from talkoot.averaging.aggregate import Source, aggregate_part
from talkoot.averaging.contribution import Entry
from talkoot.averaging.parts import Part
from talkoot.averaging.robustness import Robustness
from talkoot.averaging.rules import Rules
from talkoot.compression.codec import Codec, get
from talkoot.peer.bench_aggregate import RULES
from talkoot.peer.bench_codec_worker import peak_bytes

Exchange = Literal["dense", "sparse"]

COSINE = 0.5
"""Between two peers' pseudo-gradients: what is common to all has as much energy as what is a peer's own."""


class Subject:
    """The contributions of one round, as a reducer of the whole vector holds them."""

    def __init__(self, *, peers: int, numel: int, codec: Codec) -> None:
        self._rules = rules_for(numel)
        held: list[tuple[list[bytes], list[Entry]]] = [([], []) for _ in range(peers)]
        for chunk in range(self._rules.num_chunks):
            for number, values in enumerate(_values(chunk, peers, self._rules.chunk_numel(chunk))):
                data = codec.encode(values)
                held[number][0].append(data)
                held[number][1].append(Entry(bytes(32), codec.squared_norm(data, len(values))))
        weights = [1.0 + number % 3 / 2 for number in range(peers)]
        self.sources = [
            Source(weight / sum(weights), chunks_, entries, codec)
            for weight, (chunks_, entries) in zip(weights, held, strict=True)
        ]

    def aggregate(self, robustness: Robustness) -> None:
        """One reducer's work, with the result encoded as int8."""
        rules = rules_for(self._rules.numel, robustness)
        whole = Part(bytes(32), 0, rules.num_chunks)
        aggregate_part(whole, self.sources, codec=get("int8"), rules=rules, seed=bytes(32))


def _values(chunk: int, peers: int, numel: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(chunk)
    common = torch.randn(numel, generator=generator) * COSINE**0.5
    own = (1 - COSINE) ** 0.5
    return [common + own * torch.randn(numel, generator=generator) for _ in range(peers)]


def rules_for(numel: int, robustness: Robustness | None = None, *, exchange: Exchange = "dense") -> Rules:
    """Of a swarm with so many parameters."""
    return Rules(
        swarm=bytes(32),
        numel=numel,
        founders=(),
        invited_vote=True,
        admit=lambda peer, proof: None,
        inner_steps=1,
        outer_learning_rate=0.7,
        outer_momentum=0.5,
        error_feedback=False,
        max_absent_rounds=1,
        robustness=robustness or Robustness(),
        exchange=exchange,
    )


def seconds(subject: Subject, names: list[str], repetitions: int) -> dict[str, float]:
    """Processor time of each rule: the median over repetitions, in each of which all have their turn."""
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repetitions):
        for name in names:
            began = time.process_time()
            subject.aggregate(RULES[name])
            taken[name].append(time.process_time() - began)
    return {name: median(times) for name, times in taken.items()}


def peaks(subject: Subject, names: list[str]) -> dict[str, int]:
    """How far each rule raises resident memory, in bytes."""
    return {name: peak_bytes(lambda name=name: subject.aggregate(RULES[name])) for name in names}  # type: ignore[misc]


def answer(request: dict[str, Any]) -> dict[str, float]:
    """What was asked for."""
    subject = Subject(peers=request["peers"], numel=request["numel"], codec=get(request["codec"]))
    names = list(request["rules"])
    subject.aggregate(RULES[names[0]])  # warms up
    if request["kind"] == "memory":
        return dict(peaks(subject, names))
    return seconds(subject, names, request["repetitions"])


def main() -> None:
    """Answer one request."""
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))) + "\n")


if __name__ == "__main__":
    main()
