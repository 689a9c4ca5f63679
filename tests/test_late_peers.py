"""A late honest peer that returns with what it carries: what of it counts, and where the rest is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
import torch
from averaging_help import keys_of, make_contribution, make_ledger, make_rules, peers
from robust_rig import vectors

from talkoot.averaging.aggregate import Source, aggregate_part, combine, decode_part
from talkoot.averaging.contribution import Chunks, Index, encode_delta, settle
from talkoot.averaging.parts import Part
from talkoot.averaging.robustness import Before, NormCap, Robustness, Rule
from talkoot.averaging.rules import Rules
from talkoot.averaging.source import source_of
from talkoot.averaging.succession import weigh
from talkoot.compression import codec as codecs
from talkoot.compression.codec import Codec

SIGNERS = peers(6)
KEYS = keys_of(SIGNERS)
LATE = 2
"""Its number in the roster."""
NUMEL, CHUNK = 3000, 2048
WHOLE = Part(KEYS[0], 0, 2)
FP32 = codecs.get("fp32")
LENGTHS = [0.9, 0.95, 1.1, 0.92, 1.0, 1.3]
"""Of one round's work: caps cut the late peer's down."""

ALIKE = vectors(6, NUMEL, 4, spread=0.5)
ODD = vectors(6, NUMEL, 4, spread=1.5)[5]
"""Somebody has to be furthest from all others."""

DELTAS = [length * row for length, row in zip(LENGTHS, [*ALIKE[:5], ODD], strict=True)]
BEFORE = 1.05 * ALIKE[LATE]
"""The late peer's work of the round before."""


def encoded(delta: torch.Tensor, carry: torch.Tensor, codec: Codec, rules: Rules) -> tuple[Index, Chunks]:
    zeros = torch.zeros(NUMEL)
    return encode_delta(delta, zeros, carry, scale=1.0, codec=codec, rules=rules)


def sources_of(sent: Sequence[tuple[Index, Chunks]], rules: Rules) -> list[Source]:
    """The cut."""
    ledger = make_ledger(KEYS, codec=sent[0][1].codec.name)
    cut = [
        make_contribution(signer, norm2=index.norm2, codec=ledger.codec, carried=int(number == LATE))
        for number, (signer, (index, _)) in enumerate(zip(SIGNERS, sent, strict=True))
    ]
    return [
        source_of(item, [chunks[0], chunks[1]], index.entries)
        for item, (index, chunks) in zip(weigh(cut, ledger, rules), sent, strict=True)
    ]


def aggregated(sources: Sequence[Source], rules: Rules) -> torch.Tensor:
    out = torch.zeros(NUMEL)
    if rules.exchange == "sparse":
        combine(sources, rules=rules, out_P=out)
        return out
    done = aggregate_part(WHOLE, sources, codec=FP32, rules=rules, seed=b"seed")
    decode_part(WHOLE, done.chunks, codec=FP32, rules=rules, out_P=out)
    return out


def half(source: Source) -> Source:
    """What it carries for one round, as it would have come in time."""
    chunks = [source.codec.encode(0.5 * source.codec.decode(data, n)) for data, n in _sized(source)]
    entries = [replace(entry, norm2=entry.norm2 / 4) for entry in source.entries]
    return replace(source, chunks=chunks, entries=entries, allowance=1.0)


def _sized(source: Source) -> list[tuple[bytes | memoryview, int]]:
    return list(zip(source.chunks, (CHUNK, NUMEL - CHUNK), strict=True))


def values(source: Source) -> torch.Tensor:
    return source.clip * torch.cat([source.codec.decode(data, n) for data, n in _sized(source)])


