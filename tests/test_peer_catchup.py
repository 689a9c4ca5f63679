"""A peer that missed rounds replays them where that is cheaper, and believes no record that is not right."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from record_rig import SPARSE, opened, play
from state_rig import (
    FOUNDERS,
    KEYS,
    MANIFEST,
    NUMEL,
    Answered,
    Lie,
    Server,
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

from talkoot.dht.memory import MemoryHub
from talkoot.peer.holdings import Holdings, number_of
from talkoot.peer.joining import Installed, Joiner
from talkoot.peer.manifest import Manifest
from talkoot.peer.replaying import snapshot_bytes
from talkoot.peer.residual import Residual
from talkoot.peer.statedir import StateDir
from talkoot.peer.transfer import AskChunk, AskRecord, AskRecords, Request

Sources = list[tuple[Holdings, Lie | None]]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable has tests of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Late:
    """A peer that is behind, and what became of it when it asked others."""

    def __init__(self, ours: Holdings, path: Path) -> None:
        self.ours = ours
        self.path = path
        self.stopped = 0
        self.rejected: dict[str, int] = {}
        self.servers: list[Server] = []
        self.joiner: Joiner | None = None

    async def stop(self) -> None:
        self.stopped += 1

    def update(self, *sources: Holdings | tuple[Holdings, Lie | None]) -> Installed | None:
        results: list[Installed | None] = []

        async def main(made: World) -> None:
            for source in sources:
                await made.serve(*(source if isinstance(source, tuple) else (source,)))
            joiner = await made.joiner(self.path)
            asked = keys(len(sources))
            results.append(await joiner.update(asked, self.ours, KEYS, before_download=self.stop))
            self.rejected = blamed(joiner)
            self.servers = list(made.servers)
            assert joiner.progress is None

        run(main)
        return results[0]

    def asked(self, kind: type, server: int = 0) -> int:
        return sum(isinstance(request, kind) for request in self.servers[server].asked)


@pytest.fixture(params=["dense", "sparse"])
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return MANIFEST if request.param == "dense" else SPARSE


def pair(tmp_path: Path, manifest: Manifest = MANIFEST, *, missed: int = 3) -> tuple[Late, Holdings]:
    """One round together, then some without us."""
    ours, theirs = opened(tmp_path / "ours", manifest), opened(tmp_path / "theirs", manifest)
    for one in (ours, theirs):
        play(one)
    for _ in range(missed):
        play(theirs)
    return Late(ours, tmp_path / "ours"), theirs


def rounds_of(holdings: Holdings) -> list[int]:
    assert holdings.records is not None
    return [kept.round for kept in holdings.records.records]


def test_missed_rounds_are_replayed(manifest: Manifest, tmp_path: Path) -> None:
    late, theirs = pair(tmp_path, manifest)
    installed = late.update(theirs)
    assert installed is not None
    assert same_state(late.ours, theirs)
    assert late.ours.store.compute_digest() == theirs.digest
    assert (installed.missed, installed.left, installed.mode) == (3, 0, "rewarm")
    assert (installed.choice.way, installed.choice.reason, installed.choice.rounds) == (
        "replay",
        "cheaper",
        3,
    )
    assert late.asked(AskChunk) == 0
    assert late.stopped == 1
    assert [number_of(item) for item in late.ours.certificates(0)] == [0, 1, 2, 3, 4]
    assert rounds_of(late.ours)[-3:] == [1, 2, 3]  # kept for those who are behind us
    assert late.rejected == {}
    assert late.update(theirs) is None
    play(late.ours)
    play(theirs)
    assert late.ours.digest == theirs.digest


def test_a_single_missed_round_leaves_the_trainer_warm(tmp_path: Path) -> None:
    late, theirs = pair(tmp_path, missed=1)
    installed = late.update(theirs)
    assert installed is not None
    assert (installed.missed, installed.mode, installed.choice.way) == (1, "rebase", "replay")
    assert same_state(late.ours, theirs)


def test_weak_rounds_are_replayed_too(manifest: Manifest, tmp_path: Path) -> None:
    late, theirs = pair(tmp_path, manifest, missed=1)
    for _ in range(2):
        play(theirs, by=FOUNDERS[:1], weak=True)
    installed = late.update(theirs)
    assert installed is not None
    assert installed.choice.way == "replay"
    assert same_state(late.ours, theirs)


@pytest.mark.parametrize("counts", [True, False], ids=["counted", "left out"])
def test_the_books_are_the_same_as_after_a_snapshot(counts: bool, manifest: Manifest, tmp_path: Path) -> None:
    us = FOUNDERS[0]
    carries: list[torch.Tensor] = []
    for way in ("replay", "snapshot"):
        ours, theirs = opened(tmp_path / way / "ours", manifest), opened(tmp_path / way / "theirs", manifest)
        books = Residual(StateDir(tmp_path / way / "ours"), ours.rules)
        local = books.encode(
            ours.store.theta,
            ours.store.theta - 0.01 * torch.randn(NUMEL, generator=torch.Generator().manual_seed(3)),
            steps=20, tokens=100, ledger=ours.ledger, prior=ours.digest, admission=b"", signer=us,
        )  # fmt: skip
        assert local is not None
        everything = books.carry_P.clone()
        play(theirs, given=local if counts else None, by=FOUNDERS if counts else FOUNDERS[1:])
        for _ in range(2):
            play(theirs)
        if way == "snapshot":
            theirs.records = None
        installed = Late(ours, tmp_path / way / "ours").update(theirs)
        assert installed is not None
        assert installed.choice.way == way
        books.follow(ours.head, ours.certificate_of)
        assert torch.equal(books.carry_P, everything) == (not counts)
        assert (books.rounds, books.tokens) == ((0, 0) if counts else (1, 100))
        carries.append(books.carry_P)
    assert torch.equal(*carries)


# -- a snapshot instead ------------------------------------------------------------------------------------


def by_snapshot(late: Late, *sources: Holdings | tuple[Holdings, Lie | None]) -> str:
    """Update; it must come to a snapshot. The reason."""
    installed = late.update(*sources)
    assert installed is not None
    source = sources[-1][0] if isinstance(sources[-1], tuple) else sources[-1]
    assert same_state(late.ours, source)
    assert installed.choice.way == "snapshot"
    return installed.choice.reason


def test_a_snapshot_that_is_smaller(tmp_path: Path) -> None:
    late, theirs = pair(tmp_path, missed=8)
    assert by_snapshot(late, theirs) == "dearer"
    assert late.asked(AskRecords) == 0


def test_a_source_without_a_log(tmp_path: Path) -> None:
    ours, theirs = opened(tmp_path / "ours"), opened(tmp_path / "theirs", keep=False)
    for _ in range(2):
        play(theirs)
    late = Late(ours, tmp_path / "ours")
    assert by_snapshot(late, theirs) == "no_record"
    assert late.rejected == {}


def test_records_that_are_not_kept_any_more(tmp_path: Path) -> None:
    few = replace(MANIFEST, state=replace(MANIFEST.state, log_rounds=3))
    late, theirs = pair(tmp_path, few, missed=5)
    assert rounds_of(theirs) == [3, 4, 5]
    assert by_snapshot(late, theirs) == "no_record"
    assert late.asked(AskRecord) == 0


def test_a_branch_of_our_own_that_is_left(tmp_path: Path) -> None:
    late, theirs = pair(tmp_path, missed=1)
    play(late.ours, by=FOUNDERS[:1], weak=True, seed=7)
    assert by_snapshot(late, theirs) == "left_branch"
    assert rounds_of(late.ours) == [0]


def test_rounds_that_no_record_can_belong_to(tmp_path: Path) -> None:
    ours, theirs = opened(tmp_path / "ours"), found(tmp_path / "theirs")
    advance(theirs)  # certified without parts
    assert by_snapshot(Late(ours, tmp_path / "ours"), theirs) == "no_record"


def test_a_state_of_ours_that_is_not_what_it_should_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late, theirs = pair(tmp_path, missed=1)
    late.ours.store.theta[5] += 1.0
    assert by_snapshot(late, theirs) == "digest"
    assert "came to another digest" in caplog.text
    assert late.rejected == {}


# -- sources -----------------------------------------------------------------------------------------------


def test_records_come_from_whoever_has_them(tmp_path: Path) -> None:
    late, theirs = pair(tmp_path)
    other = opened(tmp_path / "other")
    for _ in range(4):
        play(other)
    assert theirs.records is not None
    assert other.records is not None
    theirs.records.keep_only(lambda kept: kept.round != 2)
    other.records.keep_only(lambda kept: kept.round == 2)
    installed = late.update(theirs, other)
    assert installed is not None
    assert installed.choice.way == "replay"
    assert same_state(late.ours, theirs)
    assert {late.asked(AskRecord, 0) > 0, late.asked(AskRecord, 1) > 0} == {True}


def test_a_source_that_dies_in_the_middle_of_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("talkoot.peer.catchup.MAX_RECORD_PIECE", 100_000)
    late, theirs = pair(tmp_path)
    other = opened(tmp_path / "other")
    for _ in range(4):
        play(other)

    def die(request: Request, honest: Answered) -> Answered:
        if isinstance(request, AskRecord) and request.offset > 300_000:
            late_hub[0].crash(keys(1)[0])
        return honest

    late_hub: list[MemoryHub] = []
    results: list[Installed | None] = []

    async def main(made: World) -> None:
        late_hub.append(made.hub)
        await made.serve(theirs, die)
        await made.serve(other)
        joiner = await made.joiner(late.path)
        results.append(await joiner.update(keys(2), late.ours, KEYS))
        assert blamed(joiner) == {}
        resumed = next(request for request in made.servers[1].asked if isinstance(request, AskRecord))
        assert resumed.offset > 200_000

    run(main)
    assert results[0] is not None
    assert results[0].choice.way == "replay"
    assert same_state(late.ours, theirs)


def test_a_record_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    late, theirs = pair(tmp_path, missed=2)
    asked: list[object] = []

    def not_yet(request: Request, honest: Answered) -> Answered:
        if not isinstance(request, AskRecords):
            return honest
        asked.append(request)
        if len(asked) == 1:
            return honest[0], msgspec.msgpack.encode(msgspec.msgpack.decode(honest[1])[:-1])
        return honest

    installed = late.update((theirs, not_yet))
    assert installed is not None
    assert installed.choice.way == "replay"
    assert len(asked) == 2
    assert same_state(late.ours, theirs)


def test_records_that_are_here_already_are_not_fetched(tmp_path: Path) -> None:
    late, theirs = pair(tmp_path)
    copy_records(theirs, late.ours, {1, 3})
    installed = late.update(theirs)
    assert installed is not None
    assert installed.choice.way == "replay"
    assert installed.choice.replay_bytes == records_of(theirs)[2]
    assert {request.value for request in late.servers[0].asked if isinstance(request, AskRecord)} == {
        theirs.certificates(3)[0].value.hash
    }
    assert same_state(late.ours, theirs)


def test_a_record_of_our_own_that_has_rotted_is_fetched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late, theirs = pair(tmp_path)
    copy_records(theirs, late.ours, {1, 2})
    path = StateDir(late.path).records / f"{2:012d}.record"
    data = bytearray(path.read_bytes())
    data[400_000] ^= 1
    path.write_bytes(data)
    installed = late.update(theirs)
    assert installed is not None
    assert installed.choice.way == "replay"
    assert "our own record of round 2 is damaged" in caplog.text
    assert same_state(late.ours, theirs)


def test_a_full_disk_costs_the_log_and_not_the_catching_up(tmp_path: Path) -> None:
    late, theirs = pair(tmp_path)
    records = late.ours.records
    assert records is not None

    def full(step: str) -> None:
        raise OSError("No space left on device")

    records._hook = full
    installed = late.update(theirs)
    assert installed is not None
    assert installed.choice.way == "replay"
    assert same_state(late.ours, theirs)
    assert rounds_of(late.ours) == [0]


def copy_records(source: Holdings, target: Holdings, rounds: set[int]) -> None:
    assert source.records is not None
    assert target.records is not None
    for kept in source.records.records:
        if kept.round in rounds:
            data = source.records.read(kept.value_hash, 0, kept.num_bytes)
            assert data is not None
            assert target.records.write(kept.round, kept.value_hash, kept.num_bytes, [data])


def records_of(holdings: Holdings) -> dict[int, int]:
    """Lengths by round."""
    assert holdings.records is not None
    return {kept.round: kept.num_bytes for kept in holdings.records.records}


# -- liars -------------------------------------------------------------------------------------------------


def listed_with(change: Callable[[list[list[Any]]], object]) -> Callable[[bytes], bytes]:
    def rewrite(data: bytes) -> bytes:
        return msgspec.msgpack.encode(change(msgspec.msgpack.decode(data)))

    return rewrite


def at_offset(low: int, change: Callable[[bytes], bytes]) -> Lie:
    """Wrong from this offset of a record on."""

    def lie(request: Request, honest: Answered) -> Answered:
        if isinstance(request, AskRecord) and request.offset + request.length > low:
            return honest[0], change(bytes(honest[1]))
        return honest

    return lie


def zeros(request: Request, honest: Answered) -> Answered:
    """The record of nothing."""
    return (honest[0], bytes(request.length)) if isinstance(request, AskRecord) else honest


LIES: dict[str, tuple[Lie, str]] = {
    "a wrong hash at the beginning": (at_offset(0, flip(3)), "wrong_hash"),
    "a wrong byte in a chunk": (at_offset(200, flip(5)), "wrong_hash"),
    "a wrong byte in the last chunk": (at_offset(600_000, flip(-1)), "wrong_hash"),
    "a truncated piece": (at_offset(200, lambda data: data[:-1]), "malformed"),
    "an empty piece": (at_offset(0, lambda data: b""), "malformed"),
    "a piece that is too long": (at_offset(0, lambda data: data + b"x"), "oversized"),
    "zeros": (zeros, "wrong_hash"),
    "another length": (
        lying(AskRecords, listed_with(lambda items: [[name, size + 1] for name, size in items])),
        "malformed",
    ),
    "a length below zero": (
        lying(AskRecords, listed_with(lambda items: [[name, -1] for name, size in items])),
        "malformed",
    ),
    "a huge length": (
        lying(AskRecords, listed_with(lambda items: [[name, 2**63] for name, size in items])),
        "malformed",
    ),
    "garbage for a list": (lying(AskRecords, lambda data: b"\xc1\xff"), "malformed"),
    "a list of something else": (lying(AskRecords, listed_with(lambda items: {"a": 1})), "malformed"),
    "a list that is too long": (lying(AskRecords, listed_with(lambda items: items * 2000)), "oversized"),
    "records that are gone": (lying(AskRecord, lambda data: None), "refused"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_liar_is_found_out_and_blamed(name: str, tmp_path: Path) -> None:
    lie, reason = LIES[name]
    late, theirs = pair(tmp_path, missed=2)
    before = late.ours.digest
    assert by_snapshot(late, (theirs, lie)) == ("no_record" if reason == "refused" else "bad_record")
    assert late.rejected == ({} if reason == "refused" else {reason: 1})
    assert before != late.ours.digest


@pytest.mark.parametrize("name", LIES)
def test_another_source_is_asked_for_the_rest(name: str, tmp_path: Path) -> None:
    lie, reason = LIES[name]
    late, theirs = pair(tmp_path, missed=2)
    other = opened(tmp_path / "other")
    for _ in range(3):
        play(other)
    installed = late.update((theirs, lie), other)
    assert installed is not None
    assert (installed.choice.way, installed.choice.reason) == ("replay", "cheaper")
    assert late.rejected == ({} if reason == "refused" else {reason: 1})
    assert same_state(late.ours, theirs)
    assert late.asked(AskChunk, 0) + late.asked(AskChunk, 1) == 0


def test_the_record_of_another_round_and_of_another_swarm(tmp_path: Path) -> None:
    late, theirs = pair(tmp_path, missed=2)
    assert theirs.records is not None
    wanted, other = (certificate.value.hash for certificate in theirs.certificates(2)[:2])

    def lie(request: Request, honest: Answered) -> Answered:
        if isinstance(request, AskRecord) and request.value == wanted:
            assert theirs.records is not None
            return "ok", theirs.records.read(other, request.offset, request.length) or b""
        return honest

    assert by_snapshot(late, (theirs, lie)) == "bad_record"
    assert late.rejected == {"wrong_hash": 1}
    again, theirs = pair(tmp_path / "again", missed=1)
    foreign = opened(tmp_path / "foreign")
    play(foreign, seed=99)
    play(foreign, seed=99)
    assert foreign.records is not None
    theirs.records, records = foreign.records, theirs.records
    assert by_snapshot(again, theirs) == "no_record"  # its records belong to no round of ours
    theirs.records = records


def test_who_gave_a_wrong_record_is_not_asked_for_records_for_a_while(tmp_path: Path) -> None:
    late, theirs = pair(tmp_path, missed=1)

    async def main(made: World) -> None:
        server = await made.serve(theirs, at_offset(0, flip(1)))
        joiner = await made.joiner(late.path)
        assert await joiner.update(keys(1), late.ours, KEYS) is not None
        play(theirs)
        server.asked.clear()
        installed = await joiner.update(keys(1), late.ours, KEYS)
        assert installed is not None
        assert installed.choice.reason == "no_record"
        assert not [request for request in server.asked if isinstance(request, AskRecord | AskRecords)]
        assert blamed(joiner) == {"wrong_hash": 1}

    run(main)
    assert same_state(late.ours, theirs)


# -- what people are told ----------------------------------------------------------------------------------


def test_the_log_says_which_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    late, theirs = pair(tmp_path)
    with caplog.at_level(logging.INFO, "talkoot.sync"):
        installed = late.update(theirs)
    assert installed is not None
    choice, numel = installed.choice, late.ours.rules.numel
    sizes = (sum(list(records_of(theirs).values())[-3:]), snapshot_bytes(numel))
    assert (choice.replay_bytes, choice.snapshot_bytes) == sizes
    both = "records 1.81 MB, snapshot 4.80 MB"
    assert f"with 3 rounds by replay ({both}): the records are smaller than a snapshot" in caplog.text
