"""Judges, after each round, one contribution of it, and has the verdict ready for the next round's join.

Whose contribution is drawn from the round's outcome, and so are the held-out windows; what is judged is the
slice that this peer reduced, against the parameters that the contribution started from. The trainer measures
it between two inner steps, for a share of their time at most. Rounds come first: whatever else is wanted of
the trainer ends an audit, and without a verdict the join goes out without one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from talkoot.averaging.certificate import Value
from talkoot.averaging.encoded import Encoded
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.reputation import subject_of
from talkoot.averaging.round import Round
from talkoot.averaging.rules import Rules
from talkoot.averaging.signing import Signer
from talkoot.averaging.verdicts import MAX_SCORE, Verdict, sign_verdict
from talkoot.dht.identity import peer_id_of
from talkoot.peer import clock
from talkoot.peer.contributor import Contributor
from talkoot.peer.holdings import Holdings
from talkoot.peer.judging.case import Case, dense_case, sparse_case
from talkoot.peer.judging.purse import Purse
from talkoot.peer.judging.results import result_of
from talkoot.peer.judging.score import FEWEST_WINDOWS, MOST_WINDOWS, SCALE, score_of, windows_seed
from talkoot.peer.trainer.process import TrainerGone, TrainerRefused
from talkoot.peer.trainer.protocol import Audited, AuditTask

log = logging.getLogger("talkoot.audit")


@dataclass(frozen=True, slots=True)
class Last:
    """The last verdict."""

    subject: bytes
    round: int
    score: int
    windows: int
    seconds: float


class _NoVerdict(Exception):  # noqa: N818 - ends an audit
    """One of `NO_RESULTS`."""


class Judge:
    """One for a node that trains, in a swarm whose trainers are audited. `run` is a service."""

    def __init__(
        self,
        signer: Signer,
        rules: Rules,
        holdings: Holdings,
        contributor: Contributor,
        folder: Path,
        *,
        busy: Callable[[], bool],
        count: Callable[[str, float], None],
        highest: Callable[[bytes, bytes], Awaitable[int]],
    ) -> None:
        """Slices are decoded into `folder`. Nothing is begun while `busy`; `count` hears of each result and
        how long it took; `highest` is the best score for the contribution to the round that ended with a
        digest, by key, less where it was there before (`talkoot.peer.watcher`)."""
        assert rules.audits is not None
        self._signer = signer
        self._rules = rules
        self._holdings = holdings
        self._contributor = contributor
        self._path = folder / "audited.f32"
        self._busy = busy
        self._count = count
        self._highest = highest
        self.purse = Purse(rules.audits.share)
        self.last: Last | None = None
        self._needed_s = 0.0
        """What the fewest windows are known to take."""
        self._paid: object = None
        """The snapshot whose steps were paid for last."""
        self._make: Callable[[], Case | None] | None = None
        self._verdict: tuple[bytes, Verdict] | None = None
        self._wake = asyncio.Event()

    # -- what the driver tells and asks --------------------------------------------------------------

    def ending(self, machine: Round, encoded: Encoded | None, value: Value, ledger: Ledger) -> None:
        """A round is about to be committed, with this ledger after it: keep what is to be judged."""
        self._earn()
        self._verdict = self._make = None
        subject = subject_of(self._signer.key, ledger, value.digest, self._rules)
        if subject is None:
            return
        self._make = partial(self._case_of, machine, encoded, value, subject)
        self._wake.set()

    def _earn(self) -> None:
        snapshot = self._contributor.last_snapshot
        if snapshot is not None and snapshot is not self._paid:
            self._paid = snapshot
            self.purse.earn(snapshot.seconds)

    def _case_of(self, machine: Round, encoded: Encoded | None, value: Value, subject: bytes) -> Case | None:
        before, own = machine.context.ledger, self._signer.key
        if self._rules.exchange == "dense":
            held = machine.slices.whole()
            return dense_case(value, held, before, self._rules, auditor=own, subject=subject)
        sources = encoded.counted(value) if encoded is not None else None
        if sources is None:
            return None
        return sparse_case(value, sources, self._rules, auditor=own, subject=subject)

    def verdict(self, digest: bytes) -> Verdict | None:
        """For our joins of the round after the state `digest`, if there is one by now."""
        return self._verdict[1] if self._verdict is not None and self._verdict[0] == digest else None

    # -- judging -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Judge until cancelled; a round that ends meanwhile is judged next."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            make, self._make = self._make, None
            case = await asyncio.to_thread(make) if make is not None else None
            if make is None:
                continue
            if case is None:
                self._count("no_slice", 0.0)
                continue
            began = self.purse.spent_s
            try:
                score = await self._score(case)
            except _NoVerdict as reason:
                result = str(reason)
                log.debug("round %d: no verdict on %s: %s", case.round, peer_id_of(case.subject), reason)
            else:
                result = result_of(score)
                self._say(case, score)
            self._count(result, self.purse.spent_s - began)

    def _say(self, case: Case, score: int) -> None:
        verdict = sign_verdict(
            self._signer,
            swarm=self._rules.swarm,
            round_number=case.round + 1,
            prior=case.digest,
            subject=case.subject,
            score=score,
        )
        self._verdict = case.digest, verdict
        log.debug("round %d: verdict on %s: %d", case.round, peer_id_of(case.subject), score)

    async def _score(self, case: Case) -> int:
        """Raises _NoVerdict."""
        highest = await self._highest(case.digest, case.subject)
        if highest == -MAX_SCORE:  # whatever the loss says: a copy of work lowers it, too
            return self._without_measuring(case)
        await self._contributor.followed.wait()  # the trainer has moved on to the state after the round
        self._require_time(case)
        before = self._holdings.state(case.prior)
        if before is None:
            raise _NoVerdict("overtaken")
        try:
            whole = await self._write(case)
            if not whole:  # nobody's machine signs by accident what does not decode
                return self._without_measuring(case)
            self._require_time(case)
            done = await self._measure(case, before.generation.theta_path)
        finally:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        # the parameters before the round lie where those after the next one will
        if self._holdings.state(case.prior) is not before or self._holdings.digest != case.digest:
            raise _NoVerdict("overtaken")
        score = score_of(done.before, done.after)
        if score is None:
            raise _NoVerdict("data")
        score = min(score, highest)
        self.last = Last(case.subject, case.round, score, len(done.before), done.seconds)
        return score

    def _without_measuring(self, case: Case) -> int:
        self.last = Last(case.subject, case.round, -MAX_SCORE, 0, 0.0)
        return -MAX_SCORE

    def _require_time(self, case: Case) -> None:
        if self._holdings.digest != case.digest:
            raise _NoVerdict("overtaken")
        if self._busy():
            raise _NoVerdict("busy")
        if not self._contributor.training or not self._contributor.begun:
            raise _NoVerdict("no_trainer")
        if self.purse.left_s <= 0 or self.purse.left_s < self._needed_s:
            raise _NoVerdict("budget")

    async def _write(self, case: Case) -> bool:
        began = clock.now()
        try:
            return await asyncio.to_thread(case.write, self._path)
        except OSError as error:
            raise _NoVerdict("disk") from error
        finally:
            self.purse.spend(clock.now() - began)

    async def _measure(self, case: Case, outer: Path) -> Audited:
        trainer = self._contributor.trainer
        assert trainer is not None
        budget_s = self.purse.left_s
        task = AuditTask(
            outer=outer,
            piece=self._path,
            start=case.start,
            numel=case.numel,
            scale=SCALE,
            seed=windows_seed(case.digest, self._signer.key),
            windows=MOST_WINDOWS,
            fewest=FEWEST_WINDOWS,
            budget_s=budget_s,
        )
        try:
            done = await trainer.audit(task)
        except (TrainerGone, TrainerRefused) as error:
            raise _NoVerdict("no_trainer") from error
        self.purse.spend(done.seconds)
        if done.unfinished == "budget":
            self._needed_s = 2 * budget_s  # not again before so much is saved
        if done.unfinished:
            raise _NoVerdict(done.unfinished)
        self._needed_s = done.seconds * FEWEST_WINDOWS / len(done.before)
        return done