@pytest.mark.parametrize(
    ("cap", "arms_at"), [*((cap, 0.0) for cap in get_args(NormCap)), ("part", 0.5), ("whole", 0.5)]
)
@pytest.mark.parametrize("before", get_args(Before))
@pytest.mark.parametrize("rule", get_args(Rule))
def test_a_late_contribution_counts_as_one_in_time_and_once_more(
    rule: Rule, before: Before, cap: NormCap, arms_at: float
) -> None:
    """No rule takes it for an outlier, however it mixes; and it adds no more than its weight times what the
    cap leaves of it."""
    rules = make_rules(
        numel=NUMEL,
        chunk_size=CHUNK,
        robustness=Robustness(rule=rule, before=before, norm_cap=cap, arms_at=arms_at),
    )
    carry = BEFORE.clone()
    sent = [
        encoded(delta, carry if number == LATE else torch.zeros(NUMEL), FP32, rules)
        for number, delta in enumerate(DELTAS)
    ]
    sources = sources_of(sent, rules)
    late = sources[LATE]
    assert late.allowance == 2
    in_time = [*sources[:LATE], half(late), *sources[LATE + 1 :]]
    more = aggregated(sources, rules) - aggregated(in_time, rules)
    y = values(half(late))
    usual = torch.stack([values(source).norm() for source in sources]).median()
    if cap != "none":
        assert y.norm() <= usual * (1 + 1e-5)
    share = float(more @ y / (y @ y))
    assert 0.5 * late.weight <= share <= late.weight * (1 + 1e-3)
    assert more.norm() <= late.weight * y.norm() * (1 + 1e-3)
    if rule not in ("coordinate_median", "trimmed_mean") and cap in ("none", "whole"):
        torch.testing.assert_close(more, share * y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
@pytest.mark.parametrize("cap", ["none", "whole", "chunk"])
def test_a_sparse_late_contribution_counts_up_to_twice(cap: NormCap, exchange: str) -> None:
    rules = make_rules(
        numel=NUMEL, chunk_size=CHUNK, robustness=Robustness(norm_cap=cap), exchange=exchange,
        error_feedback=True,
    )  # fmt: skip
    codec = codecs.get("topk")
    carry = BEFORE.clone()
    sent = [
        encoded(delta, carry if number == LATE else torch.zeros(NUMEL), codec, rules)
        for number, delta in enumerate(DELTAS)
    ]
    sources = sources_of(sent, rules)
    cap_norm = sorted(index.norm2**0.5 for index, _ in sent)[2]
    with_it = aggregated(sources, rules)
    without = aggregated([replace(s, weight=0.0) if n == LATE else s for n, s in enumerate(sources)], rules)
    counted = (with_it - without) / sources[LATE].weight
    allowed = sent[LATE][0].norm2 ** 0.5 if cap == "none" else min(2 * cap_norm, sent[LATE][0].norm2 ** 0.5)
    if cap == "chunk":
        assert 0.9 * allowed <= counted.norm() <= allowed * (1 + 1e-4)
    else:
        assert counted.norm() == pytest.approx(allowed, rel=1e-4)


@pytest.mark.parametrize("name", ["int8", "topk", "sign"])
@pytest.mark.parametrize("feedback", [True, False])
def test_the_residual_accounts_for_the_rest_bit_for_bit(name: str, feedback: bool) -> None:
    """Late: all of it stays. Counted: what the encoding lost, or nothing; the cap's cut is gone."""
    rules = make_rules(numel=NUMEL, chunk_size=CHUNK, error_feedback=feedback)
    codec, carry = codecs.get(name), torch.zeros(NUMEL)
    _, late = encoded(BEFORE, carry, codec, rules)
    settle(carry, late, counted=False, rules=rules)
    assert torch.equal(carry, BEFORE)
    _, chunks = encoded(DELTAS[LATE], carry, codec, rules)
    m = BEFORE + DELTAS[LATE]
    assert torch.equal(carry, m)
    settle(carry, chunks, counted=True, rules=rules)
    sent = torch.cat([codec.decode(chunks[0], CHUNK), codec.decode(chunks[1], NUMEL - CHUNK)])
    assert torch.equal(carry, m - sent if feedback else torch.zeros(NUMEL))


@pytest.mark.parametrize("rule", get_args(Rule))
def test_liars_who_say_that_they_are_late_add_no_more_than_their_weight(rule: Rule) -> None:
    """Two of eight agree, sit where the honest ones are thickest, and claim what they like."""
    honest = vectors(6, NUMEL, 9, spread=2.0)
    lie = torch.stack(honest).mean(0)
    rules = make_rules(numel=NUMEL, chunk_size=CHUNK, robustness=Robustness(rule=rule, norm_cap="none"))
    rows = [*honest, lie, lie]
    sent = [encoded(row, torch.zeros(NUMEL), FP32, rules) for row in rows]
    plain = [Source(1 / 8, [chunks[0], chunks[1]], index.entries, FP32) for index, chunks in sent]
    loud = [encoded(2 * row, torch.zeros(NUMEL), FP32, rules) for row in (lie, lie)]
    late = [Source(1 / 8, [c[0], c[1]], i.entries, FP32, allowance=2.0) for i, c in loud]
    before = aggregated(plain, rules)
    after = aggregated([*plain[:6], *late], rules)
    assert (after - before).norm() <= 0.25 * max(lie.norm(), before.norm()) * (1 + 1e-4)
