"""One node's judge with a trainer that is played by the test: what it asks for, and when it says nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from talkoot.averaging.audits import Audits
from talkoot.averaging.reputation import subject_of
from talkoot.averaging.robustness import Robustness
from talkoot.averaging.verdicts import MAX_SCORE, check
from talkoot.cli.conduct import _row
from talkoot.cli.reading import status_text
from talkoot.peer.attacks.exchange import Counted, Exchange, Sent, Terms
from talkoot.peer.judging.judge import Judge
from talkoot.peer.judging.score import FEWEST_WINDOWS, SCALE, windows_seed
from talkoot.peer.trainer.process import TrainerGone
from talkoot.peer.trainer.protocol import Audited, AuditTask, Unfinished

OUTER = Path("before.f32")
BETTER = Audited(before=(2.0, 2.1) * 8, after=(1.9, 1.9) * 8, seconds=1.0)
WORSE = Audited(before=(2.0, 2.1) * 8, after=(2.1, 2.3) * 8, seconds=1.0)


class Signer:
    """Signs as a worker of the bench."""

    key = bytes([2]) * 32

    def sign(self, message: bytes) -> bytes:
        """So that a test can tell that it was signed."""
        return (message[:2] * 32)[:64]


@dataclass
class Rig:
    """A judge and what is around it."""

    folder: Path
    exchange: Exchange
    counted: Counted
    answers: list[Audited | Exception]
    tasks: list[AuditTask] = field(default_factory=list)
    results: list[tuple[str, float]] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.counting = asyncio.Event()
        self.followed = asyncio.Event()
        self.followed.set()
        self.before = SimpleNamespace(generation=SimpleNamespace(theta_path=OUTER))
        self.holdings: Any = SimpleNamespace(
            digest=self.counted.value.digest, state=lambda _prior: self.before
        )
        self.contributor: Any = SimpleNamespace(
            followed=self.followed, training=True, begun=True, last_snapshot=None, trainer=self
        )
        self.busy = False
        self.highest = MAX_SCORE
        self.judge = Judge(
            Signer(),
            self.exchange.rules,
            cast(Any, self.holdings),
            cast(Any, self.contributor),
            self.folder,
            busy=lambda: self.busy,
            count=self._count,
            highest=self._best,
        )

    async def _best(self, digest: bytes, _subject: bytes) -> int:
        assert digest == self.counted.value.digest
        return self.highest

    def _count(self, result: str, seconds: float) -> None:
        self.results.append((result, seconds))
        self.counting.set()

    async def audit(self, task: AuditTask) -> Audited:
        """The trainer's part."""
        assert task.piece.stat().st_size == 4 * task.numel
        self.tasks.append(task)
        self.meanwhile()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def end_round(self, *, seconds: float = 1000.0) -> str:
        """The round ends, whose steps took so long; what comes of the audit."""
        self.contributor.last_snapshot = SimpleNamespace(seconds=seconds)
        self.counting.clear()
        machine: Any = SimpleNamespace(
            context=SimpleNamespace(ledger=self.counted.ledger),
            slices=SimpleNamespace(whole=lambda: self.counted.slices[1]),
        )
        self.judge.ending(machine, None, self.counted.value, self.exchange.ledger)
        async with asyncio.timeout(30):
            await self.counting.wait()
        return self.results[-1][0]

    def verdict_score(self) -> int | None:
        """What our next join says."""
        verdict = self.judge.verdict(self.counted.value.digest)
        return None if verdict is None else verdict.score


def play(
    folder: Path, *answers: Audited | Exception, script: Callable[[Rig], Any], forge: bool = False
) -> Rig:
    """Run a judge beside a script."""

    async def main() -> Rig:
        terms = Terms(
            workers=4, inner_steps=10, robustness=Robustness(), audits=Audits(trainers=True, share=0.03)
        )
        exchange = Exchange(terms, torch.zeros(4000))
        sent = Sent(delta=torch.randn(4000), steps=10, tokens=100, forge="nan" if forge else None)
        rig = Rig(folder, exchange, exchange.round([sent] * 4), list(answers))
        async with asyncio.TaskGroup() as group:
            service = group.create_task(rig.judge.run())
            await script(rig)
            service.cancel()
        return rig

    rig = asyncio.run(main())
    assert not list(folder.iterdir())  # no slice is left behind
    return rig


