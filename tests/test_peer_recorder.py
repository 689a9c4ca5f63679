"""What a round was made of goes into the round log after the commit, and nothing waits for it."""

import asyncio
import logging
import os
from pathlib import Path

import pytest
from record_rig import SPARSE, commit_round, opened, play
from state_rig import FOUNDERS, MANIFEST, NUMEL

from talkoot.averaging.encoded import Encoded
from talkoot.averaging.record import RecordLayout
from talkoot.peer.holdings import Holdings, open_holdings
from talkoot.peer.manifest import Manifest
from talkoot.peer.recorder import Recorder
from talkoot.peer.roundlog import LogLimits, RoundLog, limits_of
from talkoot.peer.rules_of import rules_of
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.statedir import StateDir


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable has tests of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def rounds_of(holdings: Holdings) -> list[int]:
    assert holdings.records is not None
    return [kept.round for kept in holdings.records.records]


@pytest.mark.parametrize("manifest", [MANIFEST, SPARSE], ids=["dense", "sparse"])
def test_committed_rounds_are_recorded(manifest: Manifest, tmp_path: Path) -> None:
    ours = opened(tmp_path, manifest)

    async def main() -> None:
        recorder = Recorder(ours)
        for _ in range(2):
            certificate, before, encoded = commit_round(ours)
            await recorder.record(certificate.value, before, encoded)
            layout = RecordLayout(certificate.value, before, ours.rules)
            assert ours.records is not None
            kept = ours.records.find(certificate.value.hash)
            assert kept is not None
            assert kept.num_bytes == layout.num_bytes
            data = ours.records.read(kept.value_hash, 0, kept.num_bytes)
            assert data == b"".join(encoded.pieces(certificate.value, layout))

    run_virtual(main())
    assert rounds_of(ours) == [0, 1]
    ours.close()
    again = open_holdings(StateDir(tmp_path), rules_of(manifest))
    assert again.records is None
    again.keep_records(limits_of(manifest))
    assert rounds_of(again) == [0, 1]


def test_what_the_manifest_allows(tmp_path: Path) -> None:
    ours = opened(tmp_path)
    for _ in range(9):
        play(ours)
    assert limits_of(MANIFEST) == LogLimits(max_rounds=64, max_bytes=8 * NUMEL)
    assert rounds_of(ours) == [2, 3, 4, 5, 6, 7, 8]  # seven of int8 are less than parameters and momentum


def test_a_result_that_was_not_computed_here_has_no_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = opened(tmp_path)

    async def main() -> None:
        certificate, before, _ = commit_round(ours)
        nothing = Encoded(ours.rules.num_chunks)
        await Recorder(ours).record(certificate.value, before, nothing)

    with caplog.at_level(logging.INFO, "talkoot.state"):
        run_virtual(main())
    assert rounds_of(ours) == []
    assert "no record of round 0 is kept: different_value" in caplog.text


def test_without_a_log_nothing_is_recorded(tmp_path: Path) -> None:
    ours = opened(tmp_path, keep=False)
    certificate, before, encoded = commit_round(ours)
    run_virtual(Recorder(ours).record(certificate.value, before, encoded))
    assert not StateDir(tmp_path).records.exists()


def test_a_disk_that_is_slower_than_the_rounds_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = opened(tmp_path)
    made = [commit_round(ours) for _ in range(4)]

    async def slow(call: object, *arguments: object) -> None:
        await asyncio.sleep(1000.0)

    monkeypatch.setattr(asyncio, "to_thread", slow)

    async def main() -> None:
        recorder = Recorder(ours)
        async with asyncio.TaskGroup() as group:
            for certificate, before, encoded in made:
                group.create_task(recorder.record(certificate.value, before, encoded))

    run_virtual(main())
    late = [record.message for record in caplog.records if "too slow" in record.message]
    assert late == [f"no record of round {number} is kept: the disk is too slow" for number in (2, 3)]


def test_a_folder_that_cannot_be_used_costs_the_log_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = opened(tmp_path, keep=False)
    StateDir(tmp_path).records.write_text("in the way")
    ours.keep_records(limits_of(MANIFEST))
    assert ours.records is None
    assert "no records of rounds are kept" in caplog.text
    play(ours)
    assert ours.ledger.round == 1


def test_records_of_a_branch_that_was_left_do_not_stay(tmp_path: Path) -> None:
    ours, theirs = opened(tmp_path / "ours"), opened(tmp_path / "theirs")
    for one in (ours, theirs):
        play(one)
    play(ours, by=FOUNDERS[:1], weak=True, seed=7)
    chain = [play(theirs)]
    staged = ours.stage_download()
    staged.theta.copy_(theirs.store.theta)
    staged.momentum.copy_(theirs.store.momentum)
    assert rounds_of(ours) == [0, 1]
    ours.install_download(staged, theirs.tree, theirs.head, theirs.ledger, chain)
    assert rounds_of(ours) == [0]
    play(ours)
    play(theirs)
    assert ours.digest == theirs.digest
    assert rounds_of(ours) == [0, 2]


def test_records_of_no_round_of_ours_are_removed_at_the_start(tmp_path: Path) -> None:
    ours = opened(tmp_path)
    play(ours)
    stray = RoundLog(StateDir(tmp_path).records, limits_of(MANIFEST))
    assert stray.write(0, b"x" * 32, 3, [b"abc"])  # of another value
    assert stray.write(9, b"y" * 32, 3, [b"abc"])  # of a round that we never had
    ours.keep_records(limits_of(MANIFEST))
    assert rounds_of(ours) == []
