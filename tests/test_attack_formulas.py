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


def test_a_tailored_attack_is_as_loud_in_each_chunk_as_a_rule_lets_through() -> None:
    """Two liars of seven, under a mean, and under one that gives way to the honest mean beyond a bound."""
    rows, chunks = vectors(5, 300, 1), [slice(0, 100), slice(100, 300)]
    mean_P, away_P = formulas.mean_of(rows), formulas.sign_flip(rows)
    bounds = [3.0, 0.2]

    def plain(lie_P: torch.Tensor) -> torch.Tensor:
        return formulas.mean_of([*rows, lie_P, lie_P])

    def bounded(lie_P: torch.Tensor) -> torch.Tensor:
        out_P = plain(lie_P)
        for at, bound in zip(chunks, bounds, strict=True):
            if formulas.norm(torch.sub(lie_P, mean_P)[at]) > bound * formulas.norm(mean_P[at]):
                out_P[at] = mean_P[at]
        return out_P

    loud = formulas.tailored(rows, away_P, chunks, plain)
    torch.testing.assert_close(loud, mean_P + 16 * away_P)
    quiet = formulas.tailored(rows, away_P, chunks, bounded)
    strongest = max(g for g in formulas.STRENGTHS if g <= bounds[0])
    torch.testing.assert_close(quiet[chunks[0]], (mean_P + strongest * away_P)[chunks[0]])
    assert torch.equal(quiet[chunks[1]], mean_P[chunks[1]]), "nothing pays there"


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