def test_a_verdict_is_on_whom_the_lot_chose_and_about_our_part(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        assert await rig.end_round() == "helped"
        value, rules = rig.counted.value, rig.exchange.rules
        verdict = rig.judge.verdict(value.digest)
        assert verdict is not None
        assert verdict.subject == subject_of(Signer.key, rig.exchange.ledger, value.digest, rules)
        signed = lambda _key, message, signature: signature == Signer().sign(message)  # noqa: E731
        assert check(
            verdict, swarm=rules.swarm, round_number=value.round + 1, prior=value.digest, verify=signed
        )
        assert rig.judge.verdict(bytes(32)) is None
        (task,) = rig.tasks
        assert (task.outer, task.scale) == (OUTER, SCALE)
        assert (task.start, task.numel) == (rules.chunk_size, rules.chunk_size)
        assert task.seed == windows_seed(value.digest, Signer.key)
        assert task.budget_s == pytest.approx(30.0, abs=0.5)
        assert await rig.end_round() == "harmful"
        assert cast(int, rig.verdict_score()) < 0

    play(tmp_path, BETTER, WORSE, script=script)


def test_what_does_not_decode_is_the_worst_and_costs_the_trainer_nothing(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        assert await rig.end_round() == "harmful"
        assert rig.verdict_score() == -MAX_SCORE
        assert rig.tasks == []

    play(tmp_path, script=script, forge=True)


@pytest.mark.parametrize("why", ["busy", "budget", "data", "memory", "held"])
def test_an_audit_without_an_end_says_nothing(tmp_path: Path, why: Unfinished) -> None:
    stopped = Audited(before=(), after=(), seconds=2.0, unfinished=why)

    async def script(rig: Rig) -> None:
        assert await rig.end_round() == why
        assert rig.verdict_score() is None
        assert rig.results[-1][1] == pytest.approx(2.0, abs=0.5)

    play(tmp_path, stopped, script=script)


def test_time_is_saved_up_for_what_was_too_long(tmp_path: Path) -> None:
    short = Audited(before=(), after=(), seconds=0.0, unfinished="budget")

    async def script(rig: Rig) -> None:
        assert await rig.end_round(seconds=100.0) == "budget"  # 3 s were too little
        rig.judge.purse.spend(3.0)
        assert await rig.end_round(seconds=100.0) == "budget"  # not tried again before there are 6
        assert len(rig.tasks) == 1
        assert await rig.end_round(seconds=101.0) == "helped"
        assert await rig.end_round(seconds=100.0) == "helped"  # it is known now what it takes
        assert len(rig.tasks) == 3
        last = rig.judge.last
        assert last is not None
        assert last.windows >= FEWEST_WINDOWS

    play(tmp_path, short, BETTER, BETTER, script=script)


def test_rounds_come_first_and_what_has_changed_is_not_judged(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        rig.busy = True
        assert await rig.end_round() == "busy"
        rig.busy = False
        rig.contributor.begun = False
        assert await rig.end_round() == "no_trainer"
        rig.contributor.begun = True
        assert await rig.end_round() == "no_trainer"  # it ended meanwhile
        rig.meanwhile = lambda: setattr(rig, "before", SimpleNamespace())
        assert await rig.end_round() == "overtaken"  # another state lies where the one before was
        rig.before = SimpleNamespace(generation=SimpleNamespace(theta_path=OUTER))
        rig.meanwhile = lambda: setattr(rig.holdings, "digest", bytes(32))
        assert await rig.end_round() == "overtaken"
        assert await rig.end_round() == "overtaken"  # before it began
        assert len(rig.tasks) == 3
        assert rig.verdict_score() is None

    play(tmp_path, TrainerGone("gone"), BETTER, BETTER, script=script)


def test_without_our_slices_or_a_disk_there_is_no_verdict(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        whole = rig.counted
        rig.counted = replace(whole, slices=[{}] * 4)
        assert await rig.end_round() == "no_slice"
        rig.counted = whole
        rig.judge._path = tmp_path / "nowhere" / "piece"
        assert await rig.end_round() == "disk"

    play(tmp_path, script=script)


def test_status_says_what_was_audited() -> None:
    audits: dict[str, Any] = {"spent_s": 1.24, "earned_s": 40.0, "last": None}
    assert "audits    no verdict yet, 1.2 of 40.0 s spent" in status_text({"audits": audits})
    last = {"score": -120, "peer_id": "12D3KooWabcdefgh", "round": 7, "windows": 64, "seconds": 0.2}
    words = status_text({"audits": audits | {"last": last}})
    assert "audits    -120 for abcdefgh in round 7, 1.2 of 40.0 s spent" in words
    assert "audits" not in status_text({"audits": None})
    assert "proven    it claimed two results: test" in status_text({"proven": "it claimed two results"})


def test_peers_say_how_the_swarm_stands_to_them() -> None:
    peer = {"peer_id": "12D3KooWabcdefgh", "state": "training", "role": "full", "round": 7, "score": 0.0}
    known = {"standing": "left_out", "reputation": -180, "audits_passed": 1}
    assert _row(peer | known)[-1].endswith("no; in the swarm: left out, reputation -180, 1 audit passed")
    assert _row(peer | {"standing": "probation", "reputation": None})[-1].endswith("in the swarm: probation")
    assert _row(peer | {"standing": "voter", "reputation": None})[-1] == "no"


@pytest.mark.parametrize(("highest", "result", "asked"), [(-MAX_SCORE, "harmful", 0), (0, "neutral", 1)])
def test_what_was_there_before_is_not_praised_whatever_the_loss_says(
    tmp_path: Path, highest: int, result: str, asked: int
) -> None:
    async def script(rig: Rig) -> None:
        rig.highest = highest
        assert await rig.end_round() == result
        assert rig.verdict_score() == highest
        assert len(rig.tasks) == asked

    play(tmp_path, BETTER, script=script)
