"""Deadlines: what was measured, within bounds; neither one outlier nor one liar decides."""

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import Swarm

from talkoot.averaging.deadlines import (
    PHASES,
    Pace,
    Phase,
    ceiling,
    limit,
    link_seconds,
    slower_than_most,
    slowest,
)
from talkoot.averaging.rules import Timing

TIMING = Timing(form_s=10.0, exchange_s=100.0, certify_s=20.0, floor_s=1.0)


def paced(*seconds: float, phase: Phase = "exchange") -> Pace:
    pace = Pace()
    for value in seconds:
        pace.observe(phase, value, 0)
    return pace


def test_nothing_measured_means_the_manifests_longest() -> None:
    for phase in PHASES:
        found = limit(TIMING, Pace(), phase, 0)
        assert (found.seconds, found.basis) == (ceiling(TIMING, phase, 0), "ceiling")


def test_twice_the_median_of_the_last_rounds() -> None:
    assert limit(TIMING, paced(5, 6, 7), "exchange", 0).seconds == 12
    assert limit(TIMING, paced(5, 6, 7), "exchange", 0).basis == "recent"
    assert limit(TIMING, paced(5, 6, 7), "exchange", 2).seconds == 48


def test_one_outlier_or_liar_does_not_decide_but_two_count() -> None:
    assert limit(TIMING, paced(5, 5, 5, 5, 90), "exchange", 0).seconds == 10
    assert limit(TIMING, paced(5, 5, 5, 40, 90), "exchange", 0).seconds == 50
    assert limit(TIMING, paced(5, 5, 5, 5, 0.0), "exchange", 0).seconds == 10


def test_a_slow_link_lengthens_a_phase_before_it_was_seen() -> None:
    found = limit(TIMING, paced(5, 5), "exchange", 0, link_s=20.0)
    assert (found.seconds, found.basis) == (30, "link")
    pace = paced(0.01)
    pace.round_trip_s = 0.5
    assert limit(TIMING, pace, "exchange", 0).seconds == 2.0


def test_floor_and_ceiling() -> None:
    assert limit(TIMING, paced(0.01), "exchange", 0).basis == "floor"
    assert limit(TIMING, paced(0.01), "exchange", 0).seconds == 1.0
    assert limit(TIMING, paced(90), "exchange", 0).seconds == 100
    assert limit(TIMING, paced(45), "exchange", 1).seconds == 180  # the ceiling doubles as well


def test_doubling_goes_on_until_the_ceiling_so_that_any_network_is_slow_enough() -> None:
    reached = [limit(TIMING, paced(0.01), "exchange", attempt).seconds for attempt in range(12)]
    assert reached == sorted(reached)
    assert reached[-1] == 2.0**10
    short = Timing(form_s=1.0, exchange_s=2.0, certify_s=1.0, floor_s=0.5)
    assert limit(short, paced(0.01), "exchange", 12).seconds == 2.0 * 2**4


def test_a_retry_does_not_shorten_what_whole_phases_need() -> None:
    pace = paced(5, 5, 5)
    for _ in range(8):
        pace.observe("exchange", 0.1, 1)
    assert pace.expected_s("exchange") == 10
    pace.observe("exchange", 9.0, 1)
    pace.observe("exchange", 9.0, 1)
    assert pace.expected_s("exchange") == 1.25 * 9


def test_claims_far_below_the_median_do_not_count_in_full() -> None:
    assert slowest([]) == slowest([0.0, 0.0]) == 0.0
    assert slowest([100.0, 0.0, 50.0]) == 50.0
    assert slowest([800.0, 800.0, 2.0]) == 100.0
    assert slowest([0.0, 0.0, 50.0]) == 0.0
    assert slowest([0.0, 50.0]) == 50.0


@examples(100)
@given(
    st.lists(st.floats(0, 1e5), max_size=12), st.floats(0, 1e6), st.integers(0, 40), st.sampled_from(PHASES)
)
def test_always_within_the_bounds(seen: list[float], link_s: float, attempt: int, phase: Phase) -> None:
    found = limit(TIMING, paced(*seen, phase=phase), phase, attempt, link_s)
    assert min(TIMING.floor_s, TIMING.form_s) <= found.seconds <= ceiling(TIMING, phase, attempt)


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_only_the_last_rounds_count(count: int) -> None:
    pace = paced(*[50.0] * count, *[1.0] * 8)
    assert pace.expected_s("exchange") == 2.0


def test_who_never_measured_goes_by_the_median_of_the_others() -> None:
    found = limit(TIMING, Pace(), "exchange", 0, others_s=[0.0, 4.0, 3.0, 90.0])
    assert (found.seconds, found.basis) == (4.0, "others")
    assert limit(TIMING, paced(6.0), "exchange", 0, others_s=[4.0]).seconds == 12.0
    assert limit(TIMING, Pace(), "exchange", 0, others_s=[0.0]).basis == "ceiling"


def test_a_fresh_leader_waits_for_joins_as_long_as_the_others_would() -> None:
    swarm = Swarm(4, timing=Timing(form_s=30.0, exchange_s=60.0, certify_s=30.0, floor_s=1.0))
    swarm.start_round()
    order = next(iter(swarm.nodes.values())).machine.context.order
    for key in order[1:]:
        swarm.nodes[key].machine.context.pace.observe("form", 0.5, 0)
    silent = swarm.nodes[order[3]]
    swarm.close(*order[:3])
    silent.round = None  # connected, and not answering
    swarm.run(4.0)
    assert [len(swarm.nodes[key].commits) for key in order] == [1, 1, 1, 0]
    last = swarm.nodes[order[0]].machine.last
    assert last is not None
    assert last.limits["form"].basis == "others"


def test_only_a_link_far_below_most_is_slower_than_most() -> None:
    assert slower_than_most(200e3, [0.0, 0.0, 0.0])  # too fast to be measured
    assert not slower_than_most(400e3, [0.0, 0.0, 0.0])
    assert not slower_than_most(200e3, [500e3, 500e3, 0.0])
    assert slower_than_most(1e6, [1e7, 1e7, 1e3])
    assert not slower_than_most(0.0, [1e9]), "not measured: fast"
    assert not slower_than_most(1.0, [])


def test_one_that_is_slow_among_the_unmeasured_is_waited_for_where_steps_take_long() -> None:
    uploads = [0.0, 0.0, 0.0, 200e3]
    assert link_seconds(1e6, uploads, steps_s=60.0) == 5.0
    assert link_seconds(1e6, uploads, steps_s=16.0) == 0.0
    assert link_seconds(1e6, [0.0, 0.0], steps_s=60.0) == 0.0
    assert link_seconds(1e6, [200e3, 200e3, 400e3], steps_s=1.0) == 5.0, "most are slow"
