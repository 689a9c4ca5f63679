"""Robust rules against independent float64 references, and what they do at the edges."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import robust_reference as reference
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from robust_rig import NAMES, Vectors, digest, rules, vectors

from talkoot.averaging import aggregate
from talkoot.averaging.gram import Gram
from talkoot.averaging.mixing import bucket_order
from talkoot.averaging.sorting import comparators


def exact(rows: Vectors) -> reference.Array:
    return np.stack([row.numpy().astype(np.float64) for row in rows])


def close(ours: torch.Tensor, theirs: reference.Array, added: reference.Array | None = None) -> bool:
    """To 1e-6; of what was `added` up in float32 and cancels, to the last place of what was added."""
    error = np.linalg.norm(ours.numpy().astype(np.float64) - theirs)
    rounding = 0.0 if added is None else 2.0**-24 * float(np.linalg.norm(added, axis=1).mean())
    return float(error) <= 1e-6 * float(np.linalg.norm(theirs)) + rounding


GROUPS = st.tuples(
    st.integers(1, 17),
    st.sampled_from([1, 63, 300]),
    st.integers(0, 10_000),
    st.sampled_from([0.01, 1.0, 5.0]),
    st.integers(0, 3),
    st.booleans(),
)


@examples(30)
@given(GROUPS, st.integers(1, 5), st.sampled_from([None, 0.1, 30.0, 1e4]))
def test_rules_are_those_of_the_papers(
    group: tuple[int, int, int, float, int, bool], iterations: int, size: float | None
) -> None:
    num, numel, seed, spread, loud, equal = group
    rows = vectors(num, numel, seed, spread=spread, loud=min(loud, (num - 1) // 2))
    weights = [1.0] * num if equal else [0.5 + 1.5 * ((seed + 7 * i) % 11) / 10 for i in range(num)]
    x, w = exact(rows), np.array(weights)
    trim = seed % ((num - 1) // 2 + 1)
    f = seed % (max(0, (num - 3) // 2) + 1)
    chosen = 1 + seed % num
    center = vectors(1, numel, seed + 1)[0]
    assert close(aggregate.mean(rows, weights), reference.mean(x, w), x)
    assert close(aggregate.norm_capped_mean(rows, weights), reference.norm_capped_mean(x, w), x)
    assert close(aggregate.coordinate_median(rows, weights), reference.coordinate_median(x, w))
    assert close(aggregate.trimmed_mean(rows, weights, trim=trim), reference.trimmed_mean(x, w, trim))
    assert close(
        aggregate.geometric_median(rows, weights, iterations=iterations, nu=size),
        reference.geometric_median(x, w, iterations, size),
    )
    assert close(
        aggregate.krum(rows, weights, num_byzantine=f, num_selected=chosen), reference.krum(x, w, f, chosen)
    )
    for start, begin in (
        ("zero", np.zeros(numel)),
        (center, exact([center])[0]),
        ("coordinate_median", reference.coordinate_median(x, w)),
    ):
        ours = aggregate.centered_clip(rows, weights, tau=size, iterations=iterations, center=start)  # type: ignore[arg-type]
        assert close(ours, reference.centered_clip(x, w, size, iterations, begin))
    trimmed = aggregate.trimmed_mean(rows, weights, trim=trim)
    for arms_at in (0.0, 0.1, 0.5, 2.0):
        ours = aggregate.mean_unless_far(rows, weights, trimmed, arms_at=arms_at)
        theirs, margin = reference.mean_unless_far(x, w, exact([trimmed])[0], arms_at)
        if abs(margin) > 1e-6 * np.linalg.norm(x):
            assert close(ours, theirs, x)
    mixed, kept = aggregate.nearest_neighbor_mixing(rows, weights, num_byzantine=trim)
    expected = reference.nearest_neighbor_mixing(x, w, trim)
    assert all(close(ours, theirs) for ours, theirs in zip(mixed, expected, strict=True))
    assert np.allclose(np.array(kept) * w.sum(), w)
    buckets, sums = aggregate.bucketing(rows, weights, size=chosen, seed=b"%d" % seed)
    expected, expected_sums = reference.bucketing(x, w, bucket_order(num, b"%d" % seed), chosen)
    assert all(close(ours, theirs) for ours, theirs in zip(buckets, expected, strict=True))
    assert np.allclose(np.array(sums) * w.sum(), expected_sums)


@pytest.mark.parametrize("name", NAMES)
def test_edges(name: str) -> None:
    rows = vectors(5, 100, 3)
    one, five = rules(1)[name], rules(5)[name]
    tolerance: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
    if name != "centered_clip with tau":  # from zero, that comes only so far
        torch.testing.assert_close(one(rows[:1], [0.7]), rows[0], **tolerance)
        torch.testing.assert_close(five([rows[0]] * 5, [1.0, 2.0, 1.0, 0.5, 1.0]), rows[0], **tolerance)
    # who weighs nothing has no say, not even with what is no number
    broken = torch.full((100,), float("nan"))
    with_silent = rules(3)[name](
        [rows[0], broken, rows[1], 1e30 * rows[3], rows[2]], [1.0, 0.0, 1.0, 0.0, 1.0]
    )
    assert torch.equal(with_silent, rules(3)[name](rows[:3], [1.0] * 3))
    # nobody weighs: zeros; all zeros: zeros, and never negative ones
    assert torch.equal(five(rows, [0.0] * 5), torch.zeros(100))
    silence = five([-torch.zeros(100)] * 5, [1.0] * 5)
    assert not silence.any()
    assert not torch.signbit(silence).any()
    # a matrix and a tensor of weights do as well
    assert torch.equal(five(torch.stack(rows), torch.full((5,), 0.25)), five(rows, [0.25] * 5))  # type: ignore[arg-type]
    for bad in (float("nan"), float("inf"), -float("inf")):
        spoiled = rows[1].clone()
        spoiled[7] = bad
        with pytest.raises(ValueError, match="not finite"):
            five([rows[0], spoiled, *rows[2:]], [1.0] * 5)
    largest = [torch.full((100,), torch.finfo(torch.float32).max * sign) for sign in (1, -1, 1, -1, 1)]
    assert torch.isfinite(five(largest, [1.0] * 5)).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_group_is_refused(name: str) -> None:
    rule, row = rules(1)[name], torch.ones(3)
    for updates, weights in (
        ([], []),
        ([row], []),
        ([row, torch.ones(4)], [1.0, 1.0]),
        ([row.double()], [1.0]),
        ([row.view(1, 3)], [1.0]),
        ([row], [-1.0]),
        ([row], [float("nan")]),
        ([row], [float("inf")]),
    ):
        with pytest.raises(ValueError, match=r"update|weight"):
            rule(updates, weights)


def test_settings_out_of_bounds_are_refused() -> None:
    rows, w = vectors(5, 10, 0), [1.0] * 5
    calls: list[Callable[[], object]] = [
        lambda: aggregate.trimmed_mean(rows, w, trim=3),
        lambda: aggregate.trimmed_mean(rows, w, trim=-1),
        lambda: aggregate.mean_unless_far(rows, w, rows[0], arms_at=-0.1),
        lambda: aggregate.mean_unless_far(rows, w, rows[0], arms_at=float("nan")),
        lambda: aggregate.mean_unless_far(rows, w, rows[0][:5], arms_at=1.0),
        lambda: aggregate.mean_unless_far(rows, w, rows[0].double(), arms_at=1.0),
        lambda: aggregate.mean_unless_far(rows, w, rows[0] * float("inf"), arms_at=1.0),
        lambda: aggregate.mean_unless_far(rows, w, rows[0] * float("nan"), arms_at=1.0),
        lambda: aggregate.krum(rows, w, num_byzantine=2),
        lambda: aggregate.krum(rows, w, num_byzantine=-1),
        lambda: aggregate.krum(rows, w, num_byzantine=1, num_selected=6),
        lambda: aggregate.krum(rows, w, num_byzantine=1, num_selected=0),
        lambda: aggregate.geometric_median(rows, w, iterations=0),
        lambda: aggregate.geometric_median(rows, w, nu=0.0),
        lambda: aggregate.centered_clip(rows, w, tau=-1.0),
        lambda: aggregate.centered_clip(rows, w, tau=float("nan")),
        lambda: aggregate.centered_clip(rows, w, iterations=0),
        lambda: aggregate.centered_clip(rows, w, center=torch.ones(9)),
        lambda: aggregate.centered_clip(rows, w, center="mean"),  # type: ignore[arg-type]
        lambda: aggregate.nearest_neighbor_mixing(rows, w, num_byzantine=3),
        lambda: aggregate.bucketing(rows, w, size=0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must be"):
            call()


def test_more_vectors_than_a_group_has_peers() -> None:
    rows, weights = vectors(150, 20, 4), [0.5 + 1.5 * (i % 7) / 6 for i in range(150)]
    x, w = exact(rows), np.array(weights)
    assert close(aggregate.coordinate_median(rows, weights), reference.coordinate_median(x, w))
    assert close(aggregate.trimmed_mean(rows, weights, trim=37), reference.trimmed_mean(x, w, 37))
    assert close(aggregate.centered_clip(rows, weights), reference.centered_clip(x, w, None, 3, 0 * x[0]))


@examples(40)
@given(st.sampled_from(NAMES), st.integers(2, 9), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_peers_does_not_matter(name: str, num: int, seed: int, random: Any) -> None:
    if name == "bucketing":
        return  # who shares a bucket with whom is drawn by place
    rows = vectors(num, 50, seed)
    rows[0][:20] = rows[1][:20] = 0.0  # ties in coordinates
    weights = [0.5 + (3 * i % 4) / 2 for i in range(num)]
    order = list(range(num))
    random.shuffle(order)
    rule = rules(num)[name]
    torch.testing.assert_close(
        rule([rows[i] for i in order], [weights[i] for i in order]), rule(rows, weights), rtol=1e-5, atol=1e-6
    )


# -- breakdown ---------------------------------------------------------------------------------------------

LIES: dict[str, Callable[[Vectors, int], torch.Tensor]] = {
    "huge": lambda honest, i: 1e30 * honest[0],
    "flip": lambda honest, i: -1e8 * honest[0],
    "apart": lambda honest, i: (3e12 if i % 2 else -1e12) * torch.ones_like(honest[0]),
    "zero": lambda honest, i: torch.zeros_like(honest[0]),
    "largest": lambda honest, i: torch.full_like(honest[0], torch.finfo(torch.float32).max),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("num", [8, 15])
def test_liars_do_not_break_rules_below_their_breakdown_point(lie: str, num: int) -> None:
    f = (num - 3) // 2
    honest = vectors(num - f, 400, 5)
    rows = [*(LIES[lie](honest, i) for i in range(f)), *honest]
    weights, share = [1.0] * num, f / num
    stack, middle = torch.stack(honest), torch.stack(honest).mean(0)
    norm = max(row.norm().item() for row in honest)
    radius = max((row - middle).norm().item() for row in honest)

    for inside in (
        aggregate.coordinate_median(rows, weights),
        aggregate.trimmed_mean(rows, weights, trim=f),
    ):
        assert (inside >= stack.min(0).values).all()
        assert (inside <= stack.max(0).values).all()
    trimmed = aggregate.trimmed_mean(rows, weights, trim=f)
    farthest = max((row - trimmed).norm().item() for row in honest)
    armed = aggregate.mean_unless_far(rows, weights, trimmed, arms_at=0.5)
    assert (armed - trimmed).norm().item() <= 0.5 * farthest * (1 + 1e-6)
    assert torch.equal(armed, trimmed) or torch.equal(armed, aggregate.mean(rows, weights))
    off = (aggregate.geometric_median(rows, weights, iterations=400) - middle).norm().item()
    assert off <= 2 * (1 - share) / (1 - 2 * share) * radius
    for chosen in (1, num - f):
        picked = aggregate.krum(rows, weights, num_byzantine=f, num_selected=chosen)
        assert (picked - middle).norm().item() <= (1 + 2 * (num - f - 2) ** 0.5) * radius
    capped = aggregate.norm_capped_mean(rows, weights)
    honest_part = aggregate.norm_capped_mean(honest, [1.0] * (num - f))
    assert capped.norm().item() <= norm * (1 + 1e-6)
    assert (capped - (1 - share) * honest_part).norm().item() <= share * norm + (1 - share) * radius
    for center in ("zero", "coordinate_median"):
        clipped = aggregate.centered_clip(rows, weights, center=center)
        assert (clipped - middle).norm().item() <= 2 * norm
        bounded = aggregate.centered_clip(rows, weights, tau=1.0, iterations=2, center=center)
        alone = aggregate.centered_clip(rows, weights, tau=1.0, iterations=1, center=center)
        assert (bounded - alone).norm().item() <= 1.0 + 1e-5
    mixed, kept = aggregate.nearest_neighbor_mixing(rows, weights, num_byzantine=f)
    assert (aggregate.coordinate_median(mixed, kept) - middle).norm().item() <= 2 * radius
    assert (aggregate.mean(rows, weights) - middle).norm().item() > (0 if lie == "zero" else 1e5)


def test_a_bucket_spreads_one_liar_over_no_more_than_itself() -> None:
    rows = [1e6 * torch.ones(10), *vectors(7, 10, 2)]
    buckets, weights = aggregate.bucketing(rows, [1.0] * 8, size=2, seed=b"round 7")
    assert sum(bool(row.abs().max() > 1e4) for row in buckets) == 1
    assert aggregate.coordinate_median(buckets, weights).abs().max() < 10
    assert bucket_order(64, b"a") != bucket_order(64, b"b")
    assert sorted(bucket_order(64, b"a")) == list(range(64))


# -- the same bits everywhere --------------------------------------------------------------------------------

GOLDEN = "9ddc5a7ca70ac1f0"
PRINT_DIGEST = "import robust_rig; print(robust_rig.digest())"


def test_rules_give_the_same_bits_with_any_vector_width_and_number_of_threads() -> None:
    assert digest() == GOLDEN
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == GOLDEN


# -- what they are made of ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num", range(1, 10))
def test_the_network_sorts(num: int) -> None:
    for bits in range(2**num):  # the zero-one principle
        row = [bits >> i & 1 for i in range(num)]
        for low, high in comparators(num):
            row[low], row[high] = min(row[low], row[high]), max(row[low], row[high])
        assert row == sorted(row)


@pytest.mark.parametrize("num", [3, 17])
def test_products_do_not_depend_on_how_vectors_are_cut(num: int) -> None:
    rows = vectors(num, 2**17 + 777, 1)
    at_once, cut = Gram(num), Gram(num)
    at_once.add(rows)
    for start in range(0, 2**17 + 777, 2**16):
        cut.add([row[start : start + 2**16] for row in rows])
    assert at_once.matrix() == cut.matrix()
    x = exact(rows)
    np.testing.assert_allclose(np.array(at_once.matrix()), x @ x.T, rtol=1e-12)
    assert Gram(2).matrix() == [[0.0, 0.0], [0.0, 0.0]]
