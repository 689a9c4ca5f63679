"""Nodes that rest: the trainer ends, a round is finished first, nobody waits for them, and they come back."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from archive_rig import FOUNDERS, VOLUNTEERS, Archive, Peer, play

from talkoot.peer.announcement import record_of
from talkoot.peer.guest import orders
from talkoot.peer.guest.orders import PauseOrder
from talkoot.peer.guest.words import Reason
from talkoot.peer.status import status
from talkoot.peer.training import LOADING

Script = Callable[[Archive, Peer, list[Peer]], Awaitable[None]]


def swarm(folder: Path, script: Script, *, founders: int = 4) -> None:
    """Play with a guest and others that have come through a round with it."""

    async def main(archive: Archive) -> None:
        peers = [archive.start(identity) for identity in FOUNDERS[:founders]]
        await archive.together(*peers, since=1)
        await script(archive, peers[0], peers[1:])

    play(folder, main, founders=FOUNDERS[:founders])


def counted(peer: Peer, by: Peer, since: int) -> bool:
    """Whether a round from `since` on counts a peer."""
    later = [head for head in by.heads if head.value.round >= since]
    return any(peer.identity.key in {item.key for item in head.value.cut} for head in later)


def rests(peer: Peer) -> bool:
    """Its trainer has no process, and it is in no round."""
    return peer.node.training.pid is None and peer.node.runner.round is None


async def under_way(peer: Peer) -> None:
    """Wait until it has made a contribution for a round that goes on."""
    swarming = peer.node.swarming
    assert swarming is not None
    while not (swarming.exchanging and swarming.contributor.pending):  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.01)


def told(peer: Peer) -> tuple[object, ...]:
    shown = status(peer.node, 0)
    return shown["state"], shown["reason"], shown["detail"]


async def pause(peer: Peer, **order: float) -> None:
    await peer.node.orders.pause(PauseOrder(**order))


def paused_metric(peer: Peer, reason: str) -> float | None:
    return peer.node.metrics.registry.get_sample_value("talkoot_node_paused", {"reason": reason})


def test_a_pause_ends_the_trainer_and_nobody_waits(tmp_path: Path) -> None:
    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        await pause(guest)
        assert told(guest) == ("paused", "user", "")
        await archive.until(lambda: rests(guest))
        assert paused_metric(guest, "user") == 1.0
        record = record_of(guest.node)
        assert record is not None
        assert record.state == "paused"
        seen, began = others[0].round, asyncio.get_running_loop().time()
        await archive.together(*others, since=seen + 4)
        slow = (asyncio.get_running_loop().time() - began) / 5
        assert slow < 2 * 30 / (5.0 * 3) + 6  # steps of three peers, and one phase that ran out at most
        assert guest.round <= seen  # what it has no use for now is not fetched
        assert guest.node.links.connected == {one.identity.key for one in others}
        assert told(guest) == ("paused", "user", "")
        await guest.node.orders.resume()
        assert told(guest) == ("starting", "", LOADING)
        await archive.until(lambda: guest.node.state == "training")
        since = others[0].round
        await archive.until(lambda: counted(guest, others[0], since))
        assert paused_metric(guest, "user") == 0.0
        assert len(guest.trainers) == 2

    swarm(tmp_path, script)


def test_a_contribution_that_is_under_way_is_counted(tmp_path: Path) -> None:
    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        for _ in range(5):
            await under_way(guest)
            number = guest.round
            await pause(guest)
            record = record_of(guest.node)
            assert record is not None
            assert record.state == "exchanging"  # the others wait for its part of this round
            await archive.until(lambda: rests(guest))
            assert guest.round == number + 1
            assert counted(guest, guest, number)
            await guest.node.orders.resume()
            await archive.until(lambda: guest.node.state == "training")
            await archive.together(guest, *others, since=number)

    swarm(tmp_path, script)


def test_a_silent_reason_leaves_the_round_at_once(tmp_path: Path) -> None:
    reason: Reason = "metered"  # the quota has its own service, which would lift it

    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        await under_way(guest)
        guest.node.holds.put(reason, "of a test")
        assert guest.node.runner.round is None
        assert told(guest) == ("paused", reason, "of a test")
        await archive.until(lambda: rests(guest))
        seen = others[0].round
        await archive.together(*others, since=seen + 2)
        async with guest.node.gate.turn(others[0].identity.key) as admitted:
            assert not admitted  # no state is served either
        guest.node.holds.lift(reason)
        since = others[0].round
        await archive.until(lambda: counted(guest, others[0], since))

    swarm(tmp_path, script)


def test_finish_hands_in_the_running_round(tmp_path: Path) -> None:
    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        number = guest.round
        await guest.node.orders.finish()
        assert (told(guest)[0] == "paused", status(guest.node, 0)["finishing"]) == (False, number + 1)
        await archive.until(lambda: rests(guest))
        assert guest.round == number + 1
        assert counted(guest, others[0], number)
        assert told(guest) == ("paused", "user", "")
        await guest.node.orders.finish()  # it has
        await guest.node.orders.resume()
        await guest.node.orders.finish()
        await guest.node.orders.resume()  # it goes on after all
        await archive.together(guest, *others, since=number + 3)

    swarm(tmp_path, script)


def test_a_pause_survives_a_restart_until_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(at=time.time())
    monkeypatch.setattr(orders, "time", SimpleNamespace(time=lambda: clock.at))

    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        await pause(guest, seconds=3600.0)
        await archive.until(lambda: rests(guest))
        await archive.stop(guest)
        await archive.together(*others, since=others[0].round)
        again = archive.start(guest.identity)
        await archive.until(lambda: again.node.swarming is not None)
        await asyncio.sleep(60.0)
        assert told(again)[:2] == ("paused", "user")
        assert told(again)[2].startswith("until ")  # type: ignore[attr-defined]
        assert rests(again)
        assert again.trainers == []  # nothing was loaded
        clock.at += 3601.0
        await archive.until(lambda: again.node.state == "training")
        since = others[0].round
        await archive.until(lambda: counted(again, others[0], since))
        await archive.stop(again)
        assert archive.start(guest.identity).node.state != "paused"

    swarm(tmp_path, script)


def test_a_newcomer_may_be_paused_before_it_holds_anything(tmp_path: Path) -> None:
    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        invite = archive.invite(VOLUNTEERS[0], archive.anchor_of(guest))
        new = archive.start(VOLUNTEERS[0], invite=invite)
        await pause(new)
        await archive.together(*others, since=others[0].round + 2)
        assert told(new)[:2] == ("paused", "user")
        assert (new.round, new.trainers) == (-1, [])  # nothing was fetched, and nothing loaded
        await new.node.orders.resume()
        since = others[0].round
        await archive.until(lambda: counted(new, others[0], since))

    swarm(tmp_path, script)


def test_reasons_come_and_go_in_any_order(tmp_path: Path) -> None:
    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        holds, since = guest.node.holds, others[0].round
        for number in range(40):  # some of it within a moment, some while the trainer ends or loads
            reasons: tuple[Reason, ...] = ("user_active", "battery", "quota")
            one = reasons[number % 3]
            holds.put(one, str(number))
            await asyncio.sleep(0.11 * (number % 7))
            if number % 5 != 0:
                holds.lift(one)
            await asyncio.sleep(0.13 * (number % 11))
        for reason in ("user_active", "battery", "quota"):
            holds.lift(reason)
        assert told(guest)[0] != "paused"
        await archive.until(lambda: counted(guest, others[0], others[0].round - 1) and guest.round > since)
        assert guest.node.state == "training"

    swarm(tmp_path, script)


def test_several_reasons_are_told_and_the_first_is_shown(tmp_path: Path) -> None:
    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        guest.node.holds.put("temperature", "83 of 80 °C")
        guest.node.holds.put("schedule", until=time.time() + 600)
        await pause(guest)
        shown = status(guest.node, 0)
        assert [one["reason"] for one in shown["holds"]] == ["user", "schedule", "temperature"]
        assert shown["holds"][1]["detail"].startswith("until ")
        await guest.node.orders.resume()
        assert told(guest)[:2] == ("paused", "schedule")
        guest.node.holds.lift("schedule")
        assert told(guest) == ("paused", "temperature", "83 of 80 °C")
        guest.node.holds.lift("temperature")
        await archive.until(lambda: guest.node.state == "training")

    swarm(tmp_path, script)


def test_who_leaves_while_it_rests_is_gone(tmp_path: Path) -> None:
    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        await pause(guest)
        await archive.stop(guest)
        await archive.together(*others, since=others[0].round)

    swarm(tmp_path, script)


@pytest.mark.parametrize(
    "order",
    [{"seconds": -1.0}, {"seconds": 0.0}, {"until": 5.0}, {"until": 1e18}, {"seconds": 1.0, "until": 1e10}],
)
def test_a_pause_that_makes_no_sense_is_none(tmp_path: Path, order: dict[str, float]) -> None:
    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        with pytest.raises(ValueError, match="pause"):
            await pause(guest, **order)
        assert guest.node.holds.all == ()

    swarm(tmp_path, script, founders=2)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"paused":1}', b'{"after":-1}', b"x" * 300_000])
def test_orders_that_cannot_be_read_are_left_aside(tmp_path: Path, content: bytes) -> None:
    async def script(archive: Archive, guest: Peer, others: list[Peer]) -> None:
        await archive.stop(guest)
        guest.node.paths.orders.write_bytes(content)
        again = archive.start(guest.identity)
        await archive.until(lambda: again.node.state == "training")

    swarm(tmp_path, script, founders=2)
