"""Archivists whose key has the vote: they vote in all rounds, contribute nothing, and stay when others go."""

import asyncio
from pathlib import Path

import pytest
from archive_rig import ARCHIVIST, FOUNDERS, KEEPER, VOLUNTEERS, Archive, Peer, keys, play

from talkoot.averaging.quorum import leader_order
from talkoot.dht.memory import Link
from talkoot.peer.status import status

EVERYBODY = (*FOUNDERS, KEEPER)
KINDS = pytest.mark.parametrize("kind", ["invite", "open"])
EXCHANGES = pytest.mark.parametrize("exchange", ["dense", "sparse"])


async def founded(archive: Archive, since: int = 1) -> tuple[list[Peer], Peer]:
    """Four founders that train, and a fifth that observes."""
    founders = [archive.start(identity) for identity in FOUNDERS]
    keeper = archive.start(KEEPER, "observer")
    await archive.together(*founders, keeper, since=since)
    return founders, keeper


async def left_alone(archive: Archive) -> Peer:
    """The archivist when all others were killed at once, and it has come as far as they."""
    founders, keeper = await founded(archive)
    await archive.kill(*founders)
    assert {peer.heads[-1].value.digest for peer in founders} == {keeper.digest}
    return keeper


def newcomers(archive: Archive, keeper: Peer, first: int, last: int) -> list[Peer]:
    """Volunteers with invites that are dated by what the archivist holds."""
    anchor = archive.anchor_of(keeper)
    return [archive.start(one, invite=archive.invite(one, anchor)) for one in VOLUNTEERS[first:last]]


@EXCHANGES
@KINDS
def test_it_votes_and_leads_and_contributes_nothing(tmp_path: Path, kind: str, exchange: str) -> None:
    async def script(archive: Archive) -> None:
        founders, keeper = await founded(archive)
        archivist = archive.start(ARCHIVIST, "observer")  # one without the vote

        def led() -> int:
            heads = keeper.heads[1:]
            return sum(leader_order(keys(EVERYBODY), head.value.prior)[0] == KEEPER.key for head in heads)

        await archive.until(lambda: led() >= 2)
        await archive.together(*founders, keeper, archivist)
        assert keeper.trainers == []
        for certificate in keeper.heads[1:]:
            value = certificate.value
            assert (certificate.kind, certificate.attempt) == ("final", 0)
            assert set(value.present) == keys(EVERYBODY)
            assert {item.key for item in value.cut} == keys(FOUNDERS)
            assert {part.reducer for part in value.parts} <= keys(FOUNDERS)
            assert set(value.voters) == keys(EVERYBODY)
        assert any(vote.voter == KEEPER.key for head in keeper.heads[1:] for vote in head.votes)
        shown = status(keeper.node, 0)
        assert (shown["role"], shown["state"], shown["voting"]) == ("observer", "observing", True)
        for founder in founders:
            assert KEEPER.key in founder.node.links.connected
            assert ARCHIVIST.key not in founder.node.links.connected

    play(tmp_path, script, kind, EVERYBODY, exchange)  # type: ignore[arg-type]


def test_its_steps_are_not_waited_for(tmp_path: Path) -> None:
    """Rounds close when the trainers have made their steps, as fast as without it."""

    async def script(archive: Archive) -> None:
        loop = asyncio.get_running_loop()
        founders, keeper = await founded(archive)
        began, first = loop.time(), keeper.round
        await archive.together(*founders, keeper, since=first + 3)
        with_it_s = (loop.time() - began) / (keeper.round - first)
        await archive.stop(keeper)
        began, first = loop.time(), founders[0].round
        await archive.together(*founders, since=first + 3)
        without_s = (loop.time() - began) / (founders[0].round - first)
        assert with_it_s < 1.2 * without_s

    play(tmp_path, script, founders=EVERYBODY)


