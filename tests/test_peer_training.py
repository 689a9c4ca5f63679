"""The trainer of a node loads while the state is on its way, and works from it as soon as it is here."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import archive_rig
import pytest
from archive_rig import FOUNDERS, VOLUNTEERS, Archive, Peer, play

from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.peer.announcement import record_of
from talkoot.peer.disk import causes
from talkoot.peer.node import Node
from talkoot.peer.serving import Gate
from talkoot.peer.simulation.sim_trainer import SimTrainer
from talkoot.peer.status import status
from talkoot.peer.store import OuterStore
from talkoot.peer.swarming import NodeFailed
from talkoot.peer.trainer.protocol import Adopted, Crashed, Failed, Ready
from talkoot.peer.training import WAITED_FOR

NEW = VOLUNTEERS[0]
READY = Ready(device="sim", micro_batch=1, corpus_hash=bytes(32), train_tokens=1, held_out_tokens=0)

CHUNK_BYTES = 4 * archive_rig.NUMEL
"""The state is two of these; pieces of records are smaller."""


def read(path: Path) -> bytes:
    return path.read_bytes()


class Spy(SimTrainer):
    """Notes what it is asked for."""

    start_s = 0.0
    """How long it takes to begin."""
    loads_s = 0.0
    """How long it loads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.adopted: list[tuple[str, int, int]] = []
        """Mode, round, and the steps that it kept."""
        self.stops: list[bool] = []

    async def run(self) -> None:
        self._ended.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.loads_s):
                await self._ended.wait()
                return
        await super().run()

    async def adopt(self, outer: Path, **request: Any) -> Adopted:
        content = read(outer)
        await asyncio.sleep(self.start_s if request["mode"] == "start" else 0.0)
        answer = await super().adopt(outer, **request)
        assert read(outer) == content  # nobody changes what it is reading
        self.adopted.append((request["mode"], request["round"], answer.steps))
        return answer

    async def stop(self, *, save: bool, timeout_s: float) -> None:
        self.stops.append(save)
        await super().stop(save=save, timeout_s=timeout_s)

    def say(self, event: Any) -> None:
        self._on_event(event)

    def end(self) -> None:
        """As a process that ends by itself."""
        self._ended.set()


@dataclass
class Slow:
    """How long an answer of a source takes, in seconds. By default rounds go on while the state comes."""

    chunk_s: float = 8.0
    piece_s: float = 0.0


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow()

    async def pace(_gate: Gate, num_bytes: int) -> None:
        await asyncio.sleep(slow.chunk_s if num_bytes >= CHUNK_BYTES else slow.piece_s)

    monkeypatch.setattr(Gate, "pace", pace)
    monkeypatch.setattr(archive_rig, "SimTrainer", Spy)
    return slow


def spy_of(peer: Peer) -> Spy:
    (trainer,) = peer.trainers
    assert isinstance(trainer, Spy)
    return trainer


def swarm(folder: Path, script: Callable[[Archive, list[Peer]], Awaitable[None]]) -> None:
    """Play with two founders that have committed a few rounds."""

    async def main(archive: Archive) -> None:
        founders = [archive.start(identity) for identity in FOUNDERS[:2]]
        await archive.together(*founders, since=2)
        await script(archive, founders)

    play(folder, main, founders=FOUNDERS[:2])


def newcomer(archive: Archive, founders: list[Peer]) -> Peer:
    """Starts it, also again."""
    return archive.start(NEW, invite=archive.invite(NEW, archive.anchor_of(founders[0])))


def counts(peer: Peer, number: int, identity: Identity) -> bool:
    """Whether the state of `peer` after so many rounds counts somebody in the last of them."""
    return any(
        identity.key in {item.key for item in head.value.cut}
        for head in peer.heads
        if head.value.round == number - 1
    )


async def downloading(archive: Archive, peer: Peer) -> None:
    """Wait until its state comes and its trainer has loaded."""
    joiner, training = peer.node.joiner, peer.node.training
    await archive.until(lambda: joiner.progress is not None and training.phase == "ready")
    shown = status(peer.node, 0)
    assert (shown["state"], shown["trainer"], shown["device"]) == ("syncing", "ready", "sim")
    assert shown["sync"]["done_bytes"] < shown["sync"]["total_bytes"]
    assert shown["round"] is None


def test_a_newcomer_is_counted_in_the_next_round_that_closes(tmp_path: Path, slow: Slow) -> None:
    slow.piece_s = 0.7

    async def script(archive: Archive, founders: list[Peer]) -> None:
        new = newcomer(archive, founders)
        await downloading(archive, new)
        began = founders[0].round
        trainer = spy_of(new)
        assert trainer.adopted == []
        await archive.until(lambda: bool(trainer.adopted))
        assert founders[0].round > began  # rounds went on meanwhile
        assert (new.node.state, new.node.training.phase) == ("syncing", "training")  # they are to be replayed
        await archive.until(lambda: new.node.state == "training")
        here = new.round
        (first, *later) = trainer.adopted
        assert (first[0], first[2]) == ("start", 0)
        assert first[1] < here
        assert [mode for mode, _, _ in later] in (["rebase"], ["rewarm"])  # nothing was loaded twice
        assert later[0][1] == here
        await archive.until(lambda: new.round > here)
        assert counts(new, here + 1, NEW)

    swarm(tmp_path, script)


