"""A peer that fell behind, or went on alone, follows the others when it should, and only then."""

import os
from pathlib import Path

import pytest
from state_rig import (
    FOUNDERS,
    KEYS,
    RULES,
    Lie,
    World,
    advance,
    blamed,
    flip,
    found,
    keys,
    lying,
    run,
    same_state,
)

from talkoot.peer.certlog import CertLog
from talkoot.peer.holdings import number_of, open_holdings
from talkoot.peer.joining import Installed
from talkoot.peer.statedir import StateDir
from talkoot.peer.transfer import AskChunk


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable has tests of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Update:
    """A peer with its own holdings that asks a source for something better."""

    def __init__(self, tmp_path: Path) -> None:
        self.ours = found(tmp_path / "ours")
        self.theirs = found(tmp_path / "theirs")
        self.path = tmp_path / "ours"
        self.stopped = 0
        self.wanted = True
        self.rejected: dict[str, int] = {}

    def both(self, rounds: int) -> None:
        for _ in range(rounds):
            advance(self.ours)
            advance(self.theirs)

    async def stop(self) -> None:
        self.stopped += 1

    def run(self, lie: Lie | None = None) -> Installed | None:
        results: list[Installed | None] = []

        async def main(made: World) -> None:
            await made.serve(self.theirs, lie)
            joiner = await made.joiner(self.path)
            results.append(
                await joiner.update(
                    keys(1),
                    self.ours,
                    KEYS,
                    before_download=self.stop,
                    still_wanted=lambda: self.wanted,
                )
            )
            self.rejected = blamed(joiner)

        run(main)
        return results[0]


def test_the_next_round_of_others_is_installed(tmp_path: Path) -> None:
    update = Update(tmp_path)
    update.both(1)
    advance(update.theirs)
    installed = update.run()
    assert installed is not None
    assert (installed.missed, installed.left, installed.mode) == (1, 0, "rebase")
    assert same_state(update.ours, update.theirs)
    assert update.stopped == 1
    assert [number_of(item) for item in update.ours.certificates(0)] == [0, 1, 2]
    assert update.run() is None  # the same now
    assert update.stopped == 1


def test_several_rounds_are_caught_up_with(tmp_path: Path) -> None:
    update = Update(tmp_path)
    update.both(1)
    for _ in range(3):
        advance(update.theirs)
    installed = update.run()
    assert installed is not None
    assert (installed.missed, installed.left, installed.mode) == (3, 0, "rewarm")
    assert same_state(update.ours, update.theirs)
    assert [number_of(item) for item in update.ours.certificates(0)] == [0, 1, 2, 3, 4]


def test_a_peer_that_is_behind_is_neither_followed_nor_blamed(tmp_path: Path) -> None:
    update = Update(tmp_path)
    advance(update.ours)
    assert update.run() is None
    assert (update.stopped, update.rejected) == (0, {})


def test_a_final_round_beats_our_weak_ones(tmp_path: Path) -> None:
    update = Update(tmp_path)
    update.both(1)
    for _ in range(2):
        advance(update.ours, by=FOUNDERS[:1], weak=True, step=0.5)
    advance(update.theirs)
    installed = update.run()
    assert installed is not None
    assert (installed.missed, installed.left, installed.mode) == (1, 2, "rewarm")
    assert same_state(update.ours, update.theirs)
    assert [number_of(item) for item in update.ours.certificates(0)] == [0, 1, 2]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_disk_that_fills_up_while_a_branch_is_followed_does_not_keep_us_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    update = Update(tmp_path)
    update.both(1)
    for _ in range(3):
        advance(update.ours, by=FOUNDERS[:1], weak=True, step=0.5)
        advance(update.theirs)
    append, done = CertLog.append, 0

    def full(log: CertLog, number: int, content: bytes) -> None:
        nonlocal done
        if done == written:
            raise OSError("No space left on device")
        done += 1
        append(log, number, content)

    monkeypatch.setattr(CertLog, "append", full)
    with pytest.raises(ExceptionGroup) as failure:
        update.run()
    assert failure.group_contains(OSError, match="No space")
    monkeypatch.setattr(CertLog, "append", append)
    update.ours.close()
    update.ours = open_holdings(StateDir(update.path), RULES)
    assert update.ours.last_final().kind == "final"
    update.run()
    assert same_state(update.ours, update.theirs)


def test_our_final_round_is_never_rolled_back(tmp_path: Path) -> None:
    update = Update(tmp_path)
    update.both(1)
    advance(update.ours)
    for _ in range(3):
        advance(update.theirs, by=FOUNDERS[:2], weak=True, step=0.5)
    before = update.ours.digest
    assert update.run() is None
    assert update.ours.digest == before
    assert update.rejected == {"wrong_branch": 1}


def test_of_two_weak_branches_the_one_with_more_voters_is_followed(tmp_path: Path) -> None:
    update = Update(tmp_path)
    advance(update.ours, by=FOUNDERS[:1], weak=True, step=0.5)
    advance(update.theirs, by=FOUNDERS[1:], weak=True)
    installed = update.run()
    assert installed is not None
    assert same_state(update.ours, update.theirs)
    other = Update(tmp_path / "other")
    advance(other.ours, by=FOUNDERS[1:], weak=True, step=0.5)
    advance(other.theirs, by=FOUNDERS[:1], weak=True)
    assert other.run() is None
    assert other.stopped == 0


def test_more_weak_rounds_of_our_own_than_one_batch_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Update(tmp_path)
    for _ in range(5):
        advance(update.ours, by=FOUNDERS[:1], weak=True)
    for _ in range(4):
        advance(update.theirs, by=FOUNDERS[:1], weak=True)
    whole = update.ours.certificates
    monkeypatch.setattr(update.ours, "certificates", lambda first: whole(first)[:3])
    assert update.run() is None
    assert update.ours.ledger.round == 5


def test_nothing_is_installed_once_our_own_round_is_committed(tmp_path: Path) -> None:
    update = Update(tmp_path)
    advance(update.theirs)
    update.wanted = False
    assert update.run() is None
    assert update.stopped == 0
    assert update.ours.ledger.round == 0


def test_a_broken_download_leaves_our_state_alone(tmp_path: Path) -> None:
    update = Update(tmp_path)
    update.both(1)
    advance(update.theirs)
    before = update.ours.digest
    assert update.run(lying(AskChunk, flip(9))) is None
    assert update.rejected == {"wrong_hash": 1}
    assert update.ours.digest == before
    assert update.ours.store.compute_digest() == before
    advance(update.ours)
    assert update.ours.store.compute_digest() == update.ours.digest
