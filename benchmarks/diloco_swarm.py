"""DiLoCo of several workers in one process, for benchmarks: the trainer's engines, the rounds' arithmetic.

What travels is encoded, weighed, norm-capped, aggregated, quantised again and decoded by the functions that
a swarm uses (`talkoot.averaging`); only network, certificates and processes are missing. Every worker counts.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from talkoot.averaging.aggregate import Source, aggregate_part, combine, decode_part
from talkoot.averaging.certificate import Contribution
from talkoot.averaging.contribution import Chunks, Index, encode_delta, settle
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.outer import outer_step
from talkoot.averaging.parts import Part
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.rules import CHUNK_NUMEL, Rules
from talkoot.averaging.succession import weigh
from talkoot.compression import codec as codecs
from talkoot.compression.arithmetic import ARITHMETIC_VERSION
from talkoot.peer import presets
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer.data import Corpus
from talkoot.peer.trainer.engine import Engine, learning_rate
from talkoot.peer.trainer.layout import Flat, initial_weights
from talkoot.peer.trainer.protocol import TrainerSpec
from talkoot.peer.trainer.windows import Windows, sequence_seed
from talkoot.peer.trainer.workplace import make_corpus, make_engine

MODELS: dict[str, dict[str, Any]] = {
    "demo": {},
    "small": {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2},
    "numpy": {},
}
"""Two Llamas over bytes, the demo's (preset `tiny`, 370,848 parameters) and a smaller one (117,056), and a
table of byte pairs (65,792)."""

Line = dict[str, Any]

HELD_OUT = 256
"""Windows on which a model is judged, the same for every arm."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, and on how much."""

    model: str = "small"
    batch_size: int = 8
    sequence_length: int = 64
    learning_rate: float = 3e-3
    warmup_steps: int = 20

    @property
    def manifest(self) -> Manifest:
        """As a swarm would have it."""
        base = presets.make("numpy-test" if self.model == "numpy" else "tiny", name="bench")
        config = {"hidden": 128} if self.model == "numpy" else base.model.config | MODELS[self.model]
        inner = replace(
            base.inner,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
        )
        return replace(
            base,
            model=replace(base.model, config=config),
            data=replace(base.data, sequence_length=self.sequence_length),
            inner=inner,
        )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train with several workers."""

    workers: int = 4
    rounds: int = 30
    inner_steps: int = 15
    """H."""
    codec: str = "fp32"
    aggregate_codec: str = "fp32"
    """Of the dense exchange; what a sparse one combines is not quantised again."""
    exchange: str = "dense"
    outer_learning_rate: float = 0.7
    outer_momentum: float = 0.5
    feedback_decay: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an arm ended."""

    loss: float
    """Held-out, nats a byte."""
    bytes_per_peer: float
    """Sent in all rounds, at least, when all send equally much."""
    numel: int
    cpu_s: float


