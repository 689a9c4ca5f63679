"""Aggregation and contributions against plain formulas; what does not decode counts as zeros."""

from math import fsum

import msgspec
import pytest
import torch
from averaging_help import keys_of, make_ledger, make_rules, peers
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import ToySigner, toy_verify

from talkoot.averaging.aggregate import (
    EncodedPart,
    Source,
    aggregate_part,
    combine,
    decode_part,
    mean,
    norm_capped_mean,
)
from talkoot.averaging.certificate import MAX_NORM2, CertificateError, Contribution
from talkoot.averaging.contribution import (
    ENTRY_BYTES,
    Chunks,
    Entry,
    Index,
    decode_index,
    encode_delta,
    settle,
    sign_contribution,
    step_scale,
)
from talkoot.averaging.digest import content_hash
from talkoot.averaging.parts import Part
from talkoot.averaging.rules import CHUNK_NUMEL
from talkoot.compression import codec as codecs
from talkoot.compression.codec import CodecError

NUMEL = CHUNK_NUMEL + 1000
RULES = make_rules(numel=NUMEL)
INT8 = codecs.get("int8")
FEEDBACK = make_rules(numel=NUMEL, error_feedback=True)
WHOLE = Part(b"r" * 32, 0, 2)


def vector(seed: int, numel: int = NUMEL) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed))


# -- rules over plain tensors ------------------------------------------------------------------------------


@examples(30)
@given(st.lists(st.floats(0, 4, width=32), min_size=1, max_size=6), st.integers(1, 3000))
def test_mean_is_the_weighted_sum_over_the_weights(weights: list[float], numel: int) -> None:
    updates = [vector(seed, numel) for seed in range(len(weights))]
    total = fsum(weights) or 1.0
    exact = sum(w / total * u.double() for w, u in zip(weights, updates, strict=True))
    torch.testing.assert_close(mean(updates, weights).double(), exact, rtol=1e-5, atol=1e-5)


