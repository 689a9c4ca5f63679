"""Whether others can dial this node, the role that follows, and what a person is told."""

import pytest

from talkoot.dht.paths import Path
from talkoot.peer.options import Role
from talkoot.peer.reachability import MAX_VOTES, VOTE_S, Reachability, Votes, advice, effective_role


def votes_of(*said: tuple[bool, bool], now: float = 0.0) -> Votes:
    votes = Votes()
    for number, (reached, far) in enumerate(said):
        votes.note(bytes([number]) * 32, reached=reached, far=far, now=now)
    return votes


def test_nobody_asked_is_unknown_and_so_is_a_tie() -> None:
    assert Votes().state(0) == "unknown"
    assert votes_of((True, True), (False, True)).state(0) == "unknown"


def test_the_majority_counts_and_one_liar_changes_nothing() -> None:
    assert votes_of((True, True), (True, True), (False, True)).state(0) == "public"
    assert votes_of((False, True), (True, True), (False, True)).state(0) == "private"


def test_who_sees_us_at_a_public_address_knows_more_than_a_neighbour() -> None:
    assert votes_of((True, False), (True, False), (False, True)).state(0) == "private"
    assert votes_of((True, False)).state(0) == "public"


def test_answers_grow_old_and_are_few() -> None:
    votes = votes_of((True, True))
    assert votes.state(VOTE_S + 1) == "unknown"
    for number in range(100):
        votes.note(number.to_bytes(32, "big"), reached=False, far=True, now=1.0)
    assert len(votes._votes) == MAX_VOTES
    votes.forget()
    assert votes.state(1.0) == "unknown"


def test_one_peer_has_one_vote() -> None:
    votes = Votes()
    for _ in range(5):
        votes.note(b"a", reached=True, far=True, now=0.0)
    assert not votes.is_settled(0.0)
    assert votes_of(*[(True, True)] * 3).is_settled(0.0)


@pytest.mark.parametrize(
    ("wanted", "state", "paths", "role"),
    [
        ("full", "private", ["direct", "relayed"], "client"),
        ("full", "unknown", ["relayed"], "client"),
        ("full", "public", ["relayed"], "full"),
        ("full", "private", ["direct", "punched", "unreachable", "unknown"], "full"),
        ("full", "private", [], "full"),
        ("client", "public", ["direct"], "client"),
        ("observer", "private", ["relayed"], "observer"),
    ],
)
def test_the_role_follows_from_reachability_and_paths(
    wanted: Role, state: Reachability, paths: list[Path], role: Role
) -> None:
    found, cause = effective_role(wanted, state, {bytes([n]): path for n, path in enumerate(paths)})
    assert found == role
    assert cause == ("relayed" if found != wanted else "")


def test_a_person_is_told_what_to_do_and_nothing_where_all_is_well() -> None:
    assert advice("public", refused_by="", reservations=0, port=1) == ""
    assert advice("unknown", refused_by="swarm", reservations=0, port=1) == ""
    assert advice("private", refused_by="", reservations=1, port=1) == ""
    assert "TCP port 4001" in advice("private", refused_by="", reservations=0, port=4001)
    assert "--relay ADDR" in advice("private", refused_by="", reservations=0, port=0)
    assert "swarm.relayed" in advice("private", refused_by="swarm", reservations=0, port=1)
    assert "--relayed refuse" in advice("private", refused_by="node", reservations=0, port=1)
