"""Voters without memory: when they keep silent, when they speak, and what a round is then."""

from itertools import product

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.memory import Memory, deciding, shows_all
from talkoot.averaging.quorum import max_faulty, quorum

LETTERS: dict[str, Memory] = {"w": "whole", "l": "lost", "r": "restored"}


def decide(voters: str) -> str:
    """Of voters given by a letter each, `-` for one that is away: which decide."""
    names = [bytes([number]) * 32 for number in range(len(voters))]
    members = {name: LETTERS[letter] for name, letter in zip(names, voters, strict=True) if letter != "-"}
    found = deciding(names, members)
    return "".join("x" if name in found else "." for name in names)


@pytest.mark.parametrize(
    ("voters", "expected"),
    [
        ("w", "x"),
        ("r", "x"),
        ("l", "."),
        ("wwww", "xxxx"),
        ("wwwl", "xxx."),  # three make it final, so the fourth is silent
        ("wwwr", "xxx."),
        ("www-", "xxx-".replace("-", ".")),
        ("wl", "xx"),  # what the first does not know was never final
        ("wr", "xx"),
        ("-l", ".."),
        ("rr", "xx"),
        ("ll", ".."),
        ("wwl", "xx."),
        ("wl-", "x.."),  # those two may have made a value final that the first never saw
        ("wr-", "x.."),
        ("rrr-", "xxx."),  # a quorum began anew
        ("rrrr", "xxxx"),
        ("rrrw", "xxxx"),
        ("rrrl", "xxx."),
        ("rrww", "..xx"),
        ("rr--", "...."),
        ("lll-", "...."),
        ("wwwll", "xxxxx"),
        ("wwwl-", "xxxx."),
        ("wwll-", "xx..."),
    ],
)
def test_who_decides(voters: str, expected: str) -> None:
    assert decide(voters) == expected


def test_strangers_do_not_count() -> None:
    assert deciding([b"a", b"b"], {b"a": "whole", b"x": "whole", b"y": "restored"}) == {b"a"}


def _hidden(voters: str) -> int:
    """Most signatures under a value of which those that remember and are honest show nothing."""
    return sum(letter != "w" for letter in voters) + max_faulty(len(voters))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_silence_is_broken_only_where_it_can_do_no_harm_or_a_quorum_vouches(count: int) -> None:
    for letters in product("wlr-", repeat=count):
        voters = "".join(letters)
        found = decide(voters)
        speaking = {voters[number] for number, mark in enumerate(found) if mark == "x"}
        assert "-" not in speaking
        if voters.count("r") >= quorum(count):
            continue
        assert not speaking & {"l", "r"} or _hidden(voters) < quorum(count)


@given(st.text("wlr-", min_size=1, max_size=20))
@examples(200)
def test_who_remembers_always_decides(voters: str) -> None:
    found = decide(voters)
    assert all(mark == "x" for letter, mark in zip(voters, found, strict=True) if letter == "w")


@pytest.mark.parametrize(
    ("locked", "shown", "expected"),
    [(None, [], True), (None, [1], False), (1, [1, 0], True), (0, [1], False), (2, [1], True)],
)
def test_a_lock_that_a_member_shows_is_not_passed_over(
    locked: int | None, shown: list[int], expected: bool
) -> None:
    assert shows_all(locked, shown) is expected
