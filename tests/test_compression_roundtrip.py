"""Each codec against a deliberately dumb one: one value at a time, in exact Python arithmetic."""

import math
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from dumb_lloyd import dumb_lloyd
from dumb_topk import dumb_topk

from talkoot.compression import codec
from talkoot.compression.base import PIECE
from talkoot.compression.selftest import golden_values

NAMES = (
    *("fp32", "fp16", "bf16", "int8", "int8:32", "int8:4096"),
    *("int4", "int4:32", "sign", "sign:32", "sign:4096", "lloyd2", "lloyd4", "topk", "topk:8", "topk:1024"),
)
BLOCKS = {"int8": 256, "int4": 64, "sign": 1024}
LENGTHS = (0, 1, 2, 31, 255, 256, 257, 4095, 4096, 5000)


def f32(value: float) -> float:
    """`value` rounded to float32 once; exact for quotients and products of two of them taken in float64."""
    return float(np.float32(value))


def round_to_bf16(value: float) -> float:
    """The nearest bfloat16 of a normal positive value, ties to the even one."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(fraction * 256), exponent - 8)


def dumb_absmax(values: list[float], block: int, levels: int) -> tuple[list[float], list[int]]:
    """Scales and codes."""
    scales, codes = [], []
    for start in range(0, len(values), block):
        chunk = values[start : start + block]
        quotient = f32(max(map(abs, chunk)) / levels)
        scale = round_to_bf16(quotient) if quotient >= 2.0**-126 else 0.0
        scale = scale if scale >= 2.0**-100 else 0.0
        inverse = f32(1.0 / scale) if scale else 0.0
        scales.append(scale)
        codes += [round(f32(value * inverse)) for value in chunk]
    return scales, codes


def dumb_sign(values: list[float], block: int) -> tuple[list[float], list[int]]:
    """Scales and 1 for each negative value."""
    scales, negatives = [], []
    for start in range(0, len(values), block):
        chunk = values[start : start + block]
        exponent = max(-100, math.frexp(max(map(abs, chunk)))[1] - 1)
        unit = 2.0 ** (exponent + 1 - (24 - (block.bit_length() - 1)))
        mean = sum(round(abs(value) / unit) for value in chunk) / len(chunk) * unit
        scale = round_to_bf16(f32(mean)) if mean >= 2.0**-126 else 0.0
        scale = scale if scale >= 2.0**-100 else 0.0
        scales.append(scale)
        negatives += [int(value < 0.0 < scale) for value in chunk]
    return scales, negatives


def dumb_blocks(name: str, values: list[float]) -> tuple[bytes, list[float]]:
    """Body and decoded values."""
    kind, _, number = name.partition(":")
    block = int(number or BLOCKS[kind])
    if kind == "sign":
        scales, codes = dumb_sign(values, block)
        octets = [codes[at : at + 8] for at in range(0, len(codes), 8)]
        packed = [sum(bit << i for i, bit in enumerate(octet)) for octet in octets]
        codes = [1 - 2 * bit for bit in codes]
    elif kind == "int4":
        scales, codes = dumb_absmax(values, block, 7)
        nibbles = [*(code & 15 for code in codes), 0]
        packed = [low | high << 4 for low, high in zip(nibbles[:-1:2], nibbles[1::2], strict=False)]
    else:
        scales, codes = dumb_absmax(values, block, 127)
        packed = [code & 255 for code in codes]
    decoded = [scales[i // block] * code for i, code in enumerate(codes)]
    return b"".join(struct.pack("<f", scale)[2:] for scale in scales) + bytes(packed), decoded


def dumb_encoding(name: str, values: list[float]) -> tuple[bytes, list[float]]:
    """Body and decoded values."""
    if name.partition(":")[0] in BLOCKS:
        return dumb_blocks(name, values)
    if name.startswith("lloyd"):
        return dumb_lloyd(values, int(name[-1]), 0)
    if name.startswith("topk"):
        return dumb_topk(values, int(name.partition(":")[2] or 64))
    if name == "bf16":
        values = [math.copysign(round_to_bf16(abs(v)), v) if v else 0.0 for v in values]
        return b"".join(struct.pack("<f", v + 0.0)[2:] for v in values), values
    form = "<e" if name == "fp16" else "<f"
    packed = [struct.pack(form, v) for v in values]
    decoded = [struct.unpack(form, p)[0] + 0.0 for p in packed]
    return b"".join(struct.pack(form, v) for v in decoded), decoded


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("numel", LENGTHS)
def test_encoding_is_that_of_the_dumb_reference(name: str, numel: int) -> None:
    subject = codec.get(name)
    values_P = torch.randn(numel, generator=torch.Generator().manual_seed(numel)) * 3e-3
    values_P[::7] = -0.0
    body, decoded = dumb_encoding(name, values_P.tolist())
    data = subject.encode(values_P)
    assert data[12:] == body
    assert data[:12] == struct.pack("<2sBBQ", b"tc", subject.wire_id, subject.parameter, numel)
    out_P = subject.decode(data, numel)
    assert out_P.tolist() == decoded
    assert not torch.signbit(out_P[out_P == 0.0]).any()


@pytest.mark.parametrize("name", ["int8:32", "int8:256", "int4", "int4:32", "sign:32", "sign", "sign:4096"])
def test_blocks_agree_with_the_reference_at_all_magnitudes(name: str) -> None:
    values_P = golden_values(20_000, seed=5)
    body, _ = dumb_encoding(name, values_P.tolist())
    assert codec.get(name).encode(values_P)[12:] == body


@pytest.mark.parametrize("name", NAMES)
def test_squared_norm_is_the_exact_one_of_the_decoded_values(name: str) -> None:
    subject = codec.get(name)
    values_P = torch.randn(9_999, generator=torch.Generator().manual_seed(1))
    data = subject.encode(values_P)
    exact = math.fsum(value * value for value in subject.decode(data, 9_999).tolist())
    assert subject.squared_norm(data, 9_999) == pytest.approx(exact, rel=1e-15)
    out_P = torch.full((9_999,), 7.0)
    assert subject.decode_with_norm(data, out_P) == subject.squared_norm(data, 9_999)
    assert torch.equal(out_P, subject.decode(data, 9_999))
    if name.startswith((*BLOCKS, "topk")):
        assert subject.squared_norm(data, 9_999) == exact


@pytest.mark.parametrize("name", NAMES)
def test_pieces_do_not_show(name: str) -> None:
    """A vector of several pieces encodes to what its blocks encode to one by one."""
    subject = codec.get(name)
    numel = PIECE + 8192 + 5
    values_P = torch.randn(numel, generator=torch.Generator().manual_seed(2))
    out_P = torch.empty(numel)
    data = subject.encode(values_P)
    assert subject.decode_with_norm(data, out_P) == subject.squared_norm(data, numel)
    for start in (0, PIECE - 4096, PIECE, PIECE + 8192):
        part_P = values_P[start : start + 4096].clone()
        part = subject.decode(subject.encode(part_P), part_P.numel())
        assert torch.equal(out_P[start : start + 4096], part)


@pytest.mark.parametrize("name", NAMES)
def test_into_variants_write_the_same_to_any_address(name: str) -> None:
    subject = codec.get(name)
    values_P = torch.randn(1_000, generator=torch.Generator().manual_seed(3))
    data = subject.encode(values_P)
    for offset in (0, 1, 3):
        buffer = bytearray(offset + len(data) + 2)
        assert subject.encode_into(values_P, memoryview(buffer)[offset:]) == len(data)
        assert bytes(buffer) == bytes(offset) + data + bytes(2)
        view = memoryview(bytes(buffer))[offset : offset + len(data)]
        assert torch.equal(subject.decode(view, 1_000), subject.decode(data, 1_000))
        assert subject.squared_norm(view, 1_000) == subject.squared_norm(data, 1_000)


@pytest.mark.parametrize("name", NAMES)
def test_decoding_is_idempotent(name: str) -> None:
    """What was decoded encodes to the same values again, so that a forwarded aggregate does not drift."""
    subject = codec.get(name)
    once_P = subject.decode(subject.encode(golden_values(10_000, seed=7).clamp(-6e4, 6e4)), 10_000)
    assert torch.equal(subject.decode(subject.encode(once_P), 10_000), once_P)


@pytest.mark.parametrize(
    ("name", "distribution", "bound"),
    [
        ("int8", "gauss", 5.0e-5),
        ("int8", "t4", 2e-4),
        ("int4", "gauss", 1.3e-2),
        ("int4", "t4", 2.7e-2),
        ("sign", "gauss", 0.364),
        ("sign", "t4", 0.51),
        ("bf16", "gauss", 3e-6),
        ("fp16", "gauss", 5e-8),
    ],
)
def test_mean_squared_error_is_in_its_bound(name: str, distribution: str, bound: float) -> None:
    rng = np.random.default_rng(4)
    draw = rng.standard_normal(2**20) if distribution == "gauss" else rng.standard_t(4, 2**20)
    values_P = torch.from_numpy(draw.astype(np.float32))
    subject = codec.get(name)
    error_P = subject.decode(subject.encode(values_P), 2**20).double() - values_P.double()
    assert float((error_P**2).sum() / (values_P.double() ** 2).sum()) <= bound


@pytest.mark.parametrize(("name", "bits"), [("int8", 8.07), ("int4", 4.26), ("sign", 1.02)])
def test_bits_per_value_are_in_their_bound(name: str, bits: float) -> None:
    assert codec.get(name).encoded_size(2**18) * 8 / 2**18 <= bits


@pytest.mark.parametrize("name", ["int8:32", "int4:32", "sign:32"])
def test_blocks_keep_the_largest_and_drop_the_smallest_numbers(name: str) -> None:
    top = float(torch.finfo(torch.float32).max)
    subject = codec.get(name)
    values_P = torch.zeros(96)
    values_P[:32] = top
    values_P[32:64] = 1e-31 if name != "sign:32" else -5e-31
    values_P[64:] = -1e-42
    out_P = subject.decode(subject.encode(values_P), 96)
    assert torch.isfinite(out_P).all()
    assert float(out_P[0]) == pytest.approx(top, rel=0.005)
    assert out_P[32:].tolist() == [0.0] * 64


def test_every_absmax_in_an_octave_gives_the_code_127() -> None:
    """However the scale was rounded: codes stay in -127..127 and no level is wasted."""
    bits_N = torch.arange(0, 2**23, 61, dtype=torch.int32) + (127 << 23)
    values_P = torch.zeros(len(bits_N), 32)
    values_P[:, 0] = bits_N.view(torch.float32)
    values_P[:, 1] = -values_P[:, 0]
    data = codec.get("int8:32").encode(values_P.view(-1))
    codes_P = torch.frombuffer(bytearray(data[12 + 2 * len(bits_N) :]), dtype=torch.int8).view(-1, 32)
    assert set(codes_P[:, 0].tolist()) == {127}
    assert set(codes_P[:, 1].tolist()) == {-127}


def test_bf16_rounds_ties_to_even_and_keeps_denormals() -> None:
    patterns = [0x3F808000, 0x3F818000, 0x3F808001, 0x00008000, 0x00018000, 0x00000001]
    values_P = torch.tensor(patterns, dtype=torch.int32).view(torch.float32)
    data = codec.get("bf16").encode(values_P)
    assert struct.unpack("<6H", data[12:]) == (0x3F80, 0x3F82, 0x3F81, 0x0000, 0x0002, 0x0000)


MEASURE_MEMORY = """
import resource, sys, torch
from talkoot.compression import codec

subject, numel = codec.get(sys.argv[1]), 2**24
values_P = torch.zeros(numel).normal_()
out_P = torch.zeros(numel)
subject.decode_into(subject.encode(values_P[: 2**19]), out_P[: 2**19])  # what a first call loads
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
data = subject.encode(values_P)
subject.decode_into(data, out_P)
subject.squared_norm(data, numel)
print((peak() - before - len(data)) / (4 * numel))
"""


@pytest.mark.parametrize("name", ["int8", "fp32", "int4", "sign", "lloyd2", "lloyd4", "topk"])
def test_extra_memory_is_a_small_part_of_the_vector(name: str) -> None:
    """Beyond the vector and its encoding, whose copy in `bytes` is the only one."""
    command = [sys.executable, "-c", MEASURE_MEMORY, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) <= 0.10
    print(f"{name}: {done.stdout.strip()} of the vector")