class Results:
    """A line for each run of an arm, kept in a file if there is one: what is there is not run again."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: list[Line] = []
        if path is not None and path.exists():
            self._lines = [json.loads(line) for line in path.read_text().splitlines()]

    def get(self, key: Line, run: Callable[[], Outcome]) -> Line:
        """The line of `key`, which is all that a result depends on."""
        for line in self._lines:
            if line["key"] == key:
                return line
        line = {"key": key, **asdict(run())}
        self._lines.append(line)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line


class Laboratory:
    """Engines and data of one task; arms run one after the other."""

    def __init__(self, task: Task, workers: int, *, device: str = "cpu", threads: int = 1) -> None:
        self.task, self.manifest = task, task.manifest
        self.engines = [make_engine(self.manifest, device=device, threads=threads) for _ in range(workers)]
        self.numel = self.engines[0].layout.numel
        self._folder = TemporaryDirectory()
        folder = Path(self._folder.name)
        spec = TrainerSpec(manifest_path=folder / "none", state_dir=folder, peer=bytes(32))
        self.corpus: Corpus = make_corpus(self.manifest, spec, self.engines[0].vocab_size)

    def close(self) -> None:
        """Forget the data."""
        self._folder.cleanup()

    def initial(self, seed: int) -> Flat:
        """The weights from which every arm of a seed starts."""
        return initial_weights(replace(self.manifest, inner=replace(self.manifest.inner, seed=seed)))

    def windows(self, seed: int, worker: int, step: int, batch_size: int) -> Windows:
        """What a worker sees in one step: the same in every arm of a seed."""
        order = sequence_seed(bytes(32), worker.to_bytes(32, "big"), seed)
        return self.corpus.training(order, step * batch_size, batch_size)

    def rate(self, step: int) -> float:
        """The inner learning rate."""
        return learning_rate(self.manifest, step, None)

    def start(self, seed: int, workers: int) -> list[Engine]:
        """Engines with the initial weights and cold moments."""
        chosen, flat = self.engines[:workers], self.initial(seed)
        for engine in chosen:
            engine.load(flat)
            engine.reset()
        return chosen

    def local(self, engine: Engine) -> Flat:
        """Parameters of an engine."""
        return np.concatenate([np.array(chunk) for chunk in engine.chunks()])

    def diloco(self, arm: Arm, seed: int, *, batch_size: int = 0) -> Outcome:
        """Train by rounds; `batch_size` of each worker, the task's by default."""
        began = time.process_time()
        engines = self.start(seed, arm.workers)
        outer = Outer(arm, self.initial(seed))
        batch_size = batch_size or self.task.batch_size
        for round_ in range(arm.rounds):
            for worker, engine in enumerate(engines):
                engine.load(outer.theta_P.numpy())
                for step in range(round_ * arm.inner_steps, (round_ + 1) * arm.inner_steps):
                    engine.step(self.windows(seed, worker, step, batch_size), self.rate(step))
            outer.round([torch.from_numpy(self.local(engine)) for engine in engines])
        return self._outcome(outer.theta_P.numpy(), outer.num_bytes, began)

    def alone(self, steps: int, seed: int, *, workers: int = 1) -> Outcome:
        """One worker, or so many with their gradients averaged in every step (data parallel)."""
        began = time.process_time()
        (engine,) = self.start(seed, 1)
        batch_size = self.task.batch_size
        for step in range(steps):
            shares = [self.windows(seed, worker, step, batch_size) for worker in range(workers)]
            engine.step(np.concatenate(shares), self.rate(step))
        return self._outcome(self.local(engine), data_parallel_bytes(workers, self.numel, steps), began)

    def _outcome(self, flat: Flat, num_bytes: float, began: float) -> Outcome:
        loss = self.engines[0].evaluate(flat, self.corpus.held_out(HELD_OUT))
        cpu_s = time.process_time() - began
        return Outcome(loss=loss, bytes_per_peer=num_bytes, numel=self.numel, cpu_s=cpu_s)


