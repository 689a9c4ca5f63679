"""What must happen after the faults: the checker accepts late starts, and notices who never comes along."""

import asyncio

import pytest

from talkoot.peer.simulation.liveness import HEAL_ROUNDS, Liveness
from talkoot.peer.simulation.run import run_seed
from talkoot.peer.swarming import Swarming

A, B = b"a" * 32, b"b" * 32


def test_the_last_of_three_rounds_is_early_enough_and_a_fourth_is_too_many() -> None:
    liveness = Liveness([A, B], [])
    for number in range(HEAL_ROUNDS):
        assert liveness.head(A, b"%d" % number, [A])
    assert liveness.without_commit == [B]
    late = Liveness([A, B], [])
    for number in range(HEAL_ROUNDS):
        late.head(A, b"%d" % number, [A])
    assert late.head(B, b"2", [A])
    assert late.head(A, b"3", [A])
    assert not liveness.head(A, b"3", [A])


def test_rounds_that_somebody_held_before_do_not_count() -> None:
    liveness = Liveness([A, B], [b"old"])
    liveness.head(A, b"new", [A, B])
    liveness.head(B, b"old", [A, B])
    assert liveness.without_commit == [B]
    assert not liveness.healed([b"old", b"old"])


def test_all_must_have_taken_part_and_hold_one_new_state() -> None:
    liveness = Liveness([A, B], [b"old"])
    liveness.head(A, b"1", [A])
    liveness.head(B, b"1", [A])
    assert not liveness.healed([b"1", b"1"])  # B has only fetched
    liveness.head(A, b"2", [A, B])
    assert not liveness.healed([b"2", b"1"])
    liveness.head(B, b"2", [A, B])
    assert liveness.healed([b"2", b"2"])
    assert not liveness.healed([b"2", None])
    assert not liveness.healed([b"old", b"old"])


def test_a_swarm_whose_peers_never_catch_up_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_swarming: Swarming) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Swarming, "_follow_frontier", never)
    result, _ = run_seed(peers=4, seed=0, kinds=("freeze",), rounds=2)
    assert "not all committed within" in result.liveness_violations[0]
    assert result.rounds_committed < 20  # it did not wait for the time limit to say so