def test_steps_of_one_round_are_not_told_of_the_next(tmp_path: Path) -> None:
    """From the commit until the trainer has followed, its last report is about the round before."""

    async def script(archive: Archive, founders: list[Peer]) -> None:
        node = founders[0].node
        contributor, swarming = node.contributor, node.swarming
        assert contributor is not None
        assert swarming is not None
        await archive.until(lambda: contributor.steps > 0)
        await contributor.begin_change()
        record, report = record_of(node), swarming.own_report()
        assert record is not None
        assert report is not None
        assert (record.steps, report.steps, status(node, 0)["round_steps"]) == (0, 0, 0)
        contributor.end_change()
        assert contributor.steps > 0

    swarm(tmp_path, script)


def test_steps_made_while_rounds_are_replayed_are_kept(tmp_path: Path, slow: Slow) -> None:
    slow.piece_s = 1.0

    async def script(archive: Archive, founders: list[Peer]) -> None:
        new = newcomer(archive, founders)
        await archive.until(lambda: new.node.state == "training")
        kept = [steps for mode, _, steps in spy_of(new).adopted if mode != "start"]
        assert kept
        assert min(kept) > 0

    swarm(tmp_path, script)


def test_a_trainer_that_dies_meanwhile_loads_again_and_begins_once(tmp_path: Path) -> None:
    async def script(archive: Archive, founders: list[Peer]) -> None:
        new = newcomer(archive, founders)
        await downloading(archive, new)
        spy_of(new).say(Crashed(reason="out of luck", will_retry=True))
        shown = status(new.node, 0)
        assert (shown["state"], shown["reason"], shown["trainer"]) == ("syncing", "", "loading")
        spy_of(new).say(READY)
        assert new.node.training.phase == "ready"
        await archive.until(lambda: new.node.state == "training")
        assert [mode for mode, _, _ in spy_of(new).adopted].count("start") == 1
        spy_of(new).say(Crashed(reason="out of luck", will_retry=True))
        assert (new.node.state, new.node.detail) == ("starting", "trainer restarts")
        spy_of(new).say(READY)
        await archive.until(lambda: new.node.state == "training")

    swarm(tmp_path, script)


def test_one_that_dies_before_it_begins_does_not_begin(tmp_path: Path) -> None:
    """The start that waited for it is void: the next process has its own."""

    async def script(archive: Archive, founders: list[Peer]) -> None:
        new = newcomer(archive, founders)
        await downloading(archive, new)
        trainer = spy_of(new)
        await archive.until(lambda: bool(trainer.adopted))
        for event in (Crashed(reason="", will_retry=True), READY, Crashed(reason="", will_retry=True), READY):
            trainer.say(event)
        await archive.until(lambda: new.node.state == "training")
        assert [mode for mode, _, _ in trainer.adopted].count("start") == 2

    swarm(tmp_path, script)


def test_no_change_of_the_state_overtakes_a_slow_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(archive: Archive, founders: list[Peer]) -> None:
        monkeypatch.setattr(Spy, "start_s", 30.0)
        new = newcomer(archive, founders)
        await downloading(archive, new)
        await archive.until(lambda: new.node.state == "training")
        await archive.until(lambda: counts(new, new.round, NEW))
        modes = [mode for mode, _, _ in spy_of(new).adopted]
        rounds = [number for _, number, _ in spy_of(new).adopted]
        assert (modes[0], modes.count("start")) == ("start", 1)
        assert rounds == sorted(set(rounds))

    swarm(tmp_path, script)


def test_a_stop_while_the_state_comes(tmp_path: Path) -> None:
    async def script(archive: Archive, founders: list[Peer]) -> None:
        new = newcomer(archive, founders)
        await downloading(archive, new)
        trainer = spy_of(new)
        await archive.stop(new)
        assert new.task.exception() is None
        assert (trainer.stops, trainer.pid, trainer.adopted) == ([True], None, [])
        again = newcomer(archive, founders)
        await archive.until(lambda: again.node.state == "training")

    swarm(tmp_path, script)


