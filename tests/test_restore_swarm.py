"""Whole nodes that begin with a checkpoint: one that lost its disk, all that did, strangers, archivists."""

import shutil
from pathlib import Path

import pytest
from archive_rig import ARCHIVIST, FOUNDERS, VOLUNTEERS, Archive, Peer, play

from talkoot.averaging.certificate import Certificate
from talkoot.dht.errors import ConfigError
from talkoot.peer.checkpoint_file import CheckpointFile, open_checkpoint
from talkoot.peer.checkpoints import stored
from talkoot.peer.verify import verify


def newest(peers: list[Peer], folder: Path) -> CheckpointFile:
    """The newest checkpoint that any of these wrote, put into a safe place."""
    files = [found for peer in peers for found in stored(peer.folder / "checkpoints")]
    _, path = max(files)
    folder.mkdir(exist_ok=True)
    return open_checkpoint(Path(shutil.copy(path, folder / path.name)))


async def lost(archive: Archive, since: int = 5) -> CheckpointFile:
    """All disks of a swarm of four founders are gone; somebody had kept a checkpoint."""
    founders = [archive.start(identity, checkpoint_every=2) for identity in FOUNDERS]
    await archive.together(*founders, since=since)
    await archive.kill(*founders)
    kept = newest(founders, archive.folder / "kept")
    for identity in FOUNDERS:
        archive.lose(identity)
    return kept


def after(peer: Peer, rounds: int) -> Certificate:
    """The first round that was certified after so many."""
    return next(head for head in peer.heads if head.value.round == rounds)


