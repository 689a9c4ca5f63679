"""topk: which values are kept, what they become, and what a decoder refuses."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from dumb_topk import dumb_chunk, dumb_topk
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.compression import codec, selftest
from talkoot.compression.codec import CodecError
from talkoot.compression.slots import Layout

HEADER = 12
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)


def name_of(k: int) -> str:
    return f"topk:{k}"


def check(values_P: torch.Tensor, k: int) -> torch.Tensor:
    """The decoded values, after comparing bytes and values with the dumb codec's."""
    subject = codec.get(name_of(k))
    body, decoded = dumb_topk(values_P.tolist(), k)
    data = subject.encode(values_P)
    assert data[HEADER:] == body
    out_P = subject.decode(data, values_P.numel())
    assert out_P.tolist() == decoded
    assert subject.encode(out_P) == data
    return out_P


# What is kept


@pytest.mark.parametrize("k", SIZES)
def test_all_densities_agree_with_the_dumb_codec(k: int) -> None:
    check(torch.randn(4096 + 1000, generator=torch.Generator().manual_seed(k)), k)


@pytest.mark.parametrize("k", [8, 64, 1024])
def test_all_magnitudes_agree_with_the_dumb_codec(k: int) -> None:
    """Within a chunk, too, with denormals and zeros of both signs."""
    values_P = selftest.golden_values(2**17, seed=5)
    check(values_P[:: 2**17 // 5000].contiguous(), k)
    check(values_P[-5000:].contiguous(), k)


@examples(60)
@given(st.data())
def test_few_different_values_agree_with_the_dumb_codec(data: st.DataObject) -> None:
    """Ties, zeros, chunks with fewer values than slots, and every length of the last chunk."""
    numel = data.draw(st.integers(0, 5000))
    choices = data.draw(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
    zeros = data.draw(st.sampled_from([0.0, 0.5, 0.99, 0.999]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    drawn_P = rng.choice(np.array([*choices, -choices[0]], np.float32), numel)
    drawn_P[rng.random(numel) < zeros] = 0.0
    check(torch.from_numpy(drawn_P), data.draw(st.sampled_from(SIZES)))


def test_of_equal_magnitudes_the_lower_indices_are_kept() -> None:
    values_P = torch.ones(4096)
    values_P[::2] = -1.0
    values_P[4000:4010] = 2.0
    out_P = check(values_P, 64)
    assert out_P.nonzero().ravel().tolist() == [*range(54), *range(4000, 4010)]
    assert torch.equal(out_P[out_P != 0.0], values_P[out_P != 0.0])  # two magnitudes, two levels


def test_zeros_are_never_kept() -> None:
    values_P = torch.zeros(2 * 4096)
    values_P[[5, 4095, 4096]] = torch.tensor([3.0, -3.0, 1e-31])
    out_P = check(values_P, 64)
    assert out_P.nonzero().ravel().tolist() == [5, 4095]  # what is below 2**-100 counts as zero
    assert codec.get("topk").encode(torch.full((4096,), -0.0)) == codec.get("topk").encode(torch.zeros(4096))


@pytest.mark.parametrize(("numel", "kept"), [(1, 1), (64, 1), (65, 2), (4095, 64), (4096, 64), (4097, 65)])
def test_a_short_chunk_keeps_its_share(numel: int, kept: int) -> None:
    out_P = check(torch.linspace(1.0, 2.0, numel), 64)
    assert int(out_P.count_nonzero()) == kept


def test_the_largest_and_smallest_numbers_survive() -> None:
    top = float(torch.finfo(torch.float32).max)
    out_P = check(torch.tensor([top] * 4 + [-(2.0**-100)] + [2.0**-101] * 27), 1024)
    assert torch.isfinite(out_P).all()
    assert out_P[4] == -(2.0**-100)
    assert not out_P[5:].any()


# What the values become


@pytest.mark.parametrize("k", [64, 128])
def test_error_of_the_kept_values_is_in_its_bound(k: int) -> None:
    values_P = torch.from_numpy(np.random.default_rng(4).standard_normal(2**20).astype(np.float32))
    subject = codec.get(name_of(k))
    out_P = subject.decode(subject.encode(values_P), 2**20)
    kept_P = values_P[out_P != 0.0].double()
    error_P = out_P[out_P != 0.0].double() - kept_P
    assert float((error_P**2).sum() / (kept_P**2).sum()) <= {64: 5e-3, 128: 7e-3}[k]


@examples(60)
@given(st.lists(st.floats(2**-10, 2**10, width=32), min_size=1, max_size=40))
def test_no_split_in_two_levels_is_better(magnitudes: list[float]) -> None:
    """Against all splits in float64, but for what rounding levels to bf16 costs."""
    padded_P = torch.zeros(4096)
    padded_P[: len(magnitudes)] = torch.tensor(magnitudes)
    out_P = check(padded_P, 64).double()
    error = float(((out_P - padded_P.double()) ** 2).sum())
    ordered = np.sort(np.array(magnitudes))
    splits = [(ordered[:cut], ordered[cut:]) for cut in range(len(ordered))]
    best = min(
        sum(float(((part - part.mean()) ** 2).sum()) for part in split if len(part)) for split in splits
    )
    assert error <= best + 2**-16 * float((ordered**2).sum())


def test_64_of_4096_cost_a_sixth_of_a_bit() -> None:
    assert codec.get("topk").encoded_size(2**24) * 8 / 2**24 <= 0.17


@pytest.mark.parametrize("k", SIZES)
def test_size_is_known_from_numel(k: int) -> None:
    for numel in (0, 1, 7, 4095, 4096, 3 * 4096 + 70):
        data = codec.get(name_of(k)).encode(torch.ones(numel))
        assert len(data) == codec.get(name_of(k)).encoded_size(numel)
        share = -(-k * (numel % 4096) // 4096)
        low_bits = (4096 // k).bit_length() - 1
        rest = 4 + -(-2 * share // 8) + (2 + low_bits) * -(-share // 8) if share else 0
        assert len(data) == HEADER + numel // 4096 * (4 + k // 4 + (2 + low_bits) * k // 8) + rest


def test_numpy_without_vector_instructions_gives_the_same_bytes() -> None:
    """numpy has its own ways to sort and to partition; torch's have no part in this codec."""
    script = "from talkoot.compression import selftest; print(dict(selftest.digests()) == selftest.GOLDEN)"
    from numpy._core._multiarray_umath import __cpu_dispatch__ as dispatched  # type: ignore[import-not-found]

    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(dispatched)}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "True"


# What a decoder refuses

LAYOUT = Layout(width=4096, low_bits=6)
BITMAP = 4
SIGNS = BITMAP + LAYOUT.bitmap_bytes
UPPERS = SIGNS + LAYOUT.plane_bytes
LOWS = UPPERS + LAYOUT.plane_bytes


def sample(values: dict[int, float], numel: int = 4096) -> bytearray:
    """The encoding of `values`, by index."""
    values_P = torch.zeros(numel)
    values_P[list(values)] = torch.tensor(list(values.values()))
    return bytearray(codec.get("topk").encode(values_P))


def flip(data: bytearray, at: int, *bits: int) -> bytearray:
    """Flip bits of the field that begins at byte `at` of the body."""
    for bit in bits:
        data[HEADER + at + bit // 8] ^= 1 << bit % 8
    return data


def levels(low: int, high: int) -> bytes:
    return struct.pack("<2H", low, high)


def reason_of(data: bytearray, numel: int = 4096) -> str:
    """The reason with which all ways of reading refuse `data`."""
    subject = codec.get("topk")
    reasons = set()
    into = (subject.decode_into, subject.decode_with_norm)
    ways = [lambda d, n, way=way: way(d, torch.empty(n)) for way in into]
    for read in (subject.decode, subject.squared_norm, *ways):
        with pytest.raises(CodecError) as caught:
            read(bytes(data), numel)
        reasons.add(caught.value.reason)
    assert len(reasons) == 1
    return reasons.pop()


FULL = dict.fromkeys(range(0, 4096, 64), 1.0)
FULL[64] = 2.0


def test_a_bitmap_has_as_many_ones_as_slots() -> None:
    assert reason_of(flip(sample(FULL), BITMAP, 0)) == "position"  # one less
    assert reason_of(flip(sample(FULL), BITMAP, 1)) == "position"  # one more
    two = sample({0: 1.0}, 8192)
    record = LAYOUT.size
    moved = flip(flip(two, BITMAP, 0), record + BITMAP, 0)  # one less, and one more in the next chunk
    assert reason_of(moved, 8192) == "position"
    assert reason_of(flip(flip(sample({4096: 1.0}, 8192), BITMAP, 0), record + BITMAP, 0), 8192) == "position"


def test_positions_increase() -> None:
    data = sample({0: 1.0, 1: 1.0})
    assert reason_of(flip(data, LOWS, 1)) == "position"  # 0, 0
    assert reason_of(flip(data, LOWS, 0)) == "position"  # 1, 0


def test_positions_are_in_their_chunk() -> None:
    data = sample({99: 1.0}, 100)
    layout = Layout(width=100, low_bits=6)
    assert (layout.slots, layout.bitmap_bytes, layout.plane_bytes) == (2, 1, 1)
    assert reason_of(flip(data, 4 + 1 + 2 + 2, 0), 100) == "position"  # 99 = 64 + 35, now 64 + 39
    data = sample({99: 1.0}, 100)
    data[HEADER + 4] = 0b10001  # the bitmap's padding
    assert reason_of(data, 100) == "position"


def test_empty_slots_are_zero() -> None:
    for plane in range(8):
        assert reason_of(flip(sample({7: 1.0, 9: -1.0}), SIGNS + 8 * plane, 2)) == "code"
    for plane in range(8):  # a plane of two slots has six bits of padding
        assert reason_of(flip(sample({7: 1.0, 70: -1.0}, 100), 4 + 1 + plane, 2), 100) == "code"


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 0),
        (0, 0x3F80),
        (0x3F80, 0),
        (0x4000, 0x3F80),
        (0x3F80, 0x7F80),
        (0x3F80, 0x7FC0),
        (0xBF80, 0x3F80),
        (0x8000, 0x3F80),
        (0x3F80, 0xFFFF),
        ((27 << 7) - 1, 0x3F80),
        (0x0001, 0x3F80),
    ],
)
def test_levels_are_positive_finite_and_in_order(low: int, high: int) -> None:
    data = sample({1: 1.0, 2: 2.0})
    data[HEADER : HEADER + 4] = levels(low, high)
    assert reason_of(data) == "scale"


def test_levels_of_nothing_are_zero() -> None:
    data = sample({})
    data[HEADER : HEADER + 4] = levels(0x3F80, 0x3F80)
    assert reason_of(data) == "scale"


def test_levels_differ_if_and_only_if_both_are_used() -> None:
    data = sample({1: 1.0, 2: 2.0})
    assert reason_of(flip(data.copy(), UPPERS, 0)) == "code"  # all upper
    assert reason_of(flip(data.copy(), UPPERS, 1)) == "code"  # all lower
    data[HEADER : HEADER + 4] = levels(0x3F80, 0x3F80)
    assert reason_of(data) == "code"


@examples(200)
@given(st.data())
def test_what_decodes_is_what_an_encoder_writes(data: st.DataObject) -> None:
    """A few bits of an encoding changed: it is refused, or it is the one encoding of other values."""
    numel = data.draw(st.sampled_from([4096, 4096 + 100, 300, 64]))
    k = data.draw(st.sampled_from([8, 64, 1024]))
    subject = codec.get(name_of(k))
    count = data.draw(st.integers(0, 100))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values_P = torch.zeros(numel)
    values_P[torch.from_numpy(rng.integers(0, numel, count))] = torch.from_numpy(
        rng.choice(np.array([-2.0, 1.0, 1.5, 2.0], np.float32), count)
    )
    encoded = bytearray(subject.encode(values_P))
    for bit in data.draw(st.lists(st.integers(0, 8 * (len(encoded) - HEADER) - 1), max_size=3)):
        flip(encoded, 0, bit)
    try:
        out_P = subject.decode(encoded, numel)
    except CodecError:
        with pytest.raises(CodecError):
            subject.squared_norm(encoded, numel)
        return
    assert subject.encode(out_P) == encoded
    assert subject.squared_norm(encoded, numel) == float((out_P.double() ** 2).sum())
    assert torch.isfinite(out_P).all()


def test_a_chunk_needs_no_more_than_its_share() -> None:
    """A dumb chunk and its codec agree on the smallest one."""
    assert dumb_chunk([0.0], 64) == (bytes(4) + bytes([0b10]) + bytes(8), [0.0])
    assert codec.get("topk").encode(torch.zeros(1))[HEADER:] == bytes(4) + bytes([0b10]) + bytes(8)


@pytest.mark.parametrize("name", ["topk:", "topk:0", "topk:4", "topk:63", "topk:2048", "topk:-64"])
def test_unknown_densities_are_refused(name: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec.get(name)
    assert caught.value.reason == "unknown_codec"


def test_topk_64_is_topk() -> None:
    assert codec.get("topk:64").name == "topk"
    assert codec.get("topk:128").name == "topk:128"
