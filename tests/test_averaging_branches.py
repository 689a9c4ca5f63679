"""Which branch is followed: a table, and that both sides choose the same."""

import pytest
from averaging_help import certify, keys_of, make_contribution, make_value, peers
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.branches import choose, loose_end, outvoted
from talkoot.averaging.certificate import Certificate
from talkoot.averaging.quorum import quorum

PEERS = peers(12)
FOUR, SYBILS = PEERS[:4], PEERS[4:]
VOTERS = keys_of(FOUR)


def link(signers: str, digest: int, *, weak: bool = True) -> Certificate:
    """A certificate signed by the peers with these letters (a to d are the voters)."""
    by = [PEERS[ord(letter) - ord("a")] for letter in signers]
    cut = (make_contribution(by[0]),) if by else ()
    value = make_value(by, FOUR, digest=bytes([digest]) * 32, cut=cut)
    return certify(value, by, weak=weak)


def weak(signers: str, digest: int) -> Certificate:
    return link(signers, digest)


def final(signers: str, digest: int) -> Certificate:
    return link(signers, digest, weak=False)


COMMON = weak("ab", 9)
FORGED = [weak("d", 1), final("efghijkl", 0), final("efghijkl", 1)]

TABLE: list[tuple[str, list[Certificate], list[Certificate], str]] = [
    ("the same", [COMMON], [COMMON], "ours"),
    ("nothing on either side", [], [], "ours"),
    ("theirs goes on", [], [weak("a", 1)], "theirs"),
    ("theirs goes on from ours", [COMMON], [COMMON, weak("a", 1)], "theirs"),
    ("ours goes on", [COMMON, weak("a", 1)], [COMMON], "ours"),
    ("ours goes on from nothing", [weak("a", 1)], [], "ours"),
    ("final beats weak", [weak("abcd", 1)], [final("abc", 2)], "theirs"),
    ("weak does not beat final", [final("abc", 2)], [weak("abcd", 1)], "ours"),
    ("final beats longer", [weak("ab", 1), weak("ab", 2), weak("ab", 3)], [final("abc", 9)], "theirs"),
    ("final later still beats weak", [weak("ab", 1)], [weak("c", 2), final("bcd", 3)], "theirs"),
    ("more voters win", [weak("a", 1)], [weak("bc", 2)], "theirs"),
    ("fewer do not", [weak("bc", 2)], [weak("a", 1)], "ours"),
    ("voters count once", [weak("ab", 2)], [weak("c", 1), weak("c", 1), weak("c", 1)], "ours"),
    ("over the whole branch", [weak("ab", 1)], [weak("cd", 2), weak("b", 3)], "theirs"),
    ("only the common voters count", [weak("a", 2)], [weak("efgh", 1)], "ours"),
    ("the lower digest at a tie", [weak("ab", 2)], [weak("cd", 1)], "theirs"),
    ("the higher one loses", [weak("ab", 1)], [weak("cd", 2)], "ours"),
    ("the tie is broken where they part", [COMMON, weak("a", 2)], [COMMON, weak("b", 1)], "theirs"),
    ("length does not break a tie", [weak("ab", 1)], [weak("cd", 2), weak("cd", 0)], "ours"),
    ("what came before they parted does not count", [COMMON, weak("c", 1)], [COMMON, weak("d", 2)], "ours"),
    # One voter alone may name any voters in a weak round, who then sign what they call final.
    ("a weak round makes nobody's friends final", [weak("ab", 9)], FORGED, "ours"),
    ("nor against a final round", [final("abc", 9)], FORGED, "ours"),
    ("and final rounds beat them", FORGED, [final("abc", 9)], "theirs"),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_table(ours: list[Certificate], theirs: list[Certificate], expected: str) -> None:
    choice, reason = choose(ours, theirs, VOTERS)
    assert choice == expected
    assert reason


LINKS = [weak("a", 1), weak("b", 2), weak("ab", 3), weak("cd", 4), final("abc", 5), final("efgh", 6)]
BRANCHES = st.lists(st.sampled_from(LINKS), max_size=3)


@examples(200)
@given(BRANCHES, BRANCHES)
def test_two_peers_choose_the_same_branch(one: list[Certificate], other: list[Certificate]) -> None:
    same = [link.value.hash for link in one] == [link.value.hash for link in other]
    choices = (choose(one, other, VOTERS)[0], choose(other, one, VOTERS)[0])
    assert choices == ("ours", "ours") if same else sorted(choices) == ["ours", "theirs"]


@pytest.mark.parametrize(
    ("weak_ones", "here", "expected"),
    [
        pytest.param([weak("d", 1)], "abc", True, id="one alone, while a quorum is here"),
        pytest.param([weak("d", 1), weak("d", 2)], "abc", True, id="again and again"),
        pytest.param([weak("d", 1)], "abcd", True, id="it is here itself, and signed"),
        pytest.param([weak("d", 1)], "ab", False, id="no quorum is here"),
        pytest.param([weak("d", 1)], "abefgh", False, id="strangers are no quorum"),
        pytest.param([weak("cd", 1)], "abcd", False, id="more than may lie signed"),
        pytest.param([weak("c", 1), weak("d", 2)], "abcd", False, id="in turn"),
        pytest.param([weak("efgh", 1)], "abc", True, id="strangers signed"),
        pytest.param([], "abcd", False, id="nothing is weak"),
    ],
)
def test_weak_rounds_are_left_to_few_while_a_quorum_is_here(
    weak_ones: list[Certificate], here: str, expected: bool
) -> None:
    keys = keys_of([PEERS[ord(letter) - ord("a")] for letter in here])
    assert outvoted(weak_ones, VOTERS, keys) is expected


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 7, 10, 12])
def test_who_may_lie_is_outvoted_by_all_others_and_nobody_else_is(num: int) -> None:
    voters = keys_of(PEERS[:num])
    for signers in range(num + 1):
        by = PEERS[:signers]
        value = make_value(by or PEERS[:1], PEERS[:num], cut=(make_contribution(PEERS[0]),))
        certificate = certify(value, by, weak=True)
        assert outvoted([certificate], voters, voters) is (signers <= num - quorum(num))


def test_the_loose_end_is_what_no_final_round_follows() -> None:
    tail = [weak("d", 5), weak("d", 6)]
    assert loose_end([weak("a", 1), final("abc", 2), *tail], VOTERS)[0] == tail
    assert loose_end(tail, VOTERS) == (tail, VOTERS)
    assert loose_end([*tail, final("abc", 7)], VOTERS)[0] == []
    assert loose_end(FORGED, VOTERS) == (FORGED, VOTERS), "friends make nothing final"