@pytest.fixture
def reasons(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Why nodes ended by themselves; the swarm outlives them."""
    told: list[BaseException] = []

    async def life(_archive: Archive, node: Node) -> None:
        try:
            await node.run()
        except* (NodeFailed, ConfigError) as failure:
            told.append(next(iter(causes(failure))))
        finally:
            if node.holdings is not None:
                node.holdings.close()

    monkeypatch.setattr(Archive, "_life", life)
    return told


async def ended(archive: Archive, peer: Peer) -> None:
    """Its node ended by itself, and its trainer with it."""
    await asyncio.wait([peer.task])
    archive.running.remove(peer)
    archive.hub.crash(peer.identity.key)
    assert all(trainer.pid is None for trainer in peer.trainers)


def test_a_trainer_that_cannot_work_ends_the_download(tmp_path: Path, reasons: list[BaseException]) -> None:
    """It is said at once, and what was fetched stays for the next start."""

    async def script(archive: Archive, founders: list[Peer]) -> None:
        new = newcomer(archive, founders)
        await downloading(archive, new)
        spy_of(new).say(Failed(reason="no data matches"))
        spy_of(new).end()
        await ended(archive, new)
        assert new.node.holdings is None
        (reason,) = reasons
        assert (type(reason), str(reason)) == (NodeFailed, "no data matches")
        again = newcomer(archive, founders)
        await archive.until(lambda: again.node.state == "training")

    swarm(tmp_path, script)


@pytest.mark.parametrize(("code", "kind"), [(errno.EBUSY, ConfigError), (errno.ENOMEM, NodeFailed)])
def test_what_others_have_ends_a_start_and_is_waited_for_later(
    code: int,
    kind: type[Exception],
    tmp_path: Path,
    reasons: list[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_use = Failed(reason="it is in use", errno=code)

    async def script(archive: Archive, founders: list[Peer]) -> None:
        monkeypatch.setattr(Spy, "loads_s", 1e6)
        new = newcomer(archive, founders)
        await archive.until(lambda: new.node.training.phase == "loading")
        spy_of(new).say(in_use)
        spy_of(new).end()
        await ended(archive, new)
        (reason,) = reasons
        assert (type(reason), str(reason)) == (kind, "it is in use")
        monkeypatch.setattr(Spy, "loads_s", 0.0)
        again = newcomer(archive, founders)
        await archive.until(lambda: again.node.state == "training")
        spy = spy_of(again)
        assert isinstance(spy, Spy)
        spy.say(in_use)
        spy.end()
        await archive.until(lambda: again.node.detail == WAITED_FOR[code])
        await archive.until(lambda: again.node.state == "training")
        assert len(reasons) == 1

    swarm(tmp_path, script)


@pytest.mark.parametrize("why", ["no_invite", "no_room", "nobody"])
def test_who_cannot_join_leaves_no_trainer_behind(
    why: str, tmp_path: Path, reasons: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(archive: Archive, founders: list[Peer]) -> None:
        admitted = archive.invite(NEW, archive.anchor_of(founders[0]))
        if why == "no_room":
            monkeypatch.setattr(OuterStore, "unallocated_bytes", lambda *_: 2**60)
        if why == "nobody":
            await archive.stop(*founders)
        new = archive.start(NEW, invite=(b"", None) if why == "no_invite" else admitted)
        await ended(archive, new)
        assert [type(reason) for reason in reasons] == [NodeFailed if why == "nobody" else ConfigError]
        assert len(new.trainers) == (why == "nobody")
        assert (new.folder / "trainer").exists() == (why == "nobody")

    swarm(tmp_path, script)


def test_a_peer_that_returns_loads_while_it_catches_up(tmp_path: Path, slow: Slow) -> None:
    async def script(archive: Archive, founders: list[Peer]) -> None:
        back = founders[1]
        await archive.stop(back)
        await archive.until(lambda: founders[0].round > back.round + 1)
        slow.piece_s = 2.0
        again = archive.start(FOUNDERS[1])
        await archive.until(lambda: again.node.training.phase == "ready")
        assert again.node.state == "syncing"
        await archive.until(lambda: again.node.state == "training")
        assert [mode for mode, _, _ in spy_of(again).adopted] == ["start"]
        assert spy_of(again).adopted[0][1] > back.round  # from what it caught up to, at once

    swarm(tmp_path, script)


def residual_of(peer: Peer) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in peer.folder.glob("residual*")}


def test_a_stop_while_it_catches_up_keeps_what_the_stop_before_has_kept(tmp_path: Path, slow: Slow) -> None:
    async def script(archive: Archive, founders: list[Peer]) -> None:
        back = founders[1]
        await archive.stop(back)
        kept = residual_of(back)
        assert kept
        await archive.until(lambda: founders[0].round > back.round + 1)
        slow.piece_s = 2.0
        again = archive.start(FOUNDERS[1])
        await archive.until(lambda: again.node.joiner.progress is not None)
        assert again.node.contributor is not None
        await archive.stop(again)
        assert residual_of(back) == kept

    swarm(tmp_path, script)


def test_who_observes_has_none(tmp_path: Path) -> None:
    async def script(archive: Archive, founders: list[Peer]) -> None:
        archivist = archive.start(archive_rig.ARCHIVIST, "observer")
        await archive.until(lambda: archivist.node.state == "observing")
        assert archivist.trainers == []
        assert status(archivist.node, 0)["trainer"] is None

    swarm(tmp_path, script)