def test_founders_that_lost_all_disks_go_on_from_one_checkpoint(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        kept = await lost(archive)
        rounds, digest = kept.contents.ledger.round, kept.contents.certificate.value.digest
        founders = [archive.restore(identity, kept.path) for identity in FOUNDERS]
        await archive.together(*founders, since=rounds + 2)
        for founder in founders:
            assert founder.heads[0].value.digest == digest
            assert (after(founder, rounds).value.prior, after(founder, rounds).kind) == (digest, "final")
            assert founder.head.kind == "final"
            assert founder.node.swarming is not None
            assert founder.node.swarming.recollection.memory == "whole"
        await archive.stop(*founders)
        assert all(verify(founder.folder).ok for founder in founders)

    play(tmp_path, script)


def test_a_quorum_of_them_is_enough(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        kept = await lost(archive)
        rounds = kept.contents.ledger.round
        founders = [archive.restore(identity, kept.path) for identity in FOUNDERS[:3]]
        await archive.together(*founders, since=rounds + 1)
        assert {after(founder, rounds).kind for founder in founders} == {"final"}

    play(tmp_path, script)


def test_fewer_go_on_weakly_until_there_is_a_quorum_of_them(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        kept = await lost(archive)
        rounds = kept.contents.ledger.round
        founders = [archive.restore(identity, kept.path) for identity in FOUNDERS[:2]]
        await archive.together(*founders, since=rounds + 1)
        assert {head.kind for founder in founders for head in founder.heads[1:]} == {"weak"}
        founders += [archive.restore(identity, kept.path) for identity in FOUNDERS[2:]]
        since = founders[0].round
        await archive.until(lambda: all(one.round > since and one.head.kind == "final" for one in founders))

    play(tmp_path, script)


def test_two_of_four_lost_their_disks(tmp_path: Path) -> None:
    """The others are no quorum, and cannot know what those two signed: weak rounds first, then final ones."""

    async def script(archive: Archive) -> None:
        founders = [archive.start(identity, checkpoint_every=2) for identity in FOUNDERS]
        await archive.together(*founders, since=5)
        await archive.kill(*founders)
        kept = newest(founders, tmp_path / "kept")
        for identity in FOUNDERS[:2]:
            archive.lose(identity)
        again = [archive.start(identity) for identity in FOUNDERS[2:]]
        again += [archive.restore(identity, kept.path) for identity in FOUNDERS[:2]]
        since = max(peer.round for peer in founders) + 2
        await archive.until(lambda: all(peer.round > since and peer.head.kind == "final" for peer in again))
        assert "weak" in {head.kind for peer in again for head in peer.heads}

    play(tmp_path, script)


def test_one_of_four_catches_up_and_is_silent_until_a_newer_final_round(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        founders = [archive.start(identity, checkpoint_every=2) for identity in FOUNDERS]
        await archive.together(*founders, since=3)
        kept = newest(founders, tmp_path / "kept")
        await archive.kill(founders[0])
        archive.lose(FOUNDERS[0])
        others = founders[1:]
        await archive.together(*others, since=founders[0].round + 2)
        back = archive.restore(FOUNDERS[0], kept.path)
        await archive.until(lambda: back.node.swarming is not None)
        assert back.node.swarming is not None
        assert back.node.swarming.recollection.memory == "restored"
        begun = back.round
        assert begun > kept.contents.ledger.round  # it looked for later rounds before it did anything
        await archive.until(lambda: back.node.swarming.recollection.memory == "whole")  # type: ignore[union-attr]
        signed = [head for head in back.heads if FOUNDERS[0].key in {vote.voter for vote in head.votes}]
        assert all(head.value.round > begun for head in signed)
        await archive.together(back, *others, since=back.round + 1)

    play(tmp_path, script)


def test_the_note_outlives_a_restart(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        kept = await lost(archive)
        first = archive.restore(FOUNDERS[0], kept.path)
        await archive.until(lambda: first.round > kept.contents.ledger.round)  # alone, weakly
        await archive.stop(first)
        again = archive.start(FOUNDERS[0])
        await archive.until(lambda: again.node.swarming is not None)
        assert again.node.swarming is not None
        assert again.node.swarming.recollection.memory == "restored"

    play(tmp_path, script)


def test_one_that_lost_its_disk_and_fetched_the_state_does_not_know_what_it_signed(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        founders = [archive.start(identity) for identity in FOUNDERS]
        await archive.together(*founders, since=2)
        await archive.kill(founders[0])
        archive.lose(FOUNDERS[0])
        back = archive.start(FOUNDERS[0])
        await archive.until(lambda: back.node.swarming is not None)
        assert back.node.swarming is not None
        assert back.node.swarming.recollection.memory == "restored"
        await archive.until(lambda: back.node.swarming.recollection.memory == "whole")  # type: ignore[union-attr]
        await archive.together(back, *founders[1:], since=back.round + 1)

    play(tmp_path, script)


def test_founders_without_disks_go_on_from_what_an_archivist_kept(tmp_path: Path) -> None:
    """Without a file: an empty state directory and the old key vouch for what the archivist has."""

    async def script(archive: Archive) -> None:
        founders = [archive.start(identity) for identity in FOUNDERS]
        archivist = archive.start(ARCHIVIST, "observer")
        await archive.together(*founders, archivist, since=2)
        await archive.kill(*founders)
        for identity in FOUNDERS:
            archive.lose(identity)
        rounds, digest = archivist.round, archivist.digest
        again = [archive.start(identity) for identity in FOUNDERS]
        await archive.together(*again, archivist, since=rounds + 2)
        assert {peer.heads[0].value.digest for peer in again} == {digest}
        assert {peer.head.kind for peer in again} == {"final"}

    play(tmp_path, script)


def test_what_others_hold_beyond_the_checkpoint_is_followed(tmp_path: Path) -> None:
    """All founders lost their disks; a volunteer did not, and knows later rounds than the file."""

    async def script(archive: Archive) -> None:
        founders = [archive.start(identity, checkpoint_every=2) for identity in FOUNDERS]
        await archive.together(*founders)
        volunteer = archive.start(
            VOLUNTEERS[0], invite=archive.invite(VOLUNTEERS[0], archive.anchor_of(founders[0]))
        )
        await archive.together(*founders, volunteer, since=4)
        kept = newest(founders, tmp_path / "kept")
        await archive.together(*founders, volunteer, since=founders[0].round + 1)
        await archive.kill(*founders)
        for identity in FOUNDERS:
            archive.lose(identity)
        rounds = volunteer.round
        assert rounds > kept.contents.ledger.round
        again = [archive.restore(identity, kept.path) for identity in FOUNDERS]
        await archive.together(*again, volunteer, since=rounds + 1)
        assert all(peer.heads[0].value.round >= rounds - 1 for peer in again)

    play(tmp_path, script)


def test_a_volunteer_begins_with_a_file_and_an_invite(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        founders = [archive.start(identity, checkpoint_every=2) for identity in FOUNDERS]
        await archive.together(*founders, since=4)
        kept = newest(founders, tmp_path / "kept")
        invite = archive.invite(VOLUNTEERS[0], archive.anchor_of(founders[0]))
        volunteer = archive.restore(VOLUNTEERS[0], kept.path, invite=invite)
        await archive.together(*founders, volunteer, since=kept.contents.ledger.round + 1)
        await archive.until(lambda: VOLUNTEERS[0].key in founders[0].head.value.voters)

    play(tmp_path, script)


def test_an_archivist_begins_with_a_file_and_serves_it(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        kept = await lost(archive)
        rounds, digest = kept.contents.ledger.round, kept.contents.certificate.value.digest
        archivist = archive.restore(ARCHIVIST, kept.path, "observer")
        await archive.until(lambda: archivist.round == rounds)
        anchor = archive.anchor_of(archivist)  # its log begins with the file's round
        founders = [archive.start(one, invite=archive.invite(one, anchor)) for one in FOUNDERS[:3]]
        await archive.together(*founders, archivist, since=rounds + 1)
        assert {after(founder, rounds).value.prior for founder in founders} == {digest}

    play(tmp_path, script)


def test_who_restores_while_the_others_are_away_gives_way_to_them(tmp_path: Path) -> None:
    """Alone it goes on weakly from the file; the final rounds of the others win, and it is silent there."""

    async def script(archive: Archive) -> None:
        founders = [archive.start(identity, checkpoint_every=2) for identity in FOUNDERS]
        await archive.together(*founders, since=3)
        kept = newest(founders, tmp_path / "kept")
        await archive.together(*founders, since=kept.contents.ledger.round + 2)
        await archive.kill(*founders)
        archive.lose(FOUNDERS[0])
        alone = archive.restore(FOUNDERS[0], kept.path)
        await archive.until(lambda: alone.round > kept.contents.ledger.round + 1)
        assert alone.head.kind == "weak"
        finals = [head for peer in founders[1:] for head in peer.heads if head.kind == "final"]
        last = max(finals, key=lambda head: head.value.round).value
        assert last.round >= kept.contents.ledger.round
        others = [archive.start(identity) for identity in FOUNDERS[1:]]
        await archive.together(alone, *others, since=alone.round + 1)
        assert alone.node.holdings is not None
        followed = alone.node.holdings.certificate_of(last.round)
        assert followed is not None
        assert followed.value.hash == last.hash

    play(tmp_path, script)


def test_an_invite_that_vouches_for_another_past(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        kept = await lost(archive)
        final = kept.contents.certificate
        founder = archive.restore(FOUNDERS[0], kept.path)
        await archive.until(lambda: founder.node.holdings is not None)
        anchor = archive.anchor_of(founder)
        assert anchor.digest == final.value.digest
        wrong = type(anchor)(anchor.round, bytes(32), anchor.voters, anchor.date)
        with pytest.raises(ConfigError, match="not of the past that the invite vouches for"):
            archive.restore(VOLUNTEERS[0], kept.path, invite=archive.invite(VOLUNTEERS[0], wrong))
        volunteer = archive.restore(VOLUNTEERS[0], kept.path, invite=archive.invite(VOLUNTEERS[0], anchor))
        await archive.until(lambda: volunteer.round >= kept.contents.ledger.round)

    play(tmp_path, script)