@examples(30)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=6))
def test_the_norm_cap_scales_down_to_the_lower_median(scales: list[float]) -> None:
    updates = [scale * vector(seed, 500) for seed, scale in enumerate(scales)]
    weights = [1.0 / len(scales)] * len(scales)
    cap = sorted(u.double().norm().item() for u in updates)[(len(updates) - 1) // 2]
    exact = torch.zeros(500, dtype=torch.float64)
    for update in updates:
        norm = update.double().norm().item()
        exact += update.double() * (cap / norm if norm > cap else 1.0) / len(scales)
    result = norm_capped_mean(updates, weights).double()
    torch.testing.assert_close(result, exact, rtol=1e-4, atol=1e-4 * max(1.0, cap))
    assert result.norm().item() <= cap * (1 + 1e-4)


def test_a_liar_moves_the_capped_mean_by_no_more_than_an_honest_peer() -> None:
    honest = [vector(seed, 1000) for seed in range(4)]
    lie = 1e30 * vector(9, 1000)
    moved = norm_capped_mean([*honest, lie], [0.2] * 5) - 0.8 * mean(honest, [0.2] * 4)
    assert moved.norm().item() < 0.2 * max(update.norm().item() for update in honest) * 1.01


# -- contributions -----------------------------------------------------------------------------------------


def contribution(
    delta: torch.Tensor, codec: str = "int8", signer: ToySigner | None = None
) -> tuple[Contribution, Index, Chunks]:
    signer = signer or peers(1)[0]
    index, chunks = encode_delta(
        delta, torch.zeros(NUMEL), torch.zeros(NUMEL), scale=1.0, codec=codecs.get(codec), rules=RULES
    )
    header = sign_contribution(
        index,
        ledger=make_ledger(keys_of(peers(1)), codec=codec),
        prior=b"p" * 32,
        steps=80,
        tokens=1,
        carried=0,
        carried_tokens=0,
        admission=b"",
        rules=RULES,
        signer=signer,
    )
    return header, index, chunks


def decoded(chunks: Chunks, codec: str = "int8") -> torch.Tensor:
    return torch.cat([codecs.get(codec).decode(chunks[c], RULES.chunk_numel(c)) for c in range(2)])


def test_a_contribution_is_scaled_by_its_steps() -> None:
    assert [step_scale(steps, 80) for steps in (1, 40, 80, 100, 160, 10**9)] == [2, 2, 1, 0.8, 0.5, 0.5]


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_an_index_reads_back_and_belongs_to_its_header(codec: str) -> None:
    header, index, chunks = contribution(vector(1), codec)
    header.check(toy_verify)
    again = decode_index(index.encode(), header, 2)
    assert again.entries == index.entries
    assert header.norm2 == fsum(entry.norm2 for entry in index.entries)
    exact = decoded(chunks, codec).double().square().sum().item()
    assert header.norm2 == pytest.approx(exact, rel=1e-12)
    assert [entry.hash for entry in index.entries] == [content_hash(chunks[c]) for c in range(2)]


def test_indexes_that_do_not_fit_are_refused() -> None:
    header, index, _ = contribution(vector(1))
    good = index.encode()
    swapped = good[ENTRY_BYTES:] + good[:ENTRY_BYTES]
    for data, reason in (
        (b"", "malformed"),
        (good[:-1], "malformed"),
        (good + good[:ENTRY_BYTES], "malformed"),
        (swapped, "wrong_index"),
        (bytes(len(good)), "wrong_index"),
        (good[:-8] + b"\0\0\0\0\0\0\xf8\x7f", "not_finite"),
        (good[:-8] + b"\0\0\0\0\0\0\xf0\xbf", "not_finite"),
    ):
        with pytest.raises(CertificateError) as caught:
            decode_index(data, header, 2)
        assert caught.value.reason == reason


def test_norms_that_overflow_when_added_are_refused() -> None:
    header, index, _ = contribution(vector(1))
    loud = Index([Entry(entry.hash, 1.7e308) for entry in index.entries])
    header = msgspec.structs.replace(header, root=loud.root, norm2=MAX_NORM2)
    with pytest.raises(CertificateError, match="not_finite"):
        decode_index(loud.encode(), header, 2)
    liar = Index([Entry(entry.hash, MAX_NORM2) for entry in index.entries])
    header = msgspec.structs.replace(header, root=liar.root, norm2=MAX_NORM2)
    with pytest.raises(CertificateError, match="wrong_index"):
        decode_index(liar.encode(), header, 2)


@examples(60)
@given(st.binary(min_size=2 * ENTRY_BYTES, max_size=2 * ENTRY_BYTES))
def test_garbage_is_no_index(data: bytes) -> None:
    header, _, _ = HEADER
    with pytest.raises(CertificateError):
        decode_index(data, header, 2)


HEADER = contribution(vector(0))


def test_what_quantisation_lost_is_carried_and_what_was_not_counted_stays() -> None:
    start, local, carry = vector(1), vector(2), vector(3)
    m = carry + 0.5 * (start - local)
    _, chunks = encode_delta(start, local, carry, scale=0.5, codec=INT8, rules=FEEDBACK)
    torch.testing.assert_close(carry, m)
    before = carry.clone()
    settle(carry, chunks, counted=False, rules=FEEDBACK)
    assert torch.equal(carry, before)
    settle(carry, chunks, counted=True, rules=FEEDBACK)
    assert torch.equal(carry, before - decoded(chunks))
    assert 0 < carry.norm() < 0.02 * before.norm()
    carry = before.clone()
    settle(carry, chunks, counted=True, rules=RULES)
    assert not carry.any()


def test_a_delta_that_is_not_finite_is_not_sent() -> None:
    local = vector(2)
    local[CHUNK_NUMEL + 5] = float("nan")
    with pytest.raises(codecs.CodecError):
        encode_delta(vector(1), local, torch.zeros(NUMEL), scale=1.0, codec=INT8, rules=RULES)


# -- parts -------------------------------------------------------------------------------------------------


def source(delta: torch.Tensor, coefficient: float, part: Part = WHOLE) -> Source:
    _, index, chunks = contribution(delta)
    return Source(
        coefficient, [chunks[c] for c in part.chunks], [index.entries[c] for c in part.chunks], INT8
    )


def aggregate(sources: list[Source], part: Part = WHOLE, codec: str = "fp32") -> EncodedPart:
    return aggregate_part(part, sources, codec=codecs.get(codec), rules=RULES)


def values(encoded: EncodedPart, part: Part = WHOLE, codec: str = "fp32") -> torch.Tensor:
    out = torch.full((NUMEL,), 7.0)
    decode_part(part, encoded.chunks, codec=codecs.get(codec), rules=RULES, out_P=out)
    return out


def test_an_aggregate_is_the_sum_of_the_decoded_contributions() -> None:
    deltas, coefficients = [vector(seed) for seed in range(3)], [0.5, 0.3, 0.2]
    sources = [source(delta, c) for delta, c in zip(deltas, coefficients, strict=True)]
    expected = mean([decoded(contribution(delta)[2]) for delta in deltas], coefficients)
    encoded = aggregate(sources)
    assert torch.equal(values(encoded), expected)
    assert encoded.hashes == tuple(content_hash(chunk) for chunk in encoded.chunks)
    quantised = values(aggregate(sources, codec="int8"), codec="int8")
    assert (quantised - expected).norm() < 0.02 * expected.norm()


def test_parts_together_are_the_whole() -> None:
    deltas = [vector(seed) for seed in range(3)]
    whole = values(aggregate([source(delta, 0.25) for delta in deltas]))
    for part in (Part(b"a" * 32, 0, 1), Part(b"b" * 32, 1, 1)):
        out = values(aggregate([source(delta, 0.25, part) for delta in deltas], part), part)
        start, stop = part.first_chunk * CHUNK_NUMEL, min(NUMEL, (part.first_chunk + 1) * CHUNK_NUMEL)
        assert torch.equal(out[start:stop], whole[start:stop])
        assert (out[:start] == 7.0).all()
        assert (out[stop:] == 7.0).all()


def test_a_chunk_with_another_norm_than_was_signed_counts_as_zeros_and_so_does_one_that_is_no_code() -> None:
    honest, liar = source(vector(1), 0.5), source(vector(2), 0.5)
    other = [Entry(liar.entries[0].hash, liar.entries[0].norm2 * 1.000001), liar.entries[1]]
    result = values(aggregate([honest, Source(0.5, liar.chunks, other, INT8)]))
    alone = values(aggregate([honest]))
    both = values(aggregate([honest, liar]))
    assert torch.equal(result[:CHUNK_NUMEL], alone[:CHUNK_NUMEL])
    assert torch.equal(result[CHUNK_NUMEL:], both[CHUNK_NUMEL:])
    broken = bytearray(liar.chunks[1])
    broken[12:14] = b"\xff\x7f"  # the first scale is a NaN
    torn = Source(0.5, [liar.chunks[0], bytes(broken)], liar.entries, INT8)
    result = values(aggregate([honest, torn]))
    assert torch.equal(result[:CHUNK_NUMEL], both[:CHUNK_NUMEL])
    assert torch.equal(result[CHUNK_NUMEL:], alone[CHUNK_NUMEL:])


def test_what_weighs_nothing_is_not_even_decoded() -> None:
    silent = Source(0.0, [b"garbage", b""], [Entry(bytes(32), 1.0)] * 2, INT8)
    assert torch.equal(
        values(aggregate([source(vector(1), 1.0), silent])), decoded(contribution(vector(1))[2])
    )
    assert not values(aggregate([silent])).any()


@pytest.mark.parametrize("codec", ["fp16", "lloyd4"])
def test_a_sum_that_the_aggregate_codec_cannot_hold_counts_as_zeros(codec: str) -> None:
    large = torch.zeros(NUMEL)
    large[3] = 2.0**120
    large[RULES.chunk_size + 1] = 1.0
    sources = [source(large, 0.5), source(vector(2), 0.5)]
    with pytest.raises(CodecError, match="too large"):
        codecs.get(codec).encode(large)
    out = values(aggregate(sources, codec=codec), codec=codec)
    assert not out[: RULES.chunk_size].any()
    assert out[RULES.chunk_size :].any()


def test_a_sum_that_overflows_counts_as_zeros_in_both_exchanges() -> None:
    large = torch.full((NUMEL,), torch.finfo(torch.float32).max)
    sources = [source(large, 1.0, part=WHOLE), source(large, 1.0)]
    assert not values(aggregate(sources)).any()
    out = torch.ones(NUMEL)
    combine(sources, rules=RULES, out_P=out)
    assert not out.any()
