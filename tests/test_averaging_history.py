"""A peer's past: scores of its norm and direction, and copies."""

import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from robust_rig import vectors

from talkoot.averaging.gram import Gram, Matrix
from talkoot.averaging.history import (
    LOUDEST,
    OUTLIER,
    WARM_ROUNDS,
    History,
    Look,
    Track,
    copies,
    cosines,
    excess,
    looks,
)


def gram_of(rows: list[torch.Tensor]) -> Matrix:
    products = Gram(len(rows))
    products.add(rows)
    return products.matrix()


def settled(rounds: int = 20) -> History:
    history = History()
    for number in range(rounds):
        history = history.seen(Look(1.0 + 0.02 * (number % 3), 0.5, 0.01 * (number % 2)))
    return history


@given(values=st.lists(st.floats(-4, 4), min_size=1, max_size=9))
@examples(30)
def test_a_track_begins_as_a_plain_mean_and_variance(values: list[float]) -> None:
    track = Track()
    for value in values:
        track = track.learned(value)
    exact = torch.tensor(values, dtype=torch.float64)
    assert track.mean == pytest.approx(float(exact.mean()), abs=1e-9)
    assert track.variance == pytest.approx(float(exact.var(correction=0)), abs=1e-9)


def test_nothing_is_judged_before_there_is_a_past() -> None:
    history = History()
    for _ in range(WARM_ROUNDS):
        assert not history.signs(Look(LOUDEST, -0.5, -1.0))
        history = history.seen(Look(1.0, 0.5, 0.0))
    assert history.signs(Look(LOUDEST, 0.5, 0.0)) == ("norm",)
    assert history.signs(Look(1.0, -0.5, -1.0)) == ("direction",)
    assert history.signs(Look(1.0, None, None)) == ()


@pytest.mark.parametrize(
    "look",
    [Look(1e9, 0.5, 0.0), Look(0.0, 0.5, 0.0), Look(1.0, -0.5, -1.0)],
    ids=["too long", "nothing at all", "turned round"],
)
def test_an_outlier_is_not_learned_from(look: Look) -> None:
    """EDiT's averages take it in on one path: then a liar who goes on is normal after a while."""
    history = settled()
    before = history
    for _ in range(100):
        assert history.signs(look)
        history = history.seen(look)
    assert history.suspect
    score = max(abs(value) for value in history.scores(look))
    assert score > OUTLIER
    assert history.norm == before.norm or history.lag == before.lag


def test_who_always_pulls_against_the_others_is_odd_though_its_past_is_no_better() -> None:
    history = History()
    for _ in range(WARM_ROUNDS + 4):
        history = history.seen(Look(1.0, -0.4, -0.9))
    assert history.scores(Look(1.0, -0.4, -0.9)) == (0.0, 0.0)
    assert history.suspect


def test_who_still_pulls_along_is_not_odd_in_direction() -> None:
    """Honest peers' directions part when the learning rate falls: they are learned anew."""
    history = settled()
    for _ in range(30):
        look = Look(1.0, 0.12 if history.every_lag.mean > -0.39 else 0.3, -0.5)
        assert history.signs(look) == ()
        history = history.seen(look)
    assert not history.suspect
    assert history.lag.mean == pytest.approx(-0.5, abs=0.03)


def test_suspicion_fades_and_one_odd_round_is_none() -> None:
    history = settled().seen(Look(LOUDEST, 0.5, 0.0))
    assert history.suspicion > 0
    assert not history.suspect
    for _ in range(20):
        history = history.seen(Look(1.0, 0.5, 0.0))
    assert history.suspicion < 0.01


def everybody(norms: list[float], cosines: list[float | None]) -> list[Look]:
    return looks(norms, cosines, counting_N=[True] * len(norms), rounds_N=[1] * len(norms))


def test_looks_are_relative_to_their_round() -> None:
    """Pseudo-gradients shrink by an order of magnitude in training; that is no anomaly of anybody's."""
    ours = everybody([1.0, 2.0, 3.0], [0.5, None, 0.2])
    theirs = everybody([0.01, 0.02, 0.03], [0.5, None, 0.2])
    assert [look.norm for look in ours] == pytest.approx([0.5, 1.0, 1.5])
    assert [look.norm for look in theirs] == pytest.approx([0.5, 1.0, 1.5])
    assert [look.lag for look in ours] == pytest.approx([0.3, None, 0.0])


def test_who_weighs_nothing_moves_no_median() -> None:
    """A crowd of newcomers could make everybody else odd."""
    norms, cosines = [1.0, 1.0, *[50.0] * 9], [0.5, 0.4, *[-0.9] * 9]
    counting = [True, True, *[False] * 9]
    seen = looks(norms, cosines, counting_N=counting, rounds_N=[1] * 11)
    assert [(look.norm, look.lag) for look in seen[:2]] == [(1.0, pytest.approx(0.1)), (1.0, 0.0)]
    assert all(look.norm == 50 for look in seen[2:])
    assert looks(norms, cosines, counting_N=[False] * 11, rounds_N=[1] * 11)[0].norm == pytest.approx(0.02)


def test_zeros_everywhere_have_looks_too() -> None:
    assert everybody([0.0] * 3, [None] * 3) == [Look(1.0, None, None)] * 3
    assert copies(cosines(gram_of([torch.zeros(10)] * 4))) == []


@pytest.mark.parametrize(
    ("norm", "rounds", "odd"),
    [(2.0, 2, False), (1.4, 2, False), (5.0, 6, False), (2.4, 6, False), (1.0, 6, False), (8.0, 3, True),
     (0.1, 2, True)],
)  # fmt: skip
def test_a_late_one_is_as_long_as_some_of_its_rounds(norm: float, rounds: int, odd: bool) -> None:
    """Work of several rounds adds up to anything between the length of one and of all."""
    history, look = settled(), Look(norm, -0.4, -0.9, rounds)
    assert history.signs(look) == (("norm",) if odd else ())
    after = history.seen(look)
    assert (after.norm, after.lag) == (history.norm, history.lag)


def test_excess_is_relative_to_what_is_expected() -> None:
    assert excess(0.97, 0.93) == pytest.approx(4 / 7)
    assert excess(1.0, 0.93) == 1
    assert excess(1.0, 1.0) == 0


@given(num=st.integers(3, 12), seed=st.integers(0, 10_000), spread=st.sampled_from([0.2, 0.4, 1.0, 3.0]))
@examples(25)
def test_copies_are_found_and_nobody_else(num: int, seed: int, spread: float) -> None:
    """At cosines from 0.96, as in the first rounds, to 0.1; the copy has a little noise of its own."""
    rows = vectors(num, 3000, seed, spread=spread)
    assert copies(cosines(gram_of(rows))) == []
    noise = torch.randn(3000, generator=torch.Generator().manual_seed(seed))
    rows[1] = rows[num - 1] * 0.7 + 0.01 * spread * noise
    assert copies(cosines(gram_of(rows))) == [(1, num - 1)]
