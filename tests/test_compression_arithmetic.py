"""The same bits on every machine: golden digests, threads, vector widths, and exact references."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from talkoot.compression import arithmetic, codec, selftest

GOLDEN = Path(__file__).parent / "testdata" / "compression_golden.json"
WIDTHS = {"DEFAULT": 1, "AVX2": 2, "AVX512": 3}

PRINT_DIGESTS = """
import json, torch
from talkoot.compression import selftest
found = []
for threads in (1, 2, 4):
    torch.set_num_threads(threads)
    found.append(dict(selftest.digests()))
print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "found": found}))
"""


@pytest.mark.parametrize(
    "capability", ["default", "avx2", "avx512"][: WIDTHS[torch.backends.cpu.get_cpu_capability()]]
)
def test_digests_do_not_depend_on_threads_or_vector_width(capability: str) -> None:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", PRINT_DIGESTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    result = json.loads(done.stdout)
    assert result["capability"] == capability.upper()
    assert result["found"] == [selftest.GOLDEN] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_digests_of_a_gpu_are_those_of_a_cpu() -> None:
    selftest.run("cuda")


def test_self_test_passes_here_and_names_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    arithmetic.self_test()
    monkeypatch.setitem(selftest.GOLDEN, "int8 decode", "0" * 16)
    with pytest.raises(ArithmeticError, match="int8 decode differently"):
        arithmetic.self_test()


@contextmanager
def flush_to_zero() -> Iterator[None]:
    """Denormals become zeros on this thread, as after loading some libraries."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def test_self_test_notices_flush_to_zero() -> None:
    with flush_to_zero(), pytest.raises(ArithmeticError):
        arithmetic.self_test()


@pytest.mark.parametrize(
    "name", ["int8", "int8:32", "int4", "int4:32", "sign", "sign:32", "sign:4096", "lloyd2", "lloyd4", "topk"]
)
def test_blocks_do_not_depend_on_flush_to_zero(name: str) -> None:
    subject = codec.get(name)
    values_P = selftest.golden_values(10_000, seed=3)
    data = subject.encode(values_P)
    values = subject.decode(data, 10_000)
    with flush_to_zero():
        assert subject.encode(values_P) == data
        assert torch.equal(subject.decode(data, 10_000), values)


def test_encodings_are_the_golden_ones() -> None:
    golden = json.loads(GOLDEN.read_text())
    values_P = torch.frombuffer(bytearray.fromhex(golden["values"]), dtype=torch.float32)
    for name, encoded in golden["encodings"].items():
        assert codec.get(name).encode(values_P).hex() == encoded, name


@pytest.mark.parametrize("name", list(selftest.OPERATIONS))
def test_operations_are_correctly_rounded(name: str) -> None:
    """Against float64, in which each result is exact or rounds to the same float32."""
    a = selftest.golden_values(50_000, seed=11)
    b = selftest.golden_values(50_000, seed=12)
    x, y = a.double().numpy(), b.double().numpy()
    with np.errstate(over="ignore"):
        exact: dict[str, NDArray[np.float64]] = {
            "add": x + y,
            "sub": x - y,
            "mul": x * y,
            "mul by a number": x * np.float64(np.float32(0.7)),
            "div": x / np.maximum(y, np.float64(np.float32(1e-30))),
            "div by a number": x / 3.0,
            "sqrt": np.sqrt(np.abs(x)),
            "minimum": np.minimum(x, y),
            "maximum": np.maximum(x, y),
            "round": np.rint(x),
            "normalise_zeros": x + 0.0,
        }
        reference = exact[name].astype(np.float32)
    result = selftest.OPERATIONS[name](torch.empty_like(a), a, b).numpy()
    assert np.array_equal(result, reference)


def test_operations_may_write_over_an_operand_and_take_rows() -> None:
    a = torch.arange(6.0).view(2, 3)
    assert arithmetic.mul_(a, a, torch.tensor([[2.0], [0.5]])).tolist() == [[0.0, 2.0, 4.0], [1.5, 2.0, 2.5]]


def test_negative_zeros_are_normalised() -> None:
    values = arithmetic.normalise_zeros_(torch.tensor([-0.0, 0.0, -1.0, 1e-45]))
    assert values.view(torch.int32).tolist() == [0, 0, -1082130432, 1]


@pytest.mark.parametrize("numel", [0, 1, 63, 64, 65, 1000, 2**16, 2**16 + 1, 150_000])
def test_sum_of_squares_is_the_tree_that_the_contract_says(numel: int) -> None:
    values_P = selftest.golden_values(numel, seed=numel) if numel else torch.empty(0)
    lanes = []
    for start in range(0, numel, 2**16):
        block = np.zeros(2**16)
        chunk = values_P[start : start + 2**16].double().numpy()
        block[: len(chunk)] = chunk * chunk
        while len(block) > 64:
            block = block[: len(block) // 2] + block[len(block) // 2 :]
        lanes += block.tolist()
    assert arithmetic.sum_squares(values_P) == math.fsum(lanes)


def test_sum_of_squares_is_near_the_true_sum() -> None:
    values_P = selftest.golden_values(3_000, seed=9)
    true = sum((Fraction(value) ** 2 for value in values_P.tolist()), Fraction(0))
    assert abs(Fraction(arithmetic.sum_squares(values_P)) / true - 1) < Fraction(1, 2**50)


def test_squares_of_slices_make_the_whole() -> None:
    values_P = selftest.golden_values(2**18, seed=10)
    parts = arithmetic.squares(values_P[: 2**17]) + arithmetic.squares(values_P[2**17 :])
    assert math.fsum(parts) == arithmetic.sum_squares(values_P)


def test_products_of_float32_are_exact_in_float64_fused_or_not() -> None:
    a = selftest.golden_values(50_000, seed=13).double()
    b = selftest.golden_values(50_000, seed=14).double()
    lanes = torch.full_like(a, 1.0 / 3)
    expected = lanes.numpy() + a.numpy() * b.numpy()
    assert np.array_equal(arithmetic.add_products_(lanes, a, b).numpy(), expected)
    for x, y in zip(a[:500].tolist(), b[-500:].tolist(), strict=True):
        assert Fraction(x * y) == Fraction(x) * Fraction(y)
    assert arithmetic.fold_(torch.arange(16.0).view(2, 8)) == [28.0, 92.0]


def test_sum_of_squares_shows_what_is_not_finite() -> None:
    assert arithmetic.sum_squares(torch.tensor([1.0, float("-inf")])) == math.inf
    assert math.isnan(arithmetic.sum_squares(torch.tensor([1.0, float("nan")])))
