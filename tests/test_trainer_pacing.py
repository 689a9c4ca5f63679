"""A trainer's pace: the share of its time in which it works."""

import random

import pytest

from talkoot.peer.guest.settings import LEVELS
from talkoot.peer.trainer.pacing import CREDIT_S, LEAST_REST_S, MOST_WORK_S, Pace

TEN_MINUTES_S = 600.0


def share(
    power: float, work_s: tuple[float, float], *, late_s: float = 0.0, cut: float = 0.0, seed: int = 1
) -> float:
    """Of ten minutes and the stretch that is under way then, in stretches of work as long as `work_s` says.

    Rests end up to `late_s` too late, or are interrupted with the chance `cut`.
    """
    chance, now = random.Random(seed), 0.0
    pace = Pace(now, power)
    while now < TEN_MINUTES_S:
        now += chance.uniform(*work_s)
        pace.worked(now)
        while pace.due_s > 0:
            interrupted = chance.random() < cut
            now += pace.due_s * (chance.random() if interrupted else 1) + chance.uniform(0, late_s)
            pace.rested(now)
            if interrupted:
                break
    return pace.busy_s / now


@pytest.mark.parametrize("power", [*LEVELS.values(), 0.05, 0.9, 0.99])
@pytest.mark.parametrize("work_s", [(0.001, 0.002), (0.01, 0.4), (2.0, 3.0), (20.0, 30.0)])
def test_the_share_over_ten_minutes_is_the_one_that_was_set(
    power: float, work_s: tuple[float, float]
) -> None:
    assert share(power, work_s) == pytest.approx(power, abs=0.05)


@pytest.mark.parametrize("power", LEVELS.values())
def test_rests_that_end_late_or_are_cut_short_are_made_up_for(power: float) -> None:
    assert share(power, (0.05, 0.1), late_s=0.02) == pytest.approx(power, abs=0.02)
    assert share(power, (0.5, 1.0), cut=0.8) == pytest.approx(power, abs=0.02)


def test_full_power_never_rests() -> None:
    pace = Pace(0.0, 1.0)
    pace.worked(50.0)
    assert pace.due_s == 0


def test_little_is_owed_until_it_is_worth_a_pause() -> None:
    pace = Pace(0.0, 0.5)
    pace.worked(LEAST_REST_S / 2)
    assert pace.due_s == 0
    pace.worked(LEAST_REST_S)
    assert pace.due_s == pytest.approx(LEAST_REST_S)


def test_time_without_anything_to_do_is_neither_work_nor_rest() -> None:
    pace = Pace(0.0, 0.5)
    pace.worked(1.0)
    pace.idle(500.0)
    pace.worked(501.0)
    assert (pace.busy_s, pace.due_s) == (2.0, 2.0)


def test_a_machine_that_stood_still_does_not_owe_hours() -> None:
    pace = Pace(0.0, 0.5)
    pace.worked(36_000.0)
    assert pace.due_s == MOST_WORK_S
    pace.rested(72_000.0)
    pace.worked(72_000.0 + CREDIT_S)
    assert pace.due_s == 0
    pace.worked(72_000.0 + 2 * CREDIT_S)
    assert pace.due_s == pytest.approx(CREDIT_S)


def test_a_changed_level_begins_anew() -> None:
    pace = Pace(0.0, 0.01)
    pace.worked(10.0)
    assert pace.due_s == pytest.approx(990.0)
    pace.change(0.01)
    assert pace.due_s == pytest.approx(990.0)
    pace.change(1.0)
    assert pace.due_s == 0
