"""lloyd2 and lloyd4: the rotation is exact, the levels are near the optimum, the seed is shared."""

import struct

import numpy as np
import pytest
import torch
from dumb_lloyd import dumb_lloyd, hadamard, permuted
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.compression import codec
from talkoot.compression.base import PIECE
from talkoot.compression.codec import CodecError
from talkoot.compression.rotation import WIDTH, random_signs, rotate, unrotate
from talkoot.compression.selftest import golden_values

HEADER = 12
SEED = 2**64 - 3
NAMES = ("lloyd2", "lloyd4")


def bits_of(name: str) -> int:
    return int(name[-1])


def nmse(name: str, values_P: torch.Tensor) -> float:
    subject = codec.get(name, SEED)
    out_P = subject.decode(subject.encode(values_P), values_P.numel()).double()
    return float(((out_P - values_P.double()) ** 2).sum() / (values_P.double() ** 2).sum())


def reason_of(name: str, data: bytes, numel: int, seed: int = SEED) -> str:
    """The reason with which all ways of reading refuse `data`."""
    subject = codec.get(name, seed)
    reasons = set()
    into = (subject.decode_into, subject.decode_with_norm)
    ways = [lambda d, n, way=way: way(d, torch.empty(n)) for way in into]
    for read in (subject.decode, subject.squared_norm, *ways):
        with pytest.raises(CodecError) as caught:
            read(data, numel)
        reasons.add(caught.value.reason)
    assert len(reasons) == 1
    return reasons.pop()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, SEED])
def test_seeds_and_magnitudes_agree_with_the_dumb_reference(name: str, seed: int) -> None:
    values_P = golden_values(3 * WIDTH + 1366, seed=5)
    body, decoded = dumb_lloyd(values_P.tolist(), bits_of(name), seed)
    subject = codec.get(name, seed)
    data = subject.encode(values_P)
    assert data[HEADER:] == body
    assert subject.decode(data, len(decoded)).tolist() == decoded


@pytest.mark.parametrize("width", [1, 2, 4, 8, 512, 4096])
def test_the_rotation_is_a_hadamard_matrix_and_its_transpose_undoes_it(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    values_NB = torch.randint(-(2**12), 2**12 + 1, (3, width), generator=generator).float()
    rotated_NB = rotate(values_NB.clone(), torch.empty_like(values_NB))[0].clone()
    for row, rotated in zip(values_NB.tolist(), rotated_NB.tolist(), strict=True):
        assert rotated == permuted(hadamard([int(value) for value in row]))
    back_NB, _ = unrotate((rotated_NB / width).clone(), torch.empty_like(values_NB))
    assert torch.equal(back_NB, values_NB)


def test_the_largest_integers_stay_exact() -> None:
    values_NB = torch.full((1, WIDTH), 2.0**12)
    values_NB[0, 1] = 2.0**12 - 1
    rotated_NB, _ = rotate(values_NB, torch.empty_like(values_NB))
    assert float(rotated_NB.max()) == 2.0**24 - 1


def test_signs_are_balanced_and_belong_to_the_seed() -> None:
    assert random_signs(7)[:16].tolist() == random_signs(7)[:16].tolist()
    first, second = random_signs(7), random_signs(8)
    assert set(first.tolist()) == {1.0, -1.0}
    for mean in (first.mean(), second.mean(), (first * second).mean()):
        assert abs(float(mean)) < 4 / WIDTH**0.5


@pytest.mark.parametrize(
    ("name", "bounds", "bits"),
    [
        ("lloyd4", {"gauss": 9.8e-3, "laplace": 9.8e-3, "t4": 1.0e-2}, 4.02),
        ("lloyd2", {"gauss": 0.120, "laplace": 0.120, "t4": 0.121}, 2.02),
    ],
)
def test_error_and_size_are_in_their_bounds(name: str, bounds: dict[str, float], bits: float) -> None:
    rng = np.random.default_rng(6)
    draws = {"gauss": rng.standard_normal(2**20), "laplace": rng.laplace(size=2**20)}
    draws["t4"] = rng.standard_t(4, 2**20)
    for distribution, bound in bounds.items():
        assert nmse(name, torch.from_numpy(draws[distribution].astype(np.float32))) <= bound, distribution
    assert codec.get(name).encoded_size(2**18) * 8 / 2**18 <= bits


def test_one_outlier_is_spread_over_its_block() -> None:
    """The hardest vector for a quantiser with one scale has all its energy in one value."""
    values_P = torch.zeros(WIDTH)
    values_P[1234] = -5.0
    assert nmse("lloyd4", values_P) <= 1e-4
    assert nmse("lloyd2", values_P) <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_values_of_one_block_do_not_touch_the_next(name: str) -> None:
    values_P = torch.randn(3 * WIDTH, generator=torch.Generator().manual_seed(8))
    subject = codec.get(name, SEED)
    before_P = subject.decode(subject.encode(values_P), len(values_P))
    values_P[WIDTH : 2 * WIDTH] *= 1000.0
    after_P = subject.decode(subject.encode(values_P), len(values_P))
    assert torch.equal(before_P[:WIDTH], after_P[:WIDTH])
    assert torch.equal(before_P[2 * WIDTH :], after_P[2 * WIDTH :])
    assert not torch.equal(before_P, after_P)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_values_below_the_floor_decode_to_zeros(name: str) -> None:
    for value in (0.0, -0.0, 1e-42, -1e-33):
        data = codec.get(name).encode(torch.full((5000,), value))
        assert not any(data[HEADER:])  # seed 0, scales and codes zero
        out_P = codec.get(name).decode(data, 5000)
        assert out_P.view(torch.int32).tolist() == [0] * 5000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("index", [0, 4500, PIECE + 9])
def test_large_values_are_refused_by_index(name: str, index: int) -> None:
    values_P = torch.zeros(PIECE + 10)
    values_P[index] = -(2.0**100)
    values_P[-1] = 2.0**110
    with pytest.raises(CodecError, match=rf"index {index} ") as caught:
        codec.get(name).encode(values_P)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("numel", [1, 7, WIDTH, WIDTH + 3])
def test_the_largest_values_decode_to_finite_ones(name: str, numel: int) -> None:
    values_P = torch.full((numel,), float(np.nextafter(np.float32(2.0**100), np.float32(0.0))))
    assert nmse(name, values_P / 2.0**60) < 0.3
    out_P = codec.get(name).decode(codec.get(name).encode(values_P), numel)
    assert torch.isfinite(out_P).all()


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_another_seed_are_refused(name: str) -> None:
    data = codec.get(name, SEED).encode(torch.linspace(-1.0, 2.0, 100))
    assert reason_of(name, data, 100, seed=0) == "seed"
    assert reason_of(name, data, 100, seed=SEED - 1) == "seed"
    for numel in (0, 1):
        empty = codec.get(name, SEED).encode(torch.ones(numel))
        assert reason_of(name, empty, numel, seed=0) == "seed"
        assert codec.get(name, SEED).decode(empty, numel).numel() == numel


def test_the_seed_is_in_the_body_and_changes_the_codes() -> None:
    values_P = torch.randn(WIDTH, generator=torch.Generator().manual_seed(9))
    first, second = (codec.get("lloyd4", seed).encode(values_P) for seed in (5, 6))
    assert (first[HEADER : HEADER + 8], second[HEADER : HEADER + 8]) == (
        struct.pack("<Q", 5),
        struct.pack("<Q", 6),
    )
    assert first[HEADER + 10 :] != second[HEADER + 10 :]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "bits", [0x8000, 0xBF80, 0x7F80, 0x7FC0, 0xFFFF, 0x0001, (27 << 7) - 1, (223 << 7) + 1]
)
def test_scales_that_no_encoder_writes_are_refused(name: str, bits: int) -> None:
    for block in (0, 1, 2):  # 4096 values, 2, and 1
        data = bytearray(codec.get(name, SEED).encode(torch.linspace(-3.0, 2.0, WIDTH + 3)))
        struct.pack_into("<H", data, HEADER + 8 + 2 * block, bits)
        assert reason_of(name, bytes(data), WIDTH + 3) == "scale"


