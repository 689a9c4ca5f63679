"""Decoders meet bytes from strangers: whatever these are, the answer is a tensor or a CodecError."""

import struct

import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.compression import codec
from talkoot.compression.codec import CodecError

FLOATS = ("fp32", "fp16", "bf16")
NAMES = (
    *FLOATS,
    *("int8", "int8:32", "int8:4096", "int4", "int4:32"),
    *("sign", "sign:32", "lloyd2", "lloyd4", "topk", "topk:8"),
)
HEADER = 12


def sample(name: str, numel: int) -> bytes:
    return codec.get(name).encode(torch.linspace(-3.0, 2.0, numel))


def with_body(name: str, numel: int, offset: int, patch: bytes) -> bytes:
    """A valid encoding with `patch` written at `offset` of the body."""
    data = bytearray(sample(name, numel))
    data[HEADER + offset : HEADER + offset + len(patch)] = patch
    return bytes(data)


def reason_of(name: str, data: bytes, numel: int) -> str:
    """The reason with which all ways of reading refuse `data`."""
    subject = codec.get(name)
    reasons = set()
    into = (subject.decode_into, subject.decode_with_norm)
    ways = [lambda d, n, way=way: way(d, torch.empty(n)) for way in into]
    for read in (subject.decode, subject.squared_norm, *ways):
        with pytest.raises(CodecError) as caught:
            read(data, numel)
        reasons.add(caught.value.reason)
    assert len(reasons) == 1
    return reasons.pop()


@examples(100)
@given(name=st.sampled_from(NAMES), data=st.binary(max_size=600), numel=st.integers(0, 300))
def test_arbitrary_bytes_raise_nothing_but_codec_error(name: str, data: bytes, numel: int) -> None:
    with pytest.raises(CodecError):
        codec.get(name).decode(data, numel)


