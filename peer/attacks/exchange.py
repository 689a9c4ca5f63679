"""The rounds of the attack bench: encoding, weights, aggregation and outer step by the swarm's own functions.

Each worker reduces a part of the vector, honestly; what is missing of a real round is messages and
certificates.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from talkoot.averaging.aggregate import aggregate_part, decode_part
from talkoot.averaging.audits import Audits
from talkoot.averaging.certificate import Contribution, PartDigest, Value
from talkoot.averaging.contribution import Chunks, Index, encode_delta, settle, step_scale
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.outer import outer_step
from talkoot.averaging.parts import Part, assign_parts
from talkoot.averaging.reputation import banned, left_out
from talkoot.averaging.robustness import Robustness
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.rules import Rules
from talkoot.averaging.slices import Slice
from talkoot.averaging.source import source_of
from talkoot.averaging.succession import next_ledger, weigh
from talkoot.averaging.verdicts import Verdict
from talkoot.compression.arithmetic import ARITHMETIC_VERSION
from talkoot.compression.codec import CodecError

CHUNKS_A_WORKER = 1

FORGED = {"nan": b"\xff\xff\xff\xff", "inf": b"\x00\x00\x80\x7f"}
"""NaN and infinity as float32: whatever a codec reads as a scale or a value is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What a worker contributes to a round."""

    delta: torch.Tensor
    steps: int
    tokens: int
    forge: Literal["nan", "inf"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """A round as everybody saw it."""

    decoded: list[torch.Tensor]
    """Contributions; zeros for what does not decode."""
    weights: list[float]
    aggregate: torch.Tensor
    theta: torch.Tensor
    """Parameters before the round."""
    value: Value
    """What would be certified, but for roots and signatures."""
    ledger: Ledger
    """Before the round."""
    slices: Sequence[Mapping[bytes, Slice]]
    """For each part what its reducer holds, by contributor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The part of a manifest that matters here."""

    workers: int
    inner_steps: int
    robustness: Robustness
    codec: str = "int8"
    aggregate_codec: str = "int8"
    outer_learning_rate: float = 0.7
    outer_momentum: float = 0.5
    audits: Audits | None = None
    """None: trainers are not audited."""


class Exchange:
    """The outer state and how rounds change it. All workers are voters: nobody is on probation."""

    def __init__(self, terms: Terms, theta_P: torch.Tensor) -> None:
        self._terms = terms
        self.theta_P = theta_P.clone()
        self._momentum_P = torch.zeros_like(theta_P)
        self._carry_NP = [torch.zeros_like(theta_P) for _ in range(terms.workers)]
        self._carried: dict[int, int] = {}
        """Rounds that late workers' next contributions carry."""
        self._keys = tuple(bytes([number + 1]) * 32 for number in range(terms.workers))
        self.rules = self._rules = _rules(terms, theta_P.numel(), self._keys)
        self._ledger = _ledger(terms, self._keys)

    @property
    def ledger(self) -> Ledger:
        """After the last round."""
        return self._ledger

    @property
    def banned(self) -> frozenset[int]:
        """Workers that may not take part in the next round."""
        return frozenset(map(number_of, banned(self._ledger)))

    @property
    def left_out(self) -> frozenset[int]:
        """Workers whose contributions weigh nothing in the next round, since audits say that they hurt."""
        return frozenset(map(number_of, left_out(self._keys, self._ledger)))

    @property
    def _present(self) -> tuple[bytes, ...]:
        out = banned(self._ledger)
        return tuple(key for key in self._keys if key not in out)

    @property
    def _parts(self) -> list[Part]:
        """Of the voters, the same for each."""
        reducers = [(key, 1.0) for key in self._present if key in self._ledger.voters]
        return list(assign_parts(reducers, self._rules.num_chunks, self._terms.workers))

    @property
    def first_part(self) -> slice:
        """Elements of the first worker's part."""
        return slice(0, min(self._rules.numel, self._parts[0].num_chunks * self._rules.chunk_size))

    @property
    def chunks(self) -> list[slice]:
        """Elements of each chunk."""
        rules = self._rules
        starts = [chunk * rules.chunk_size for chunk in range(rules.num_chunks)]
        return [slice(start, start + rules.chunk_numel(n)) for n, start in enumerate(starts)]

    @property
    def reference_steps(self) -> int:
        """Inner steps to which the next contributions are scaled."""
        return self._ledger.reference_steps

    def round(
        self,
        sent_N: Sequence[Sent | None],
        *,
        late: Collection[int] = (),
        verdicts: Sequence[Verdict] = (),
    ) -> Counted:
        """Exchange, aggregate, take the outer step. None: this worker is away. What comes `late` is carried
        into the worker's next contribution. `verdicts` on the round before enter the ledger, unsigned."""
        made = [
            (n, sent, self._encode(n, sent, self._carry_NP[n]))
            for n, sent in enumerate(sent_N)
            if sent is not None
        ]
        self._carried |= {n: self._carried.get(n, 0) + 1 for n in late}
        in_time = [item for item in made if item[0] not in late]
        numbers, encoded = [n for n, _, _ in in_time], [pair for _, _, pair in in_time]
        cut = [self._header(n, pair[0], sent) for n, sent, pair in in_time]
        aggregate_P = self._aggregate(cut, encoded)
        for number, (_, chunks) in zip(numbers, encoded, strict=True):
            settle(self._carry_NP[number], chunks, counted=True, rules=self._rules)
            self._carried.pop(number, None)
        before = Counted(
            decoded=[self._decoded(chunks) for _, chunks in encoded],
            weights=[item.weight for item in weigh(cut, self._ledger, self._rules)],
            aggregate=aggregate_P,
            theta=self.theta_P.clone(),
            value=self._value(cut),
            ledger=self._ledger,
            slices=[_slices(part, cut, encoded) for part in self._parts],
        )
        self._ledger = next_ledger(self._ledger, cut, self._present, self._rules, verdicts)
        outer_step(
            self.theta_P,
            self._momentum_P,
            aggregate_P,
            learning_rate=self._terms.outer_learning_rate,
            momentum=self._terms.outer_momentum,
            theta_out_P=self.theta_P,
            momentum_out_P=self._momentum_P,
        )
        return before

    def foreseeing(
        self, honest: Mapping[int, Sent], liars: Collection[int]
    ) -> Callable[[Sent], torch.Tensor]:
        """Says what the aggregate would be if each of `liars` sent this; nothing comes of asking."""

        def encoded(number: int, sent: Sent) -> tuple[Index, Chunks]:
            return self._encode(number, sent, self._carry_NP[number].clone())

        known = {n: (sent, encoded(n, sent)) for n, sent in honest.items()}

        def foresee(lie: Sent) -> torch.Tensor:
            made = known | {n: (lie, encoded(n, lie)) for n in liars}
            ordered = [(n, *made[n]) for n in sorted(made)]
            cut = [self._header(n, pair[0], sent) for n, sent, pair in ordered]
            return self._aggregate(cut, [pair for _, _, pair in ordered])

        return foresee

    @property
    def _prior(self) -> bytes:
        """Stands for the digest of the state before the round."""
        return _digest(self._ledger.round)

    def _value(self, cut: Sequence[Contribution]) -> Value:
        return Value(
            swarm=self._rules.swarm,
            round=self._ledger.round,
            prior=self._prior,
            cut=tuple(cut),
            present=self._present,
            parts=tuple(
                PartDigest(part.reducer, part.first_chunk, part.num_chunks, bytes(32)) for part in self._parts
            ),
            digest=_digest(self._ledger.round + 1),
            voters=self._keys,
        )

    def _encode(self, number: int, sent: Sent, carry_P: torch.Tensor) -> tuple[Index, Chunks]:
        codec = codec_of(self._terms.codec, self._prior, self._keys[number])
        index, chunks = encode_delta(
            sent.delta,
            torch.zeros_like(sent.delta),
            carry_P,
            scale=step_scale(sent.steps, self._ledger.reference_steps),
            codec=codec,
            rules=self._rules,
        )
        if sent.forge is not None:
            for chunk in range(self._rules.num_chunks):
                view = chunks[chunk]
                view[:] = (FORGED[sent.forge] * (len(view) // 4 + 1))[: len(view)]
        return index, chunks

    def _aggregate(
        self, cut: Sequence[Contribution], encoded: Sequence[tuple[Index, Chunks]]
    ) -> torch.Tensor:
        rules, prior = self._rules, self._prior
        weighed = weigh(cut, self._ledger, rules)
        aggregate_P = torch.empty_like(self.theta_P)
        for part in self._parts:
            sources = [
                source_of(item, [chunks[c] for c in part.chunks], [index.entries[c] for c in part.chunks])
                for item, (index, chunks) in zip(weighed, encoded, strict=True)
            ]
            codec = codec_of(self._terms.aggregate_codec, prior, part.reducer)
            done = aggregate_part(part, sources, codec=codec, rules=rules, seed=prior)
            decode_part(part, done.chunks, codec=codec, rules=rules, out_P=aggregate_P)
        return aggregate_P

    def _decoded(self, chunks: Chunks) -> torch.Tensor:
        rules, out_P = self._rules, torch.zeros_like(self.theta_P)
        for chunk in range(rules.num_chunks):
            start, numel = chunk * rules.chunk_size, rules.chunk_numel(chunk)
            try:
                chunks.codec.decode_into(chunks[chunk], out_P[start : start + numel])
            except CodecError:
                return out_P.zero_()
        return out_P

    def _header(self, number: int, index: Index, sent: Sent) -> Contribution:
        """Unsigned: nobody doubts it here."""
        return Contribution(
            swarm=self._rules.swarm,
            round=self._ledger.round,
            prior=self._prior,
            key=self._keys[number],
            root=index.root,
            norm2=index.norm2,
            steps=sent.steps,
            tokens=sent.tokens,
            numel=self._rules.numel,
            codec=self._ledger.codec,
            carried=self._carried.get(number, 0),
        )


def number_of(key: bytes) -> int:
    """The worker with this key."""
    return key[0] - 1


def _digest(round_number: int) -> bytes:
    """Stands for the digest of the state after so many rounds."""
    return round_number.to_bytes(32, "little")


def _slices(
    part: Part, cut: Sequence[Contribution], encoded: Sequence[tuple[Index, Chunks]]
) -> dict[bytes, Slice]:
    return {
        item.key: Slice(item, index, {chunk: chunks[chunk] for chunk in part.chunks})
        for item, (index, chunks) in zip(cut, encoded, strict=True)
    }


def _rules(terms: Terms, numel: int, keys: tuple[bytes, ...]) -> Rules:
    return Rules(
        swarm=bytes(32),
        numel=numel,
        founders=() if terms.audits is not None else keys,  # who is never banned
        invited_vote=True,
        admit=lambda _key, _proof: None,
        inner_steps=terms.inner_steps,
        outer_learning_rate=terms.outer_learning_rate,
        outer_momentum=terms.outer_momentum,
        error_feedback="auto",
        max_absent_rounds=3,
        robustness=terms.robustness,
        audits=terms.audits,
        chunk_size=-(-numel // (CHUNKS_A_WORKER * terms.workers)),
    )


def _ledger(terms: Terms, keys: tuple[bytes, ...]) -> Ledger:
    return Ledger(
        swarm=bytes(32),
        arithmetic=ARITHMETIC_VERSION,
        round=0,
        voters=keys,
        absent=(0,) * len(keys),
        global_step=0,
        tokens=0,
        reference_steps=terms.inner_steps,
        codec=terms.codec,
        aggregate_codec=terms.aggregate_codec,
    )
