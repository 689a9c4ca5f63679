"""When a round closes."""

import pytest

from talkoot.averaging.progress import Report, time_to_close

H = 100


def decide(reports: list[Report], elapsed_s: float = 50.0) -> tuple[bool, str]:
    decision = time_to_close(
        reports,
        inner_steps=H,
        elapsed_s=elapsed_s,
        min_interval_s=10.0,
        max_interval_s=300.0,
        horizon_s=20.0,
    )
    return decision.close, decision.reason


def report(steps: float, speed: float = 0.0, age_s: float = 0.0, *, counts: bool = True) -> Report:
    return Report(steps, speed, age_s, counts)


@pytest.mark.parametrize(
    ("reports", "elapsed_s", "expected"),
    [
        ([], 50, (False, "nobody_trains")),
        ([], 500, (False, "nobody_trains")),
        ([report(1000, counts=False)], 299, (False, "nobody_trains")),
        ([report(1000, counts=False)], 300, (True, "time_up")),
        ([report(99)], 50, (False, "steps_missing")),
        ([report(100)], 50, (True, "steps_done")),
        ([report(100)], 9.9, (False, "too_early")),
        ([report(10_000)] * 3, 9.9, (False, "too_early")),
        ([report(99)], 300, (True, "time_up")),
        ([report(0)] * 3, 300, (True, "time_up")),
        # The fast do more, the slow less; the sum decides.
        ([report(50), report(150)], 50, (True, "steps_done")),
        ([report(50), report(100), report(149)], 50, (False, "steps_missing")),
        # But nobody counts for more than twice the median, so nobody closes a round alone.
        ([report(10), report(10), report(10**9)], 50, (False, "steps_missing")),
        ([report(0), report(0), report(10**9)], 50, (False, "steps_missing")),
        ([report(75), report(75), report(10**9)], 50, (True, "steps_done")),
        # One on probation neither adds to what is done nor to what is to be done.
        ([report(100), report(0, counts=False)], 50, (True, "steps_done")),
        ([report(99), report(1000, counts=False)], 50, (False, "steps_missing")),
        # An announcement is extrapolated, for a while.
        ([report(80, speed=2.0, age_s=10.0)], 50, (True, "steps_done")),
        ([report(80, speed=2.0, age_s=9.0)], 50, (False, "steps_missing")),
        ([report(50, speed=2.0, age_s=1e9)], 50, (False, "steps_missing")),
        ([report(60, speed=2.0, age_s=1e9)], 50, (True, "steps_done")),
        # Nonsense is worth nothing.
        ([report(-1e9), report(100), report(100)], 50, (False, "steps_missing")),
        ([report(100, speed=-5.0, age_s=10.0)], 50, (True, "steps_done")),
        ([report(100, speed=5.0, age_s=-10.0)], 50, (True, "steps_done")),
    ],
)
def test_table(reports: list[Report], elapsed_s: float, expected: tuple[bool, str]) -> None:
    assert decide(reports, elapsed_s) == expected


def test_a_decision_says_how_far_it_is() -> None:
    decision = time_to_close(
        [report(30), report(40), report(1000)],
        inner_steps=H,
        elapsed_s=50,
        min_interval_s=0,
        max_interval_s=300,
        horizon_s=20,
    )
    assert (decision.steps, decision.target) == (30 + 40 + 80, 300)
