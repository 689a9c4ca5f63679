"""Archivists: peers that follow and keep a swarm without training, and what can go on from them."""

import asyncio
from pathlib import Path

import pytest
from archive_rig import ARCHIVIST, FOUNDERS, VOLUNTEERS, Archive, Peer, keys, play

from talkoot.peer.checkpoint_file import open_checkpoint
from talkoot.peer.checkpoints import stored
from talkoot.peer.status import status
from talkoot.peer.verify import verify


async def founded(archive: Archive, number: int = 4) -> tuple[list[Peer], Peer]:
    """Founders that train, and an archivist that has come as far as they."""
    founders = [archive.start(identity) for identity in FOUNDERS[:number]]
    await archive.together(*founders)
    archivist = archive.start(ARCHIVIST, "observer")
    await archive.together(*founders, archivist, since=1)
    return founders, archivist


def test_an_archivist_follows_and_takes_no_part(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        founders, archivist = await founded(archive)
        seen = archivist.round
        await archive.together(*founders, archivist, since=seen + 3)
        assert archivist.trainers == []
        assert archivist.node.state == "observing"
        shown = status(archivist.node, 0)
        assert (shown["role"], shown["state"], shown["voting"]) == ("observer", "observing", False)
        assert shown["trainer_pid"] is None
        for certificate in founders[0].heads[1:]:
            assert ARCHIVIST.key not in certificate.value.present
            assert {item.key for item in certificate.value.cut} <= keys(FOUNDERS)
        for founder in founders:
            assert ARCHIVIST.key not in founder.node.links.connected
            assert ARCHIVIST.key in founder.node.swarming.view.others  # type: ignore[union-attr]

    play(tmp_path, script)


def test_an_archivist_that_was_away_catches_up(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        founders, archivist = await founded(archive)
        await archive.stop(archivist)
        left = archivist.heads[-1].value.round
        await archive.together(*founders, since=left + 4)
        again = archive.start(ARCHIVIST, "observer")
        await archive.together(*founders, again, since=left + 4)

    play(tmp_path, script)


async def left_alone(archive: Archive) -> Peer:
    """The archivist of a swarm whose four trainers all went away at once, when it had come as far as they."""
    founders, archivist = await founded(archive)
    await archive.kill(*founders)
    assert {peer.heads[-1].value.digest for peer in founders} == {archivist.digest}
    return archivist


@pytest.mark.parametrize("kind", ["invite", "open"])
def test_volunteers_begin_at_the_archivists_round_and_wait_for_a_voter(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(archive: Archive) -> None:
        archivist = await left_alone(archive)
        rounds, digest = archivist.round, archivist.digest
        anchor = archive.anchor_of(archivist)
        volunteers = [archive.start(one, invite=archive.invite(one, anchor)) for one in VOLUNTEERS[:2]]
        await archive.until(lambda: all(peer.round >= 0 for peer in volunteers))
        assert [(peer.round, peer.digest) for peer in volunteers] == [(rounds, digest)] * 2
        await archive.until(lambda: all(peer.node.state == "training" for peer in volunteers))
        await asyncio.sleep(120)  # nobody that may vote is there: nothing is certified, not even weakly
        assert [(peer.round, peer.digest) for peer in (*volunteers, archivist)] == [(rounds, digest)] * 3
        assert all(peer.node.state == "training" for peer in volunteers)
        assert "none of the 4 peers that may certify it is here" in caplog.text

    play(tmp_path, script, kind)  # type: ignore[arg-type]


def test_volunteers_go_on_with_one_founder(tmp_path: Path) -> None:
    """Weakly, as three of four voters are away; whom the founder has invited votes from the next round on."""

    async def script(archive: Archive) -> None:
        archivist = await left_alone(archive)
        rounds, digest = archivist.round, archivist.digest
        anchor = archive.anchor_of(archivist)
        volunteers = [archive.start(one, invite=archive.invite(one, anchor)) for one in VOLUNTEERS[:2]]
        await archive.until(lambda: all(peer.round == rounds for peer in volunteers))
        founder = archive.start(FOUNDERS[0])
        everybody = [founder, *volunteers]
        await archive.until(lambda: all(peer.round > rounds + 1 for peer in everybody))
        for peer in everybody:
            first = next(head for head in peer.heads if head.value.round == rounds)
            assert first.value.prior == digest
            assert first.kind == "weak"
        assert keys(VOLUNTEERS[:2]) <= set(founder.head.value.voters)
        await archive.together(*everybody, archivist, since=rounds + 2)  # which follows weak rounds, too

    play(tmp_path, script)


def test_a_founder_that_lost_its_disk_goes_on_from_the_archivist(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        archivist = await left_alone(archive)
        rounds, digest = archivist.round, archivist.digest
        (tmp_path / FOUNDERS[0].peer_id[-6:] / "outer").rename(tmp_path / "lost")
        founder = archive.start(FOUNDERS[0])
        await archive.until(lambda: founder.round >= rounds)
        assert founder.heads[0].value.digest == digest

    play(tmp_path, script)


def test_final_rounds_are_back_with_a_quorum_of_the_voters(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        archivist = await left_alone(archive)
        rounds, digest = archivist.round, archivist.digest
        founders = [archive.start(identity) for identity in FOUNDERS[:3]]
        volunteer = archive.start(
            VOLUNTEERS[0], invite=archive.invite(VOLUNTEERS[0], archive.anchor_of(archivist))
        )
        await archive.together(*founders, volunteer, archivist, since=rounds + 2)
        first = next(head for head in founders[0].heads if head.value.round == rounds)
        assert first.value.prior == digest
        assert founders[0].head.kind == "final"
        assert VOLUNTEERS[0].key in founders[0].head.value.voters

    play(tmp_path, script)


def test_everybody_writes_the_same_checkpoints(tmp_path: Path) -> None:
    """Trainers while they train, the archivist while it follows; each verifies in its state directory."""

    async def script(archive: Archive) -> None:
        trainers = [archive.start(identity, checkpoint_every=2) for identity in FOUNDERS]
        await archive.together(*trainers)
        archivist = archive.start(ARCHIVIST, "observer", checkpoint_every=2)
        await archive.together(*trainers, archivist, since=6)
        await archive.stop(*trainers, archivist)
        for peer in (*trainers, archivist):
            kept = stored(peer.folder / "checkpoints")
            assert len(kept) == 2
            for rounds, path in kept:
                report = verify(path)
                assert report.ok
                assert report.facts["rounds"] == rounds
                assert {check.result for check in report.checks if check.name == "chain"} == {"ok"}
        bodies = [(peer.folder / "checkpoints") for peer in trainers]
        for rounds in {stored(body)[-1][0] for body in bodies}:
            files = [path for body in bodies for number, path in stored(body) if number == rounds]
            same = {open_checkpoint(path).tree().digest for path in files}
            assert len(same) == 1

    play(tmp_path, script)


@pytest.mark.parametrize("after_s", [0.0, 0.9, 1.9, 3.1])
def test_who_leaves_last_waits_for_the_archivist(tmp_path: Path, after_s: float) -> None:
    """All trainers stop in order, at once: the newest round that any of them holds is with the archivist."""

    async def script(archive: Archive) -> None:
        founders, archivist = await founded(archive)
        await asyncio.sleep(after_s)
        await archive.stop(*founders)
        newest = max((peer.heads[-1] for peer in founders), key=lambda head: head.value.round)
        assert archivist.digest == newest.value.digest

    play(tmp_path, script)


def test_who_leaves_others_behind_does_not_wait(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        founders, archivist = await founded(archive)
        await archive.stop(archivist)
        began = asyncio.get_running_loop().time()
        await archive.stop(founders[0])
        assert asyncio.get_running_loop().time() - began < 10

    play(tmp_path, script)


def test_what_an_archivist_keeps_verifies(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        archivist = await left_alone(archive)
        await archive.stop(archivist)
        report = verify(archivist.folder)
        assert report.ok
        assert {check.result for check in report.checks if check.name == "chain"} == {"ok"}

    play(tmp_path, script)
