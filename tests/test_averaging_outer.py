"""The outer step is SGD with Nesterov momentum, and the same bits everywhere."""

import os
import subprocess
import sys

import pytest
import torch
from blake3 import blake3

from talkoot.averaging.outer import outer_step
from talkoot.averaging.rules import CHUNK_NUMEL

NUMEL = CHUNK_NUMEL + 12_345

GOLDEN = "12df67d6be6f14baf2ca78597292cb14658d27e94f45b7b1316573de5313cd1a"

PROGRAM = """
import torch
from test_averaging_outer import digest_of_steps
torch.set_num_threads({threads})
print(digest_of_steps())
"""


def vector(seed: int, scale: float = 1.0) -> torch.Tensor:
    """Values that are the same on every machine: small integers, scaled by a power of two."""
    numbers = torch.arange(NUMEL, dtype=torch.int64) * (2 * seed + 1_000_003) % 65_521 - 32_760
    return numbers.to(torch.float32) * scale


def digest_of_steps() -> str:
    theta, momentum = vector(0, 2.0**-14), torch.zeros(NUMEL)
    for number in range(1, 4):
        outer_step(
            theta,
            momentum,
            vector(number, 2.0**-20),
            learning_rate=0.7,
            momentum=0.9,
            theta_out_P=theta,
            momentum_out_P=momentum,
        )
    return blake3(theta.numpy().tobytes() + momentum.numpy().tobytes()).hexdigest()


def test_golden_digest() -> None:
    assert digest_of_steps() == GOLDEN


@pytest.mark.parametrize(("capability", "threads"), [("default", 1), ("avx2", 2), ("avx512", 3)])
def test_same_bits_for_any_vector_width_and_number_of_threads(capability: str, threads: int) -> None:
    environment = os.environ | {
        "ATEN_CPU_CAPABILITY": capability,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.path.dirname(__file__),
    }
    command = [sys.executable, "-c", PROGRAM.format(threads=threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == GOLDEN


@pytest.mark.parametrize(("learning_rate", "momentum"), [(0.7, 0.9), (1.0, 0.0), (0.1, 0.5)])
def test_it_is_the_optimiser_of_torch(learning_rate: float, momentum: float) -> None:
    theta, b = vector(0, 2.0**-14), torch.zeros(NUMEL)
    reference = torch.nn.Parameter(theta.clone())
    optimiser = torch.optim.SGD([reference], lr=learning_rate, momentum=momentum, nesterov=momentum > 0)
    for number in range(1, 6):
        delta = vector(number, 2.0**-16)
        reference.grad = delta.clone()
        optimiser.step()
        theta_out, b_out = torch.empty_like(theta), torch.empty_like(b)
        outer_step(
            theta,
            b,
            delta,
            learning_rate=learning_rate,
            momentum=momentum,
            theta_out_P=theta_out,
            momentum_out_P=b_out,
        )
        theta, b = theta_out, b_out
        torch.testing.assert_close(theta, reference.detach(), rtol=1e-5, atol=1e-6)


def step(theta: float, momentum: float, delta: float) -> tuple[float, float]:
    theta_P, momentum_P = torch.tensor([theta]), torch.tensor([momentum])
    outer_step(
        theta_P,
        momentum_P,
        torch.tensor([delta]),
        learning_rate=1.0,
        momentum=0.5,
        theta_out_P=theta_P,
        momentum_out_P=momentum_P,
    )
    return theta_P.item(), momentum_P.item()


def test_zeros_have_no_sign() -> None:
    for theta, momentum, delta in [(-0.0, -0.0, -0.0), (0.0, -0.0, 0.0), (-0.0, 0.0, 0.0), (1.5, 0.0, 1.0)]:
        theta_after, momentum_after = step(theta, momentum, delta)
        assert str(theta_after) == "0.0"
        assert not str(momentum_after).startswith("-")


def test_outputs_may_be_the_inputs_and_inputs_stay_otherwise() -> None:
    theta, momentum, delta = vector(0), vector(1), vector(2)
    kept = theta.clone(), momentum.clone(), delta.clone()
    theta_out, momentum_out = torch.empty_like(theta), torch.empty_like(theta)
    options = {"learning_rate": 0.7, "momentum": 0.9}
    outer_step(theta, momentum, delta, theta_out_P=theta_out, momentum_out_P=momentum_out, **options)
    assert all(torch.equal(a, b) for a, b in zip(kept, (theta, momentum, delta), strict=True))
    outer_step(theta, momentum, delta, theta_out_P=theta, momentum_out_P=momentum, **options)
    assert torch.equal(theta, theta_out)
    assert torch.equal(momentum, momentum_out)
