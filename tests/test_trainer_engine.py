"""Both engines: the same vector operations, memory, and numbers that a plain loop reproduces."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from trainer_help import make_manifest

from talkoot.peer.trainer import model, numpy_model, torch_engine, workplace
from talkoot.peer.trainer.engine import Engine, MicroBatch, NoMemory, learning_rate
from talkoot.peer.trainer.layout import initial_weights

Kinds = pytest.mark.parametrize("kind", ["numpy", "transformers"])


def _engine(kind: str, **inner: Any) -> Engine:
    return workplace.make_engine(make_manifest(kind, **inner), device="cpu", threads=1)


def _local(engine: Engine) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([np.array(chunk) for chunk in engine.chunks()])


def _windows(seed: int, count: int = 4) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(97, 123, (count, 17))


def _vector(engine: Engine, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return 0.05 * np.random.default_rng(seed).standard_normal(engine.layout.numel, dtype=np.float32)


@Kinds
def test_a_new_engine_holds_the_initial_weights(kind: str) -> None:
    manifest = make_manifest(kind)
    assert _local(_engine(kind)).tobytes() == initial_weights(manifest).tobytes()


@Kinds
def test_rebase_is_outer_plus_local_minus_base(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "CHUNK", 1000)  # several pieces
    engine = _engine(kind)
    local, outer, base = (_vector(engine, seed) for seed in range(3))
    engine.load(local)
    engine.rebase(outer, base)
    assert _local(engine).tobytes() == (outer + (local - base)).tobytes()


@Kinds
def test_steps_lower_the_loss_of_what_is_repeated(kind: str) -> None:
    engine = _engine(kind)
    windows = _windows(0)
    losses = []
    for _ in range(30):
        engine.step(windows, 1e-2)
        losses.append(engine.read().loss)
    assert losses[0] == pytest.approx(np.log(256), rel=0.1)
    assert losses[-1] is not None
    assert losses[-1] < 4.5
    assert engine.read().loss is None  # nothing new


@Kinds
def test_evaluation_leaves_the_local_parameters_alone(kind: str) -> None:
    engine, twin = _engine(kind), _engine(kind)
    for one in (engine, twin):
        one.step(_windows(0), 1e-2)
    before = _local(engine)
    first = engine.evaluate(_vector(engine, 1), _windows(5))
    assert engine.evaluate(_vector(engine, 1), _windows(5)) == first
    assert _local(engine).tobytes() == before.tobytes()
    for one in (engine, twin):
        one.step(_windows(1), 1e-2)
    assert _local(engine).tobytes() == _local(twin).tobytes()


@Kinds
def test_micro_batches_add_up_to_the_batch(kind: str) -> None:
    whole, split = _engine(kind), _engine(kind)
    split.micro.size = 3  # 3 and 1
    for one in (whole, split):
        one.step(_windows(0), 1e-2)
    assert whole.read().loss == pytest.approx(split.read().loss, rel=1e-6)
    np.testing.assert_allclose(_local(whole), _local(split), atol=1e-4)


def _fault_above(limit: int, real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    def gradients(windows: Any, size: int) -> Any:
        if size > limit:
            raise error
        return real(windows, size)

    return gradients


@Kinds
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate")])
def test_a_step_without_memory_is_done_with_half_the_micro_batch(
    kind: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, twin = _engine(kind), _engine(kind)
    twin.micro.size = 1
    monkeypatch.setattr(engine, "_gradients", _fault_above(1, engine._gradients, error))  # type: ignore[attr-defined]
    for one in (engine, twin):
        one.step(_windows(0), 1e-2)
    assert engine.micro.size == 1
    assert _local(engine).tobytes() == _local(twin).tobytes()


@Kinds
def test_no_memory_for_one_sequence_is_said(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _engine(kind)
    monkeypatch.setattr(engine, "_gradients", _fault_above(0, lambda: None, MemoryError()))
    with pytest.raises(NoMemory, match="no memory for one micro-batch"):
        engine.step(_windows(0), 1e-2)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def work(size: int) -> None:
        raise RuntimeError(f"shapes do not match: {size}")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatch(8).run(work)


def test_a_cpu_limit_below_the_process_is_no_memory() -> None:
    engine = workplace.make_engine(
        make_manifest("transformers"), device="cpu", threads=1, memory_limit_bytes=2**20
    )
    with pytest.raises(NoMemory, match="within 1 MiB"):
        engine.probe(16)


@Kinds
def test_a_gradient_that_is_not_finite_changes_nothing(kind: str) -> None:
    engine = _engine(kind)
    sick = _vector(engine, 0)
    sick[5] = np.nan
    engine.load(sick)
    with np.errstate(all="ignore"):
        engine.step(np.zeros((4, 17), dtype=np.int64), 1e-2)
    metrics = engine.read()
    assert (metrics.loss, metrics.skipped) == (None, 1)
    assert _local(engine).tobytes() == sick.tobytes()
    engine.load(_vector(engine, 0))
    engine.step(_windows(0), 1e-2)
    assert engine.read().loss is not None
    assert np.isfinite(_local(engine)).all()


@Kinds
def test_state_brings_an_engine_back_bit_for_bit(kind: str) -> None:
    engine, other = _engine(kind), _engine(kind)
    for seed in range(3):
        engine.step(_windows(seed), 1e-2)
    other.restore({name: array.copy() for name, array in engine.state().items()})
    for one in (engine, other):
        one.step(_windows(9), 1e-2)
    assert _local(engine).tobytes() == _local(other).tobytes()
    with pytest.raises(ValueError, match="moment1"):
        other.restore({**engine.state(), "moment1": np.zeros(3, dtype=np.float32)})


def test_the_torch_engine_does_what_a_plain_loop_does() -> None:
    manifest = make_manifest("transformers", batch_size=8)
    engine = workplace.make_engine(manifest, device="cpu", threads=1)
    plain = model.build(manifest)
    inner = manifest.inner
    matrices = [p for p in plain.parameters() if p.ndim >= 2]
    rest = [p for p in plain.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": inner.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(inner.beta1, inner.beta2))
    for seed in range(5):
        windows = _windows(seed, 8)
        engine.step(windows, 1e-2)
        tokens = torch.from_numpy(windows)
        plain(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), inner.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    np.testing.assert_allclose(_local(engine), model.flat_of(plain), atol=2e-5)


def test_the_numpy_gradient_is_the_slope_of_the_loss() -> None:
    manifest = make_manifest("numpy", seal=False)
    shape = numpy_model.Shape.of(replace(manifest, model=replace(manifest.model, config={"hidden": 3})))
    flat = numpy_model.random_weights(shape, 0).astype(np.float64)
    windows = _windows(0, 2)
    gradient = np.zeros_like(flat)
    numpy_model.add_gradient(shape.layout, flat, windows, 1.0, gradient)  # type: ignore[arg-type]
    used = np.flatnonzero(gradient)
    for index in np.random.default_rng(0).choice(used, 20, replace=False):
        bump = np.zeros_like(flat)
        bump[index] = 1e-5
        ends = [
            numpy_model.losses(shape.layout, flat + s * bump, windows)[0].sum()  # type: ignore[arg-type]
            for s in (1, -1)
        ]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(gradient[index], rel=1e-4, abs=1e-6)


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    manifest = make_manifest("numpy", learning_rate=1.0, warmup_steps=10, total_steps=100, decay_steps=20)
    rates = [learning_rate(manifest, step, None) for step in (0, 4, 9, 50, 80, 90, 100, 200)]
    assert rates == pytest.approx([0.1, 0.5, 1, 1, 1, 0.5, 0, 0])
    assert learning_rate(manifest, 50, 0) == pytest.approx(1 / 50)
    assert learning_rate(manifest, 50, 24) == pytest.approx(0.5)
    assert learning_rate(manifest, 50, 500) == 1


def test_unknown_devices_are_one_line() -> None:
    for name in ("gpu9", "cuda:99", "mps"):
        if name == "mps" and torch.backends.mps.is_available():
            continue
        with pytest.raises(ValueError, match=name):
            torch_engine.choose_device(name)


def test_a_gpu_trains_like_a_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: the GPU engine is not tested here")
    manifest = make_manifest("transformers", batch_size=8)
    engines = [workplace.make_engine(manifest, device=device) for device in ("cpu", "cuda")]
    for seed in range(20):
        for engine in engines:
            engine.step(_windows(seed % 2, 8), 1e-2)
    cpu, gpu = (engine.read().loss for engine in engines)
    assert cpu == pytest.approx(gpu, rel=0.03)
