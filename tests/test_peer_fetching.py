"""Chunks come from several sources at once; what one of them does wrong costs little and never stays."""

import random
from functools import cache
from pathlib import Path

import pytest
from fetch_rig import (
    Fault,
    Make,
    Source,
    State,
    busy,
    corrupt,
    dead,
    fetch,
    gone,
    honest,
    is_whole,
    leaving,
    stalled,
    swapped,
    truncated,
)

from talkoot.averaging.digest import CHUNK_BYTES, state_tree
from talkoot.dht.memory import Link, MemoryHub
from talkoot.peer.assembly import NotFinite
from talkoot.peer.fetching import Incomplete

MB = 1e6


@cache
def small() -> State:
    """Three chunks and three, the last ones short."""
    return State(600_000)


@cache
def large() -> State:
    """Forty chunks and forty."""
    return State(40 * CHUNK_BYTES // 4 - 1000)


def sources(state: State, *faults: Fault, after: int = 0, link: Link | None = None) -> Make:
    def make(hub: MemoryHub) -> list[Source]:
        return [
            Source(hub, number, state, fault, after, link or Link()) for number, fault in enumerate(faults, 1)
        ]

    return make


def test_a_state_comes_from_all_of_them(tmp_path: Path) -> None:
    made: list[Source] = []

    def make(hub: MemoryHub) -> list[Source]:
        made.extend(sources(large(), honest, honest, honest, link=Link(upload=10 * MB))(hub))
        return made

    outcome = fetch(tmp_path, large(), make)
    assert is_whole(outcome, large())
    assert outcome.progress.wasted_bytes == 0
    assert outcome.progress.done_bytes == outcome.progress.total_bytes == large().num_bytes
    assert all(20 <= source.answered <= 34 for source in made)
    assert outcome.seconds < 1.1 * large().num_bytes / (30 * MB)


@pytest.mark.parametrize(("latency_s", "count"), [(0.001, 1), (0.02, 4)])
def test_a_link_of_400_megabits_is_filled(tmp_path: Path, latency_s: float, count: int) -> None:
    link = Link(latency_s=latency_s, upload=100 * MB)  # a channel has one chunk under way at a time
    outcome = fetch(tmp_path, large(), sources(large(), *[honest] * count, link=link), download=50 * MB)
    assert is_whole(outcome, large())
    assert large().num_bytes / outcome.seconds > 0.85 * 50 * MB


@cache
def medium() -> State:
    """Six chunks and six."""
    return State(6 * CHUNK_BYTES // 4 - 1000)


@pytest.mark.parametrize("count", [1, 4, 8])
@pytest.mark.parametrize("rate", [64e3, 200e3, 1e6])
def test_a_narrow_line_of_our_own_is_nobody_s_fault(tmp_path: Path, rate: float, count: int) -> None:
    link = Link(latency_s=0.02, upload=5 * MB)
    outcome = fetch(tmp_path, medium(), sources(medium(), *[honest] * count, link=link), download=rate)
    assert is_whole(outcome, medium())
    assert outcome.blamed == {}
    assert outcome.progress.wasted_bytes == 0
    assert outcome.seconds < 1.05 * medium().num_bytes / rate + 1


@pytest.mark.parametrize("fault", [stalled, dead, gone])
def test_a_narrow_line_and_a_fault(tmp_path: Path, fault: Fault) -> None:
    link = Link(latency_s=0.02, upload=5 * MB)
    made = sources(medium(), fault, honest, fault, honest, after=1, link=link)
    outcome = fetch(tmp_path, medium(), made, download=64e3)
    assert is_whole(outcome, medium())
    assert not {2, 4} & set(outcome.blamed)
    assert outcome.progress.wasted_bytes == 0


def test_a_source_that_trickles_is_left(tmp_path: Path) -> None:
    def make(hub: MemoryHub) -> list[Source]:
        return [
            Source(hub, 1, small(), link=Link(upload=2e3)),
            Source(hub, 2, small(), link=Link(upload=5e6)),
        ]

    outcome = fetch(tmp_path, small(), make)
    assert is_whole(outcome, small())
    assert outcome.seconds < 70


def test_a_slow_source_does_not_hold_up_the_others(tmp_path: Path) -> None:
    def make(hub: MemoryHub) -> list[Source]:
        return [
            Source(hub, 1, large(), link=Link(upload=20 * MB)),
            Source(hub, 2, large(), link=Link(upload=0.2 * MB)),
        ]

    outcome = fetch(tmp_path, large(), make)
    assert is_whole(outcome, large())
    assert outcome.seconds < 1.2 * large().num_bytes / (20 * MB) + 1
    assert outcome.progress.wasted_bytes <= 0.05 * large().num_bytes


FAULTS: dict[Fault, str | None] = {
    corrupt: "wrong_hash",
    truncated: "wrong_hash",
    swapped: "wrong_hash",
    stalled: None,
    dead: "lost",
    leaving: "ended",
    gone: None,
}
"""What the source is left for; None: not blamed, or not found out before the others are done."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("after", range(5))
def test_a_fault_at_every_point(tmp_path: Path, fault: Fault, after: int) -> None:
    def make(hub: MemoryHub) -> list[Source]:
        link = Link(upload=5 * MB)
        return [Source(hub, 1, small(), fault, after, link), Source(hub, 2, small(), link=link)]

    outcome = fetch(tmp_path, small(), make)
    assert is_whole(outcome, small())
    assert 2 not in outcome.blamed
    assert set(outcome.blamed.values()) <= {FAULTS[fault]}
    if after == 0 and FAULTS[fault] is not None:
        assert outcome.blamed == {1: FAULTS[fault]}


@pytest.mark.parametrize("fault", FAULTS)
def test_without_another_source_it_ends_incomplete_and_goes_on_later(tmp_path: Path, fault: Fault) -> None:
    outcome = fetch(tmp_path, small(), sources(small(), fault, after=2))
    assert isinstance(outcome.error, Incomplete)
    assert outcome.error.progressed
    assert outcome.error.moved_on == (fault is gone)
    under_way = 1 if fault is dead else 0  # what a source that dies has sent last does not arrive
    assert len(outcome.assembly.missing) == 4 + under_way
    again = fetch(tmp_path, small(), sources(small(), honest), prepare=lambda made: made.find(made.staged))
    assert is_whole(again, small())
    assert again.progress.received_bytes == sum(outcome.assembly.size(p) for p in outcome.assembly.missing)


def test_a_busy_source_is_asked_again(tmp_path: Path) -> None:
    outcome = fetch(tmp_path, small(), sources(small(), busy))
    assert is_whole(outcome, small())
    assert outcome.blamed == {}


def test_one_changed_chunk_costs_one_chunk(tmp_path: Path) -> None:
    state = State(600_000, seed=1)
    assert is_whole(fetch(tmp_path, state, sources(state, honest)), state)
    state.momentum[300_000] += 1.0
    state.tree = state_tree(state.theta, state.momentum, b"another ledger")
    outcome = fetch(tmp_path, state, sources(state, honest), prepare=lambda made: made.find(made.staged))
    assert is_whole(outcome, state)
    assert outcome.progress.received_bytes == CHUNK_BYTES


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_never_taken_whoever_certified_it(tmp_path: Path, number: float) -> None:
    state = State(600_000, seed=2)
    state.theta[400_000] = number
    state.tree = state_tree(state.theta, state.momentum, b"ledger")
    outcome = fetch(tmp_path, state, sources(state, honest, honest))
    assert isinstance(outcome.error, NotFinite)
    assert outcome.blamed == {}
    assert outcome.assembly.staged.theta.isfinite().all()


@pytest.mark.parametrize("seed", range(20))
def test_the_best_source_dies_another_lies_and_a_third_is_silent(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def make(hub: MemoryHub) -> list[Source]:
        links = [Link(latency_s=chance.uniform(0.002, 0.05), upload=rate * MB) for rate in (25, 12, 12, 10)]
        faults = (dead, corrupt, stalled, honest)
        points = (chance.randint(4, 40), chance.randint(0, 12), chance.randint(0, 12), 0)
        return [
            Source(hub, number, large(), fault, after, link)
            for number, (fault, after, link) in enumerate(zip(faults, points, links, strict=True), 1)
        ]

    outcome = fetch(tmp_path, large(), make, seed=seed, download=50 * MB)
    assert outcome.error is None
    assert is_whole(outcome, large())
    assert outcome.blamed[2] == "wrong_hash"
    assert outcome.blamed.get(3, "timeout") == "timeout"
    assert outcome.blamed.get(1, "lost") == "lost"
    assert 4 not in outcome.blamed
    assert outcome.received_bytes <= 1.05 * large().num_bytes
