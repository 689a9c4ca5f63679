"""What liars send is what the papers say: against straightforward float64 formulas."""

import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from robust_rig import vectors

from talkoot.peer.attacks import formulas
from talkoot.peer.attacks.catalogue import permute_targets


@given(num=st.integers(2, 12), seed=st.integers(0, 10_000), spread=st.sampled_from([0.01, 1.0, 5.0]))
@examples(25)
def test_formulas_agree_with_the_papers(num: int, seed: int, spread: float) -> None:
    rows = vectors(num, 200, seed, spread=spread)
    exact = np.stack([row.numpy().astype(np.float64) for row in rows])
    mean, deviation = exact.mean(axis=0), exact.std(axis=0, ddof=1)
    cases = [
        (formulas.sign_flip(rows), -mean),
        (formulas.sign_flip(rows, scale=10.0), -10 * mean),
        (formulas.inner_product_manipulation(rows, strength=0.5), -0.5 * mean),
        (formulas.a_little_is_enough(rows), mean + 1.5 * deviation),
        (formulas.mimic(rows, victim=1), exact[1]),
        (formulas.zero(rows), np.zeros(200)),
    ]
    for ours, theirs in cases:
        error = np.linalg.norm(ours.numpy().astype(np.float64) - theirs)
        assert error <= 1e-6 * np.linalg.norm(theirs)


def test_noise_is_loud_in_units_of_the_round() -> None:
    rows = vectors(5, 300, 1)
    sent = formulas.gaussian(rows, torch.randn(300, generator=torch.Generator().manual_seed(1)))
    assert formulas.norm(sent) == pytest.approx(10 * formulas.median_norm(rows))


def test_a_poisoned_part_has_a_norm_that_nobody_caps() -> None:
    rows = vectors(5, 300, 1)
    sent = formulas.one_part(rows, slice(0, 30))
    assert formulas.norm(sent) == pytest.approx(min(map(formulas.norm, rows)))
    assert not sent[30:].any()
    assert float(torch.dot(sent, formulas.mean_of(rows))) < 0


def test_a_slow_drip_starts_honest_and_ends_against_its_beginning() -> None:
    first, own = vectors(2, 300, 1)
    assert torch.equal(formulas.slow_drip(own, first, round_=0), own)
    late = formulas.slow_drip(own, first, round_=1000)
    step = torch.sub(own, late)
    assert formulas.norm(step) == pytest.approx(formulas.norm(own))
    assert float(torch.cosine_similarity(step, first, 0)) == pytest.approx(1, abs=1e-6)


def test_every_second_token_is_permuted() -> None:
    windows = np.arange(10, dtype=np.int64).reshape(2, 5)
    spoiled = permute_targets(windows)
    assert spoiled.tolist() == [[0, 254, 2, 252, 4], [5, 249, 7, 247, 9]]
    assert windows[0, 1] == 1