@examples(100)
@given(st.data())
def test_arbitrary_bodies_decode_to_finite_numbers_or_raise_codec_error(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    numel = data.draw(st.integers(0, 90))
    subject = codec.get(name)
    size = subject.encoded_size(numel) - HEADER
    body = data.draw(st.binary(min_size=size, max_size=size))
    if name.startswith("lloyd"):
        body = bytes(8) + body[8:]  # the right seed
    encoded = sample(name, numel)[:HEADER] + body
    try:
        values_P = subject.decode(encoded, numel)
    except CodecError:
        reason_of(name, encoded, numel)
        return
    assert torch.isfinite(values_P).all()
    assert not torch.signbit(values_P[values_P == 0.0]).any()
    assert subject.squared_norm(encoded, numel) >= 0.0
    if name in FLOATS or name.startswith("topk"):  # one vector, one string of bytes
        assert subject.encode(values_P) == encoded


@examples(100)
@given(name=st.sampled_from(NAMES), at=st.integers(0, HEADER - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_header_is_refused(name: str, at: int, bit: int) -> None:
    data = bytearray(sample(name, 70))
    data[at] ^= 1 << bit
    assert reason_of(name, bytes(data), 70) == "header"


@pytest.mark.parametrize("name", NAMES)
def test_one_byte_more_or_less_is_refused(name: str) -> None:
    data = sample(name, 70)
    for wrong in (data[:-1], data + b"\0", b"", data[:HEADER], data[: HEADER - 1]):
        assert reason_of(name, wrong, 70) == "length"


@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_elements_is_refused(name: str) -> None:
    same_size = codec.get(name).encoded_size(70) == codec.get(name).encoded_size(71)
    assert reason_of(name, sample(name, 70), 71) == ("header" if same_size else "length")
    assert reason_of(name, sample(name, 70), 70 + 8192) == "length"
    with pytest.raises(CodecError):
        codec.get(name).decode(sample(name, 70), 2**60)  # and nothing of that size is allocated


def test_encodings_of_other_codecs_are_refused() -> None:
    assert reason_of("fp16", sample("bf16", 70), 70) == "header"
    assert reason_of("int8:128", sample("int8", 70), 70) == "header"
    assert reason_of("int4:32", sample("int4", 30), 30) == "header"


@pytest.mark.parametrize("name", ["int8:32", "int4:32", "sign:32"])
@pytest.mark.parametrize(
    "bits",
    [0x8000, 0xBF80, 0x7F80, 0x7FC0, 0xFFFF, 0x0001, (27 << 7) - 1],
    ids=["-0", "negative", "infinite", "nan", "-nan", "denormal", "below the floor"],
)
def test_scales_that_no_encoder_writes_are_refused(name: str, bits: int) -> None:
    for block in (0, 1):
        data = with_body(name, 50, 2 * block, struct.pack("<H", bits))
        assert reason_of(name, data, 50) == "scale"


@pytest.mark.parametrize(
    ("name", "largest"), [("int8:32", (248 << 7) | 1), ("int4:32", (252 << 7) | 18), ("sign:32", 0x7F7F)]
)
def test_the_largest_float_has_the_largest_scale(name: str, largest: int) -> None:
    data = codec.get(name).encode(torch.full((50,), torch.finfo(torch.float32).max))
    assert struct.unpack_from("<HH", data, HEADER) == (largest, largest)
    assert torch.isfinite(codec.get(name).decode(data, 50)).all()
    data = with_body(name, 50, 2, struct.pack("<H", largest + 1))
    assert reason_of(name, data, 50) == "scale"


def test_int8_refuses_codes_that_no_encoder_writes() -> None:
    assert reason_of("int8", with_body("int8", 300, 4 + 299, b"\x80"), 300) == "code"
    assert reason_of("int8", with_body("int8", 300, 2, b"\0\0"), 300) == "code"  # scale 0, codes not


def test_int4_refuses_codes_that_no_encoder_writes() -> None:
    for at in (4, 4 + 49):
        for pair in (0x08, 0x80, 0x88, 0x18, 0x81):
            assert reason_of("int4", with_body("int4", 100, at, bytes([pair])), 100) == "code"
    assert reason_of("int4", with_body("int4", 100, 2, b"\0\0"), 100) == "code"  # scale 0, codes not
    assert reason_of("int4", with_body("int4", 99, 4 + 49, b"\x11"), 99) == "code"  # one code too many


def test_sign_refuses_bits_that_no_encoder_writes() -> None:
    assert reason_of("sign:32", with_body("sign:32", 50, 0, b"\0\0"), 50) == "code"  # scale 0, signs not
    for bit in range(2, 8):  # 50 signs end after the second bit
        assert reason_of("sign:32", with_body("sign:32", 50, 4 + 6, bytes([1 << bit])), 50) == "code"


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("fp32", (0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001)),
        ("fp16", (0x7C00, 0xFC00, 0x7E00, 0xFFFF, 0x7C01)),
        ("bf16", (0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81)),
    ],
)
def test_floats_refuse_what_is_not_finite(name: str, patterns: tuple[int, ...]) -> None:
    form = "<I" if name == "fp32" else "<H"
    for pattern in patterns:
        data = with_body(name, 9, 3 * struct.calcsize(form), struct.pack(form, pattern))
        assert reason_of(name, data, 9) == "not_finite"


@pytest.mark.parametrize(
    ("name", "zero"), [("fp32", b"\0\0\0\x80"), ("fp16", b"\0\x80"), ("bf16", b"\0\x80")]
)
def test_floats_refuse_the_negative_zero(name: str, zero: bytes) -> None:
    assert reason_of(name, with_body(name, 9, 0, zero), 9) == "negative_zero"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("index", [0, 31, 300, 2**18 + 7])
def test_encoding_names_the_first_value_that_is_not_finite(name: str, bad: float, index: int) -> None:
    values_P = torch.ones(2**18 + 100)
    values_P[index] = bad
    values_P[-1] = float("nan")
    with pytest.raises(CodecError, match=rf"index {index} ") as caught:
        codec.get(name).encode(values_P)
    assert caught.value.reason == "not_finite"


@pytest.mark.parametrize(
    ("name", "fits", "too_large"), [("fp16", 65519.99, 65520.0), ("bf16", 3.3961774e38, 3.3961776e38)]
)
def test_values_that_would_round_to_infinity_are_refused(name: str, fits: float, too_large: float) -> None:
    subject = codec.get(name)
    assert torch.isfinite(subject.decode(subject.encode(torch.tensor([fits, -fits])), 2)).all()
    for value in (too_large, -too_large):
        with pytest.raises(CodecError, match="index 1 ") as caught:
            subject.encode(torch.tensor([0.0, value]))
        assert caught.value.reason == "too_large"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "int9",
        "int8:",
        "int8:0",
        "int8:31",
        "int8:33",
        "int8:8192",
        "int8:-32",
        "int8:²",
        "int4:",
        "int4:16",
        "int4:128",
        "sign:16",
        "sign:8192",
        "sign:100",
        "fp32:1",
        "FP32",
    ],
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec.get(name)
    assert caught.value.reason == "unknown_codec"


def test_int8_256_is_int8() -> None:
    assert codec.get("int8:256").name == "int8"
    assert codec.get("int8:128").name == "int8:128"
    assert codec.get("int4:64").name == "int4"
    assert codec.get("sign:1024").name == "sign"


def test_a_seed_has_64_bits() -> None:
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="64 bits"):
            codec.get("int8", seed)


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(4, dtype=torch.float64), torch.zeros(2, 2), torch.zeros(8)[::2]],
    ids=["type", "2-D", "gaps"],
)
def test_other_tensors_are_the_callers_mistake(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="contiguous 1-D float32"):
        codec.get("int8").encode(wrong)


def test_a_short_buffer_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="are needed"):
        codec.get("int8").encode_into(torch.zeros(8), bytearray(21))
