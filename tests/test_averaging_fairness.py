"""Which cuts voters go on with: of those who are held, and of those who were counted before."""

from typing import Any

import pytest
from hostile_rig import Scene, exchanging, scene
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import Swarm

from talkoot.averaging import outputs
from talkoot.averaging.fairness import is_fair
from talkoot.averaging.messages import Cut, Message, sign
from talkoot.averaging.quorum import max_faulty


def keys(letters: str) -> frozenset[bytes]:
    return frozenset(letter.encode() for letter in letters)


@pytest.mark.parametrize(
    ("cut", "held", "usual", "fair"),
    [
        ("abcd", "abcd", "abcd", True),
        ("abc", "abcd", "", True),
        ("ab", "abc", "", True),
        ("ab", "abcd", "", False),
        ("a", "abcd", "", False),
        ("a", "a", "", True),
        ("a", "", "", True),
        ("ab", "", "abcd", True),
        ("a", "", "abcd", False),
        ("ax", "a", "abcd", False),
        ("x", "", "a", False),
    ],
)
def test_which_cuts_are_fair(cut: str, held: str, usual: str, fair: bool) -> None:
    assert is_fair(keys(cut), held=keys(held), usual=keys(usual)) is fair


@given(num=st.integers(4, 40), withheld=st.integers(0, 13))
def test_voters_who_withhold_make_no_honest_cut_unfair(num: int, withheld: int) -> None:
    everybody = frozenset(bytes([n]) for n in range(num))
    liars = frozenset(bytes([n]) for n in range(min(withheld, max_faulty(num))))
    assert is_fair(everybody - liars, held=everybody, usual=everybody)


def early_cut(made: Scene) -> Message:
    """The leader counts itself alone, though all has arrived."""
    values: dict[str, Any] = {"contributors": (made.leader.key,), "took_s": 0.1, "holdings": ()}
    return sign(Cut(**made.here, roster=made.roster.hash, **values), made.leader.signer)


def test_a_leader_that_counts_itself_alone_loses_its_attempt() -> None:
    made = scene(victim=1, until=exchanging)
    swarm, victim = made.swarm, made.victim
    swarm.run_until(lambda: len(made.exchange.held) == 4)
    outs = victim.machine.receive(made.leader.key, early_cut(made), swarm.now)
    (over,) = (out for out in outs if isinstance(out, outputs.AttemptOver))
    assert (over.reason, over.suspects) == ("unfair_cut", (made.leader.key,))


def test_who_holds_nothing_else_goes_on() -> None:
    made = scene(victim=1, until=exchanging)
    swarm, victim = made.swarm, made.victim
    swarm.run_until(lambda: made.exchange.held >= {made.leader.key})
    held = made.exchange.held
    outs = victim.machine.receive(made.leader.key, early_cut(made), swarm.now)
    ended = any(isinstance(out, outputs.AttemptOver) for out in outs)
    assert ended == (len(held) > 1)


@pytest.mark.parametrize(("until", "fair"), [(1e9, False), (0.0, True)])
def test_who_was_counted_is_missed_for_a_time(until: float, fair: bool) -> None:
    """Nobody but the first has made enough steps; all of them were counted in the last round."""
    swarm = Swarm(4)
    first, *others = swarm.nodes.values()
    for node in others:
        node.steps = 0
    swarm.start_round()
    for node in swarm.nodes.values():
        context = node.machine.context
        object.__setattr__(context, "counted", frozenset(swarm.nodes))
        object.__setattr__(context, "counted_until", until)
    swarm.close()
    swarm.run(5.0)
    commits = [node.commits for node in swarm.nodes.values()]
    assert all(commits) == fair
    if fair:
        assert {item.key for item in first.commits[0].value.cut} == {first.key}
    else:
        notes = [note for node in others for note in node.notes if isinstance(note, outputs.AttemptOver)]
        assert "unfair_cut" in {note.reason for note in notes}