@pytest.mark.parametrize("name", NAMES)
def test_codes_in_zero_blocks_and_unused_bits_are_refused(name: str) -> None:
    numel = WIDTH + 3
    good = codec.get(name, SEED).encode(torch.linspace(-3.0, 2.0, numel))
    for block in (0, 1, 2):
        data = bytearray(good)
        struct.pack_into("<H", data, HEADER + 8 + 2 * block, 0)
        data[-1] |= 0xFF >> (8 - numel * bits_of(name) % 8)  # codes that are not zero at the end
        assert reason_of(name, bytes(data), numel) == "code"
    for bit in range(numel * bits_of(name) % 8, 8):
        data = bytearray(good)
        data[-1] |= 1 << bit
        assert reason_of(name, bytes(data), numel) == "code"


@pytest.mark.parametrize("name", NAMES)
def test_the_hardest_codes_and_scales_decode_to_finite_numbers(name: str) -> None:
    data = bytearray(codec.get(name).encode(torch.zeros(WIDTH)))
    data[HEADER + 10 :] = b"\xff" * (len(data) - HEADER - 10)
    struct.pack_into("<H", data, HEADER + 8, 223 << 7)
    assert torch.isfinite(codec.get(name).decode(data, WIDTH)).all()
    assert codec.get(name).squared_norm(data, WIDTH) < float("inf")


@examples(60)
@given(st.data())
def test_any_vector_decodes_to_one_that_is_no_longer(data: st.DataObject) -> None:
    """Least squares projects: what is lost and what is kept are at right angles."""
    name = data.draw(st.sampled_from(NAMES))
    numbers = st.floats(-(2.0**99), 2.0**99, width=32)
    values_P = torch.tensor(data.draw(st.lists(numbers, min_size=1, max_size=70)), dtype=torch.float32)
    subject = codec.get(name, data.draw(st.integers(0, 2**64 - 1)))
    out_P = subject.decode(subject.encode(values_P), len(values_P)).double()
    assert float(out_P.norm()) <= float(values_P.double().norm()) * 1.01 + 1e-30
    assert float((out_P - values_P.double()).norm()) <= float(values_P.double().norm()) * 1.01


@pytest.mark.parametrize("name", ["lloyd3", "lloyd", "lloyd4:64", "lloyd2:0"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec.get(name)
    assert caught.value.reason == "unknown_codec"