class Outer:
    """The outer state, and all rounds' arithmetic."""

    def __init__(self, arm: Arm, flat: Flat) -> None:
        self.arm = arm
        self.theta_P = torch.from_numpy(flat.copy())
        self._momentum_P = torch.zeros_like(self.theta_P)
        self._carry_NP = [torch.zeros_like(self.theta_P) for _ in range(arm.workers)]
        self._keys = tuple(bytes([number + 1]) * 32 for number in range(arm.workers))
        self._rules = Rules(
            swarm=bytes(32),
            numel=flat.size,
            founders=self._keys,
            invited_vote=True,
            admit=lambda _key, _proof: None,
            inner_steps=arm.inner_steps,
            outer_learning_rate=arm.outer_learning_rate,
            outer_momentum=arm.outer_momentum,
            error_feedback="auto",
            feedback_decay=arm.feedback_decay,
            max_absent_rounds=3,
        )
        self._ledger = Ledger(
            swarm=bytes(32),
            arithmetic=ARITHMETIC_VERSION,
            round=0,
            voters=self._keys,
            absent=(0,) * arm.workers,
            global_step=0,
            tokens=0,
            reference_steps=arm.inner_steps,
            codec=arm.codec,
            aggregate_codec=arm.aggregate_codec,
        )
        self.num_bytes = 0.0
        self._rounds = 0

    def round(self, local_NP: Sequence[torch.Tensor]) -> None:
        """Exchange, aggregate, take the outer step; what encoding lost stays with each worker."""
        arm, rules = self.arm, self._rules
        encoded: list[tuple[Index, Chunks]] = []
        for key, local_P, carry_P in zip(self._keys, local_NP, self._carry_NP, strict=True):
            torch.mul(carry_P, arm.feedback_decay, out=carry_P)
            codec = self._codec(arm.codec, key)
            encoded.append(encode_delta(self.theta_P, local_P, carry_P, scale=1.0, codec=codec, rules=rules))
        delta_P = self._aggregate(encoded)
        for carry_P, (_, chunks) in zip(self._carry_NP, encoded, strict=True):
            settle(carry_P, chunks, counted=True, rules=rules)
        outer_step(
            self.theta_P,
            self._momentum_P,
            delta_P,
            learning_rate=arm.outer_learning_rate,
            momentum=arm.outer_momentum,
            theta_out_P=self.theta_P,
            momentum_out_P=self._momentum_P,
        )
        self.num_bytes += round_bytes(arm, rules.numel)
        self._rounds += 1

    def _codec(self, name: str, key: bytes) -> codecs.Codec:
        """As a worker uses it in this round."""
        return codec_of(name, self._rounds.to_bytes(32, "little"), key)

    def _aggregate(self, encoded: Sequence[tuple[Index, Chunks]]) -> torch.Tensor:
        arm, rules = self.arm, self._rules
        headers = [self._header(key, index) for key, (index, _) in zip(self._keys, encoded, strict=True)]
        weighed = weigh(headers, self._ledger, rules)
        sources = [
            Source(
                item.weight,
                [bytes(chunks[c]) for c in range(rules.num_chunks)],
                list(index.entries),
                chunks.codec,
                item.clip,
                item.allowance,
            )
            for item, (index, chunks) in zip(weighed, encoded, strict=True)
        ]
        delta_P = torch.empty_like(self.theta_P)
        if arm.exchange == "sparse":
            combine(sources, rules=rules, out_P=delta_P)
            return delta_P
        whole = Part(self._keys[0], 0, rules.num_chunks)
        codec = self._codec(arm.aggregate_codec, whole.reducer)
        part = aggregate_part(whole, sources, codec=codec, rules=rules)
        decode_part(whole, part.chunks, codec=codec, rules=rules, out_P=delta_P)
        return delta_P

    def _header(self, key: bytes, index: Index) -> Contribution:
        """Unsigned: nobody doubts it here."""
        return Contribution(
            swarm=bytes(32),
            round=0,
            prior=bytes(32),
            key=key,
            root=bytes(32),
            norm2=index.norm2,
            steps=self.arm.inner_steps,
            tokens=1,
            numel=self._rules.numel,
            codec=self.arm.codec,
        )


def round_bytes(arm: Arm, numel: int) -> float:
    """Bytes that each peer sends in one round, at least, when all send equally much.

    Dense: (n-1)/n of its contribution and of the aggregate (Patarasuk and Yuan 2009). Sparse: n-1
    contributions.
    """
    contribution = vector_bytes(arm.codec, numel)
    if arm.exchange == "sparse":
        return (arm.workers - 1) * contribution
    return (arm.workers - 1) / arm.workers * (contribution + vector_bytes(arm.aggregate_codec, numel))


def vector_bytes(codec_name: str, numel: int) -> int:
    """Bytes of a vector, encoded chunk by chunk."""
    codec = codecs.get(codec_name)
    full, rest = divmod(numel, CHUNK_NUMEL)
    return full * codec.encoded_size(CHUNK_NUMEL) + (codec.encoded_size(rest) if rest else 0)


def data_parallel_bytes(workers: int, numel: int, steps: int) -> float:
    """Bytes that each peer sends when fp32 gradients are averaged in every step."""
    return steps * 2 * (workers - 1) / workers * 4 * numel


def spread(values: Sequence[float]) -> float:
    """Standard deviation over the seeds."""
    return stdev(values) if len(values) > 1 else 0.0
