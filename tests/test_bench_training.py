"""The benchmarks of training, in small: they run, and their arithmetic is the swarm's."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from talkoot.compression.codec import get

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(name: str, *arguments: object) -> str:
    """What the benchmark prints; it must end with exit code 0."""
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def swarm() -> ModuleType:
    """benchmarks/diloco_swarm.py."""
    spec = importlib.util.spec_from_file_location("diloco_swarm", BENCHMARKS / "diloco_swarm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["diloco_swarm"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.processes
def test_every_codec_of_the_smoke_test_trains(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    first = run("codec_training.py", "--quick", "--out", out)
    rows = {line.split()[0]: line.split() for line in first.splitlines()[3:]}
    assert list(rows) == ["fp32", "int8", "int4"]
    assert float(rows["fp32"][3]) == 0
    assert abs(float(rows["int8"][3])) < 0.1
    assert out.read_text().count("\n") == 6
    assert run("codec_training.py", "--quick", "--out", out) == first  # read, not run again
    assert out.read_text().count("\n") == 6


@pytest.mark.processes
def test_diloco_of_the_smoke_test_beats_one_worker() -> None:
    names = [line[:34].strip() for line in run("diloco.py", "--quick").splitlines()[2:]]
    assert names[:3] == ["one worker", "data parallel, M=3", "DiLoCo, M=1, H=10"]
    assert names[3:] == ["DiLoCo, M=3, H=10", "DiLoCo, M=3, H=10, equal data"]


def test_an_uncompressed_round_is_the_mean_and_an_outer_step(swarm: ModuleType) -> None:
    arm = swarm.Arm(workers=2, outer_learning_rate=0.5, outer_momentum=0.0)
    start = np.linspace(-1, 1, 1000, dtype=np.float32)
    outer = swarm.Outer(arm, start)
    step = np.float32(0.25)
    outer.round([torch.from_numpy(start - step), torch.from_numpy(start + step)])  # equal norms: no cap
    assert np.allclose(outer.theta_P.numpy(), start, atol=1e-6)
    outer.round([torch.from_numpy(start - step)] * 2)
    assert np.allclose(outer.theta_P.numpy(), start - 0.125, atol=1e-6)


def test_bytes_are_the_lower_bounds_of_the_exchanges(swarm: ModuleType) -> None:
    numel = 2**18 + 1000
    vector = get("int8").encoded_size(2**18) + get("int8").encoded_size(1000)
    dense = swarm.Arm(workers=4, codec="int8", aggregate_codec="int8")
    assert swarm.round_bytes(dense, numel) == 2 * 3 / 4 * vector
    sparse = swarm.Arm(workers=4, codec="int8", exchange="sparse")
    assert swarm.round_bytes(sparse, numel) == 3 * vector
    assert swarm.data_parallel_bytes(4, 1000, 10) == 10 * 1.5 * 4000
