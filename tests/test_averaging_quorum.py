"""Quorums: how many decide, and that any two of them share an honest voter."""

from itertools import combinations

import pytest

from talkoot.averaging.quorum import leader_of, leader_order, max_faulty, quorum


@pytest.mark.parametrize(
    ("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (8, 6), (10, 7), (64, 43)]
)
def test_table(voters: int, needed: int) -> None:
    assert quorum(voters) == needed


@pytest.mark.parametrize("voters", range(1, 8))
def test_any_two_quorums_share_a_voter_that_does_not_lie(voters: int) -> None:
    faulty = max_faulty(voters)
    quorums = [set(some) for some in combinations(range(voters), quorum(voters))]
    assert all(len(one & other) >= faulty + 1 for one in quorums for other in quorums)


def test_quorums_are_the_smallest_that_do() -> None:
    for voters in range(1, 65):
        needed, faulty = quorum(voters), max_faulty(voters)
        assert 3 * faulty < voters <= 3 * (faulty + 1)
        assert 2 * needed - voters >= faulty + 1 > 2 * (needed - 1) - voters
        assert needed <= voters - faulty or voters == 2  # the honest can decide alone; two need both


def test_nobody_has_no_quorum() -> None:
    with pytest.raises(ValueError, match="nobody"):
        quorum(0)


def test_everyone_leads_in_turn_and_the_order_changes_with_the_state() -> None:
    voters = [bytes([number]) * 32 for number in range(7)]
    order = leader_order(reversed(voters), b"a" * 32)
    assert sorted(order) == voters
    assert order == leader_order(voters, b"a" * 32)
    assert [leader_of(order, attempt) for attempt in range(14)] == order + order
    firsts = {leader_order(voters, bytes([number]) * 32)[0] for number in range(50)}
    assert len(firsts) == len(voters)