def test_a_slow_one_is_left_out_like_any_peer(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        founders = [archive.start(identity) for identity in FOUNDERS]
        # the messages of a round alone are 3 kB a second here
        keeper = archive.start(KEEPER, "observer", link=Link(latency_s=0.3, download=4500.0, upload=4500.0))
        await archive.together(*founders, since=8)
        for certificate in founders[0].heads[1:]:
            counted = {item.key for item in certificate.value.cut}
            assert certificate.kind == "final"
            assert counted < keys(EVERYBODY)
            assert len(counted) >= 3  # one that it led took long, and went on with who was in time
        assert asyncio.get_running_loop().time() < 9 * 25.0
        await archive.until(lambda: keeper.round >= 8)

    play(tmp_path, script, founders=EVERYBODY)


def test_who_was_away_for_too_long_votes_again_when_it_is_back(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        founders, keeper = await founded(archive)
        await archive.stop(keeper)
        await archive.until(lambda: KEEPER.key not in founders[0].head.value.voters)
        again = archive.start(KEEPER, "observer")
        await archive.until(lambda: KEEPER.key in founders[0].head.value.voters)
        await archive.together(*founders, again, since=founders[0].round)
        assert status(again.node, 0)["voting"] is True

    play(tmp_path, script, founders=EVERYBODY)


def test_a_volunteer_that_earned_the_vote_keeps_it_until_it_is_away_for_too_long(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        founders = [archive.start(identity) for identity in FOUNDERS]
        await archive.together(*founders)
        volunteer = VOLUNTEERS[0]
        invite = archive.invite(volunteer, archive.anchor_of(founders[0]))
        trains = archive.start(volunteer, invite=invite)
        await archive.until(lambda: volunteer.key in founders[0].head.value.voters)
        await archive.stop(trains)
        observes = archive.start(volunteer, "observer", invite=invite)
        since = founders[0].round + 4
        await archive.together(*founders, observes, since=since)
        assert volunteer.key in founders[0].head.value.voters
        assert volunteer.key not in {item.key for item in founders[0].head.value.cut}
        await archive.stop(observes)
        await archive.until(lambda: volunteer.key not in founders[0].head.value.voters)
        without = archive.start(volunteer, "observer", invite=invite)
        await archive.together(*founders, without, since=founders[0].round + 1)
        assert without.node.runner.round is None
        assert status(without.node, 0)["voting"] is False

    play(tmp_path, script)


def test_a_swarm_begins_with_a_founder_that_only_observes(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        keeper = archive.start(KEEPER, "observer")
        await archive.until(lambda: keeper.round == 0)
        two = newcomers(archive, keeper, 0, 2)
        await archive.together(keeper, *two, since=3)
        kinds = {head.kind for head in two[0].heads if head.value.cut}
        assert kinds == {"final"}
        assert {item.key for item in keeper.head.value.cut} == keys(VOLUNTEERS[:2])

    play(tmp_path, script, founders=[KEEPER])


# -- when everybody has left -------------------------------------------------------------------------------


@EXCHANGES
def test_volunteers_go_on_weakly_and_then_finally(tmp_path: Path, exchange: str) -> None:
    """Two of them are no majority with it (3 of 7 voters); four are (5 of 9), and the absent are removed."""

    async def script(archive: Archive) -> None:
        keeper = await left_alone(archive)
        rounds, digest = keeper.round, keeper.digest
        two = newcomers(archive, keeper, 0, 2)
        await archive.together(keeper, *two, since=rounds + 4)
        for peer in (keeper, *two):
            first = next(head for head in peer.heads if head.value.round == rounds)
            assert (first.value.prior, first.kind) == (digest, "weak")
        assert keys(VOLUNTEERS[:2]) <= set(keeper.head.value.voters)
        assert {head.kind for head in keeper.heads if head.value.round >= rounds} == {"weak"}
        assert {item.key for item in keeper.head.value.cut} == keys(VOLUNTEERS[:2])
        more = newcomers(archive, keeper, 2, 4)
        await archive.until(lambda: keeper.head.kind == "final")
        await archive.together(keeper, *two, *more, since=keeper.round)
        assert set(keeper.head.value.voters) == keys([KEEPER, *VOLUNTEERS[:4]])

    play(tmp_path, script, founders=EVERYBODY, exchange=exchange)  # type: ignore[arg-type]


def test_rounds_are_final_again_when_all_left_one_after_the_other(tmp_path: Path) -> None:
    """Who left first has lost the vote; of two voters one is left, and with two volunteers three of four."""

    async def script(archive: Archive) -> None:
        founders, keeper = await founded(archive)
        for leaver in founders[:3]:
            await archive.stop(leaver)
            await archive.until(lambda leaver=leaver: leaver.identity.key not in keeper.head.value.voters)  # type: ignore[misc]
        await archive.stop(founders[3])
        rounds, digest = keeper.round, keeper.digest
        assert founders[3].heads[-1].value.digest == digest
        two = newcomers(archive, keeper, 0, 2)
        await archive.together(keeper, *two, since=rounds + 4)
        after = {head.value.round: head for head in two[0].heads if head.value.round >= rounds}
        assert after[rounds].value.prior == digest
        assert [after[number].kind for number in range(rounds, rounds + 4)] == ["weak"] + ["final"] * 3
        await archive.until(lambda: set(keeper.head.value.voters) == keys([KEEPER, *VOLUNTEERS[:2]]))

    play(tmp_path, script, founders=EVERYBODY)


def test_a_founder_that_comes_back_follows_the_weak_rounds(tmp_path: Path) -> None:
    async def script(archive: Archive) -> None:
        keeper = await left_alone(archive)
        rounds = keeper.round
        two = newcomers(archive, keeper, 0, 2)
        await archive.together(keeper, *two, since=rounds + 2)
        founders = [archive.start(one) for one in FOUNDERS[:3]]
        await archive.until(lambda: keeper.head.kind == "final")
        await archive.together(keeper, *two, *founders, since=keeper.round)
        assert keeper.head.value.round > rounds + 2

    play(tmp_path, script, founders=EVERYBODY)


def test_who_came_through_probation_goes_on_in_an_open_swarm(tmp_path: Path) -> None:
    """Their work counts, and only the founder votes: weak rounds."""

    async def script(archive: Archive) -> None:
        founders, keeper = await founded(archive)
        volunteers = [archive.start(one) for one in VOLUNTEERS[:2]]
        needed = archive.rules.probation_rounds

        def proven() -> set[bytes]:
            assert keeper.node.holdings is not None
            return {one.key for one in keeper.node.holdings.ledger.standings if one.rounds >= needed}

        await archive.until(lambda: proven() == keys(VOLUNTEERS[:2]))
        await archive.together(*founders, keeper, *volunteers)
        await archive.kill(*founders)
        rounds = keeper.round
        await archive.together(keeper, *volunteers, since=rounds + 3)
        last = keeper.head
        assert last.kind == "weak"
        assert {item.key for item in last.value.cut} == keys(VOLUNTEERS[:2])
        assert set(last.value.voters) == keys(EVERYBODY)
        await archive.kill(volunteers[1])  # alone, one closes rounds by its own steps
        await archive.together(keeper, volunteers[0], since=keeper.round + 2)

    play(tmp_path, script, "open", EVERYBODY)


def test_newcomers_of_an_open_swarm_wait_for_somebody_whose_work_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(archive: Archive) -> None:
        keeper = await left_alone(archive)
        rounds, digest = keeper.round, keeper.digest
        volunteers = newcomers(archive, keeper, 0, 2)
        await archive.until(lambda: "given up for now: nothing_weighs" in caplog.text)
        assert [(peer.round, peer.digest) for peer in (keeper, *volunteers)] == [(rounds, digest)] * 3
        founder = archive.start(FOUNDERS[0])
        await archive.together(keeper, founder, *volunteers, since=rounds + 1)

    play(tmp_path, script, "open", EVERYBODY)


# -- when the archivist itself ends ------------------------------------------------------------------------


def test_it_votes_again_after_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script(archive: Archive) -> None:
        founders, keeper = await founded(archive)
        await archive.kill(keeper)
        again = archive.start(KEEPER, "observer")
        since = founders[0].round + 2
        await archive.together(*founders, again, since=since)
        assert KEEPER.key in again.head.value.present
        assert "the journal is lost" not in caplog.text

    play(tmp_path, script, founders=EVERYBODY)


@pytest.mark.parametrize("waited_s", [30.0, 3600.0])
def test_who_waited_for_it_goes_on_when_it_is_back(tmp_path: Path, waited_s: float) -> None:
    """However many attempts at the round the volunteers have given up meanwhile."""

    async def script(archive: Archive) -> None:
        keeper = await left_alone(archive)
        rounds, digest = keeper.round, keeper.digest
        two = newcomers(archive, keeper, 0, 2)
        await archive.until(lambda: all(peer.round == rounds for peer in two))
        await archive.kill(keeper)
        await asyncio.sleep(waited_s)
        assert [(peer.round, peer.digest) for peer in two] == [(rounds, digest)] * 2
        again = archive.start(KEEPER, "observer")
        await archive.together(again, *two, since=rounds + 2)
        first = next(head for head in again.heads if head.value.round == rounds)
        assert first.value.prior == digest

    play(tmp_path, script, founders=EVERYBODY)


def test_one_that_was_killed_before_its_first_vote_has_lost_no_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It fetched the state from others, and has signed nothing that it might have forgotten."""

    async def script(archive: Archive) -> None:
        founders = [archive.start(identity) for identity in FOUNDERS]
        await archive.together(*founders)
        (tmp_path / KEEPER.peer_id[-6:] / "outer").rename(tmp_path / "nothing")
        keeper = archive.start(KEEPER, "observer")
        await archive.until(lambda: keeper.round >= 1)
        assert keeper.node.holdings is not None
        assert keeper.node.holdings.voter_journal() is None
        await archive.kill(keeper)
        again = archive.start(KEEPER, "observer")
        await archive.together(*founders, again, since=founders[0].round)
        assert "the journal is lost" not in caplog.text

    play(tmp_path, script, founders=EVERYBODY)
