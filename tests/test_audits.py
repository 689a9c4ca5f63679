"""Whole nodes and one that lies: it is proven and banned, and nobody else ever is."""

from pathlib import Path

import pytest

from talkoot.peer.node import Node
from talkoot.peer.simulation.trial import Trial
from talkoot.peer.simulation.villains import (
    Villainy,
    accuse,
    equivocate,
    lie,
    note_parts,
    withhold_from,
    withhold_slices,
)

NUM_PEERS = 5


def others(trial: Trial, first: int = 1) -> list[Node]:
    return [peer.node for peer in trial.world.peers[first:] if peer.node is not None]


@pytest.mark.parametrize(("villainy", "within"), [(lie, 20), (equivocate, 2)])
def test_a_reducer_that_lies_is_proven_and_banned(tmp_path: Path, villainy: Villainy, within: int) -> None:
    trial = Trial(tmp_path, NUM_PEERS)
    liar = trial.key(0)
    lied_in: set[int] = set()

    def turn(node: Node) -> None:
        villainy(node)
        note_parts(node, lied_in)

    trial.play(turn, lambda: trial.villain_is_out and trial.round >= trial.banned_at[liar] + 3)
    assert set(trial.bans) == {liar}  # nobody else, in nobody's opinion
    assert 0 < sum(number <= trial.banned_at[liar] + 1 for number in lied_in) <= within
    assert all(liar not in reducers for reducers in trial.reducers[-2:])
    assert all(len(digests) == 1 for digests in trial.heads.values())


def test_who_does_not_produce_what_it_claims_to_hold_gets_no_part_and_no_ban(tmp_path: Path) -> None:
    trial = Trial(tmp_path, NUM_PEERS)
    key = trial.key(0)

    def doubted() -> bool:
        return all(key in node.proofs.convictions.barred(trial.round + 1) for node in others(trial))

    trial.play(withhold_slices, doubted)
    assert trial.bans == {}


def test_a_contribution_that_is_withheld_from_one_is_left_out(tmp_path: Path) -> None:
    trial = Trial(tmp_path, NUM_PEERS)
    victim = trial.key(1)
    trial.play(withhold_from(victim), lambda: trial.round >= trial.turned + 5)
    rounds = list(zip(trial.cuts, trial.reducers, strict=True))[trial.turned + 2 :]
    lacking = [cut for cut, reducers in rounds if victim in reducers]
    assert lacking
    assert all(trial.key(0) not in cut for cut in lacking)
    assert trial.bans == {}


def test_a_false_accusation_falls_back_on_who_makes_it(tmp_path: Path) -> None:
    trial = Trial(tmp_path, NUM_PEERS)
    victim = trial.key(1)

    def refused() -> bool:  # the victim is not told
        return all(node.conduct.standing(trial.key(0)).points > 0 for node in others(trial, 2))

    def reduces() -> bool:
        return any(victim in reducers for reducers in trial.reducers[trial.turned + 2 :])

    trial.play(accuse(victim), lambda: refused() and reduces())
    assert set(trial.bans) <= {trial.key(0)}
    assert reduces()
