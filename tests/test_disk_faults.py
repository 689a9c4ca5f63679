"""Whole nodes whose disks refuse: paused with the reason, back by themselves, and nothing lost.

Each test is one place on one peer's disk, and in turn every error there that may pass.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from archive_rig import ARCHIVIST, FOUNDERS, Archive, Peer, play
from disk_rig import FaultyDisks, faulty_disks

from talkoot.dht.identity import Identity
from talkoot.peer.checkpoints import stored
from talkoot.peer.disk import KINDS, WORDS
from talkoot.peer.manifest import State
from talkoot.peer.status import status
from talkoot.peer.verify import verify

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EIO)

WHILE_S = 12.0
"""Virtual seconds that a fault lasts once it was met, or that one is waited for which may not be met."""

GENERATION, HEAD, SNAPSHOT = r"^outer/[abc]/", r"^outer/\.?HEAD", r"^outer/\.?SNAPSHOT"
CERTIFICATES, JOURNAL = r"^rounds\.log", r"^\.?journal"
EVERYTHING = ""

Script = Callable[[Archive, FaultyDisks, Peer, list[Peer]], Awaitable[None]]


def three(folder: Path, script: Script, *, checkpoint_every: int = 0) -> None:
    """Play with a victim and two others that have come through a round with it."""

    async def main(archive: Archive) -> None:
        with faulty_disks() as disks:
            peers = [archive.start(identity, checkpoint_every=checkpoint_every) for identity in FOUNDERS[:3]]
            await archive.together(*peers)
            await script(archive, disks, peers[0], peers[1:])

    play(folder, main)


def faults_of(peer: Peer, code: int) -> float:
    """How often it says to have been paused for that."""
    value = peer.node.metrics.registry.get_sample_value("talkoot_disk_faults_total", {"reason": KINDS[code]})
    assert value is not None
    return value


async def paused(archive: Archive, disks: FaultyDisks, victim: Peer, code: int) -> None:
    """The fault is met, and told in status and metrics."""
    before = faults_of(victim, code)
    await archive.until(lambda: victim.node.state == "paused")
    shown = status(victim.node, 0)
    assert (shown["state"], shown["reason"], shown["disk"]) == ("paused", "disk", WORDS[KINDS[code]])
    assert faults_of(victim, code) <= max(1.0, before + 1)
    state = victim.node.metrics.registry.get_sample_value("talkoot_node_state", {"state": "paused"})
    assert state == 1.0
    assert disks.hits


async def back(archive: Archive, victim: Peer, others: list[Peer]) -> None:
    """It holds what the others hold, and is counted again."""
    seen = others[0].round
    await archive.together(victim, *others, since=seen)
    assert status(victim.node, 0)["disk"] is None

    def counted() -> bool:
        later = [head for head in others[0].heads if head.value.round >= seen]
        return any(victim.identity.key in {item.key for item in head.value.cut} for head in later)

    await archive.until(counted)
    await archive.together(victim, *others, since=seen + 1)


async def sound(archive: Archive, victim: Peer) -> None:
    """What lies on its disk afterwards is whole."""
    await archive.stop(victim)
    assert verify(victim.folder).ok


def warned(caplog: pytest.LogCaptureFixture, word: str) -> int:
    lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    return sum(word in line for line in lines)


RUNNING = {
    "generation": GENERATION,
    "head": HEAD,
    "certificates": CERTIFICATES,
    "journal": JOURNAL,
    "snapshot-of-the-trainer": r"^trainer/snapshot",
    "contribution": r"^contributions/",
    "carried": r"^\.?residual\.kept",
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("place", RUNNING)
def test_a_running_node_waits_for_its_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    async def script(archive: Archive, disks: FaultyDisks, victim: Peer, others: list[Peer]) -> None:
        for code in CODES:
            if (place, code) == ("certificates", errno.EMFILE):
                continue  # the log stays open
            disks.fail(victim.folder, RUNNING[place], code)
            await paused(archive, disks, victim, code)
            made = victim.node.contributor.residual.rounds  # type: ignore[union-attr]
            seen, steps = others[0].round, victim.trainers[0]._steps()
            await asyncio.sleep(WHILE_S)
            await archive.until(lambda seen=seen: others[0].round > seen)  # type: ignore[misc]
            assert victim.node.state == "paused"
            assert victim.trainers[0]._steps() == steps  # it does not work meanwhile
            assert victim.node.contributor.residual.rounds == made  # type: ignore[union-attr]
            disks.heal()
            await back(archive, victim, others)
        assert len(victim.trainers) == 1  # its local work was never given up
        assert 1 <= warned(caplog, "paused until") <= len(CODES)
        assert not warned(caplog, "lost:")
        await sound(archive, victim)

    three(tmp_path, script)


OPTIONAL = {"records": r"^records/", "snapshot": SNAPSHOT, "checkpoint": r"^checkpoints/"}


@pytest.mark.parametrize("place", OPTIONAL)
def test_what_is_not_needed_is_all_that_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    async def script(archive: Archive, disks: FaultyDisks, victim: Peer, others: list[Peer]) -> None:
        assert victim.node.holdings is not None
        victim.node.holdings.keep = State(snapshot_rounds=2)
        for code in CODES:
            caplog.clear()
            disks.fail(victim.folder, OPTIONAL[place], code)
            await archive.until(lambda: bool(disks.hits))
            await archive.together(victim, *others, since=others[0].round + 1)
            assert faults_of(victim, code) == 0
            assert warned(caplog, "") <= 2
            disks.heal()
            healed = victim.round
            await archive.until(lambda healed=healed: kept(victim, place, healed))  # type: ignore[misc]
        await sound(archive, victim)

    three(tmp_path, script, checkpoint_every=2)


def kept(peer: Peer, place: str, since: int) -> bool:
    """Whether what could not be kept is kept again."""
    holdings = peer.node.holdings
    assert holdings is not None
    if place == "records":
        assert holdings.records is not None
        return bool(holdings.records.records) and holdings.records.records[-1].round >= since
    if place == "snapshot":
        return holdings.store.snapshot is not None and holdings.store.snapshot.round >= since
    return any(rounds >= since for rounds, _ in stored(peer.folder / "checkpoints"))


STARTING = {
    "generation": GENERATION,
    "certificates": CERTIFICATES,
    "residual": r"^residual\.f32",
    "carried": r"^\.?residual\.kept",
    "everything": r"^(?!\.?(lock|manifest|swarm))",
}
"""The daemon waits for the others before there is a node (`test_daemon`)."""


@pytest.mark.parametrize("place", STARTING)
def test_a_start_waits_for_its_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str) -> None:
    """What an orderly stop has kept is there when that is over."""

    async def script(archive: Archive, disks: FaultyDisks, victim: Peer, others: list[Peer]) -> None:
        met = 0
        for code in CODES:
            await archive.stop(victim)
            assert (victim.folder / "residual.kept").exists()
            disks.fail(victim.folder, STARTING[place], code)
            victim = archive.start(victim.identity)
            await asyncio.sleep(WHILE_S)
            if disks.hits:  # else this error does not happen at a start
                met += 1
                await paused(archive, disks, victim, code)
            disks.heal()
            await back(archive, victim, others)
        assert met >= 2
        assert warned(caplog, "paused until") == met
        await sound(archive, victim)

    three(tmp_path, script)


JOINING = {"generation": GENERATION, "head": HEAD, "certificates": CERTIFICATES, "everything": EVERYTHING}


@pytest.mark.parametrize("place", JOINING)
def test_a_newcomer_waits_for_its_disk(tmp_path: Path, place: str) -> None:
    async def script(archive: Archive, disks: FaultyDisks, victim: Peer, others: list[Peer]) -> None:
        for code in CODES:
            identity = Identity.from_seed(bytes([code]) * 32)
            newcomer = archive.start(identity, invite=archive.invite(identity, archive.anchor_of(victim)))
            disks.fail(newcomer.folder, JOINING[place], code)
            await paused(archive, disks, newcomer, code)
            disks.heal()
            await archive.together(newcomer, *others, since=others[0].round)
            await sound(archive, newcomer)

    three(tmp_path, script)


def test_the_note_of_a_download_may_be_lost(tmp_path: Path) -> None:
    async def script(archive: Archive, disks: FaultyDisks, victim: Peer, others: list[Peer]) -> None:
        for code in CODES:
            identity = Identity.from_seed(bytes([code]) * 32)
            newcomer = archive.start(identity, invite=archive.invite(identity, archive.anchor_of(victim)))
            disks.fail(newcomer.folder, r"^outer/\.?DOWNLOAD", code)
            await archive.together(newcomer, *others, since=others[0].round)
            assert disks.hits
            assert faults_of(newcomer, code) == 0
            disks.heal()
            await archive.stop(newcomer)

    three(tmp_path, script)


CATCHING_UP = {"generation": GENERATION, "head": HEAD}


@pytest.mark.parametrize("place", CATCHING_UP)
def test_catching_up_waits_for_the_disk(tmp_path: Path, place: str) -> None:
    async def script(archive: Archive, disks: FaultyDisks, victim: Peer, others: list[Peer]) -> None:
        for code in CODES:
            await archive.stop(victim)
            left = others[0].round
            await archive.until(lambda left=left: others[0].round > left + 2)  # type: ignore[misc]
            victim = archive.start(victim.identity)
            await archive.until(lambda: victim.node.joiner._network is not None)  # noqa: B023
            disks.fail(victim.folder, CATCHING_UP[place], code)
            await paused(archive, disks, victim, code)
            disks.heal()
            await back(archive, victim, others)
        await sound(archive, victim)

    three(tmp_path, script)


def test_an_archivist_waits_for_its_disk(tmp_path: Path) -> None:
    async def script(archive: Archive, disks: FaultyDisks, _victim: Peer, others: list[Peer]) -> None:
        archivist = archive.start(ARCHIVIST, "observer")
        await archive.together(*others, archivist)
        for code in CODES:
            disks.fail(archivist.folder, EVERYTHING, code)
            await paused(archive, disks, archivist, code)
            disks.heal()
            await archive.together(*others, archivist, since=others[0].round)
            assert archivist.node.state == "observing"

    three(tmp_path, script)


def test_an_error_that_is_gone_at_once_is_none(tmp_path: Path) -> None:
    async def script(archive: Archive, disks: FaultyDisks, victim: Peer, others: list[Peer]) -> None:
        for pattern in (JOURNAL, GENERATION, HEAD, CERTIFICATES):
            disks.fail(victim.folder, pattern, errno.EIO)
            disks.times = 1
            await archive.until(lambda: bool(disks.hits))
            await archive.together(victim, *others, since=victim.round + 1)
        assert faults_of(victim, errno.EIO) == 0
        await sound(archive, victim)

    three(tmp_path, script)


def test_a_paused_node_can_be_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script(archive: Archive, disks: FaultyDisks, victim: Peer, others: list[Peer]) -> None:
        for code in CODES:
            caplog.clear()
            disks.fail(victim.folder, EVERYTHING, code)
            await paused(archive, disks, victim, code)
            await archive.stop(victim)
            assert warned(caplog, "cannot be saved, and is lost") == 1
            disks.heal()
            victim = archive.start(victim.identity)
            await back(archive, victim, others)

    three(tmp_path, script)
