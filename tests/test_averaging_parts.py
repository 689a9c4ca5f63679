"""Parts: shares by water-filling, whole chunks, nothing twice and no hole."""

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.parts import MAX_CLAIM, Part, assign_parts, parts_problem, water_fill

BANDWIDTHS = st.lists(st.floats(1e3, 1e9), min_size=1, max_size=8)


def slowest(shares: list[float], bandwidths: list[float], num_peers: int) -> float:
    """Time of the slowest reducer: it sends 1 + (n - 2) w of the vector."""
    return max((1 + (num_peers - 2) * w) / b for w, b in zip(shares, bandwidths, strict=True))


def by_bisection(bandwidths: list[float], num_peers: int) -> float:
    """The least time in which the whole vector can be shared out; nobody takes less than nothing."""
    low, high = 0.0, 1e9
    for _ in range(200):
        time = (low + high) / 2
        room = sum(max(0.0, (time * b - 1) / (num_peers - 2)) for b in bandwidths)
        low, high = (low, time) if room >= 1 else (time, high)
    return high


@examples(100)
@given(BANDWIDTHS, st.integers(0, 8))
def test_shares_sum_to_one_and_nobody_reduces_less_than_nothing(bandwidths: list[float], more: int) -> None:
    shares = water_fill(bandwidths, len(bandwidths) + more)
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) >= 0


@examples(100)
@given(BANDWIDTHS, st.integers(0, 8))
def test_no_other_shares_are_faster(bandwidths: list[float], more: int) -> None:
    num_peers = max(3, len(bandwidths) + more)
    shares = water_fill(bandwidths, num_peers)
    loaded = [(w, b) for w, b in zip(shares, bandwidths, strict=True) if w > 0]
    ours = slowest([w for w, _ in loaded], [b for _, b in loaded], num_peers)
    assert ours == pytest.approx(by_bisection(bandwidths, num_peers), rel=1e-6)


def test_equal_links_share_equally_and_one_slow_link_reduces_nothing() -> None:
    assert water_fill([5.0] * 4, 4) == pytest.approx([0.25] * 4)
    assert water_fill([100.0, 100.0, 100.0, 1.0], 4)[3] == 0.0
    assert water_fill([1.0, 1000.0], 2) == [0.5, 0.5]  # each sends and receives one vector, whatever it takes


REDUCERS = st.lists(
    st.tuples(st.binary(min_size=4, max_size=4), st.floats(0, allow_nan=False, allow_infinity=False)),
    min_size=1,
    max_size=8,
    unique_by=lambda item: item[0],
)


@examples(150)
@given(REDUCERS, st.integers(1, 40), st.integers(0, 4))
def test_parts_cover_every_chunk_once(
    reducers: list[tuple[bytes, float]], num_chunks: int, more: int
) -> None:
    num_peers = len(reducers) + more
    parts = assign_parts(reducers, num_chunks, num_peers)
    keys = [key for key, _ in reducers]
    assert [chunk for part in parts for chunk in part.chunks] == list(range(num_chunks))
    assert parts_problem(parts, num_chunks, set(keys)) is None
    assert [key for key in keys if key in {part.reducer for part in parts}] == [p.reducer for p in parts]


@examples(50)
@given(st.lists(st.floats(1e6, MAX_CLAIM * 1e6), min_size=1, max_size=8), st.integers(1, 40))
def test_no_part_is_a_chunk_away_from_its_share(bandwidths: list[float], num_chunks: int) -> None:
    reducers = [(bytes([i]), b) for i, b in enumerate(bandwidths)]
    shares = water_fill(bandwidths, len(reducers))
    sizes = {part.reducer: part.num_chunks for part in assign_parts(reducers, num_chunks, len(reducers))}
    for (key, _), share in zip(reducers, shares, strict=True):
        assert abs(sizes.get(key, 0) - share * num_chunks) < 1 + 1e-6


def test_a_claim_without_measure_does_not_win_the_whole_vector() -> None:
    honest = [(bytes([i]), 1e6) for i in range(7)]
    boastful = assign_parts([*honest, (b"x", 1e308)], 80, 8)
    capped = assign_parts([*honest, (b"x", MAX_CLAIM * 1e6)], 80, 8)
    assert boastful == capped
    assert all(part.num_chunks < 80 for part in boastful)


def test_a_link_that_was_not_measured_counts_as_a_typical_one() -> None:
    sizes = [part.num_chunks for part in assign_parts([(b"a", 10.0), (b"b", 0.0), (b"c", 10.0)], 9, 3)]
    assert sizes == [3, 3, 3]
    assert [part.num_chunks for part in assign_parts([(b"a", 0.0), (b"b", 0.0)], 5, 2)] == [3, 2]


def test_one_with_a_limit_does_not_reduce_as_much_as_those_that_are_too_fast_to_be_measured() -> None:
    fast = [(b"a", 0.0), (b"b", 0.0), (b"c", 0.0)]
    assert [part.reducer for part in assign_parts([*fast, (b"d", 128e3)], 8, 4)] == [b"a", b"b", b"c"]
    slow = [(b"a", 500e3), (b"b", 500e3), (b"c", 500e3)]  # most are known
    assert [part.num_chunks for part in assign_parts([*slow, (b"d", 0.0)], 8, 4)] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([("a", 0, 2), ("b", 2, 3)], None),
        ([], "cover"),
        ([("a", 0, 5), ("a", 5, 0)], "two parts"),
        ([("a", 0, 2), ("x", 2, 3)], "may not reduce"),
        ([("a", 0, 3), ("b", 2, 3)], "overlap"),
        ([("a", 0, 2), ("b", 3, 2)], "hole"),
        ([("b", 2, 3), ("a", 0, 2)], "hole"),
        ([("a", 0, 2), ("b", 2, 2)], "cover"),
        ([("a", 0, 2), ("b", 2, 4)], "cover"),
        ([("a", 0, 5), ("b", 5, 0)], "hole"),
        ([("a", 0, 6), ("b", 6, -1)], "hole"),
        ([("a", -1, 6)], "hole"),
        ([("a", 0, 2**60)], "cover"),
    ],
)
def test_problems_of_parts(parts: list[tuple[str, int, int]], problem: str | None) -> None:
    given_parts = [Part(reducer.encode(), first, count) for reducer, first, count in parts]
    found = parts_problem(given_parts, 5, {b"a", b"b", b"c"})
    assert (found is None) if problem is None else (found is not None and problem in found)


@pytest.mark.parametrize("num_peers", [1, 4])
def test_nobody_reduces_nothing(num_peers: int) -> None:
    assert assign_parts([], 5, num_peers) == ()


def test_absurd_claims_count_as_none_or_as_the_limit() -> None:
    def sizes(*bandwidths: float) -> list[int]:
        parts = assign_parts([(bytes([i]), b) for i, b in enumerate(bandwidths)], 12, len(bandwidths))
        return [part.num_chunks for part in parts]

    assert sizes(2.2e-309, 0.0, 0.0) == [4, 4, 4]
    assert sizes(1.7e308, 1.7e308, 1.7e308) == [4, 4, 4]
