"""A node vouches for no more new voters of one address prefix than may lie."""

from talkoot.peer.vouching import vouches

VOTERS = [bytes([number]) * 32 for number in range(9)]
NEW = b"n" * 32


def test_one_voter_of_a_prefix_always_and_more_only_as_many_as_may_lie() -> None:
    here, there = "203.0.114.0/24", "198.52.100.0/24"
    assert vouches(NEW, VOTERS[:1], {NEW: here, VOTERS[0]: there})
    assert not vouches(NEW, VOTERS[:1], {NEW: here, VOTERS[0]: here})
    two = {NEW: here, VOTERS[0]: here, VOTERS[1]: here}
    assert vouches(NEW, VOTERS, two)  # three of ten
    assert not vouches(NEW, VOTERS, two | {VOTERS[2]: here})


def test_nothing_is_held_against_who_was_never_seen_or_is_in_a_local_network() -> None:
    assert vouches(NEW, VOTERS[:2], dict.fromkeys(VOTERS, "198.52.100.0/24"))
    assert vouches(NEW, VOTERS[:2], dict.fromkeys([NEW, *VOTERS], "192.168.1.0/24"))
    assert vouches(NEW, VOTERS[:2], dict.fromkeys([NEW, *VOTERS], "127.0.0.0/24"))
