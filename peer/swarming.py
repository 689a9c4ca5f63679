"""Taking part in a swarm's rounds: from the outer state that we hold to the next one, again and again.

Decides when a round closes, does for the round runner what it needs (`Workshop`), and catches up when the
others are ahead.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial

import torch

from talkoot.averaging import outputs
from talkoot.averaging.certificate import Certificate, Value
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.deadlines import Pace
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import Committed, Role
from talkoot.averaging.progress import Decision, Report
from talkoot.averaging.round import Round
from talkoot.averaging.rules import Rules, Timing
from talkoot.dht.identity import Identity, peer_id_of, verify
from talkoot.dht.network import Network
from talkoot.peer import clock
from talkoot.peer.admission import door_rule
from talkoot.peer.audits.auditor import Distrust
from talkoot.peer.choice import Choice
from talkoot.peer.contributor import Contributor
from talkoot.peer.disk import Disk, DiskLost
from talkoot.peer.history import History
from talkoot.peer.holdings import Holdings, number_of
from talkoot.peer.joining import Joiner
from talkoot.peer.links import Links
from talkoot.peer.manifest import Manifest
from talkoot.peer.metrics import Metrics
from talkoot.peer.recollection import Recollection
from talkoot.peer.recorder import Recorder
from talkoot.peer.round_counts import RoundCounts
from talkoot.peer.round_line import round_fields
from talkoot.peer.runner import Runner
from talkoot.peer.swarm_view import ALMOST, SwarmView, steps_count
from talkoot.peer.trainer.protocol import Mode
from talkoot.peer.vouching import vouches

log = logging.getLogger("talkoot.rounds")

POLL_S = 0.1
"""Shortest pause between two looks at whether the round is to close."""

MAX_POLL_S = 1.0
"""Longest such pause."""

RETRY_S = 2.0
"""Pause after a round was given up, doubled with each time in a row, up to `RETRY_MAX_S`."""

RETRY_MAX_S = 60.0


def until_next_look(decision: Decision, elapsed_s: float) -> float:
    """Seconds until the next look: a quarter of the time that is left if the steps go on as until now.

    As long as there are none, a quarter of the time that has passed.
    """
    left_s = elapsed_s * (decision.target / decision.steps - 1) if decision.steps > 0 else elapsed_s
    return min(max(POLL_S, left_s / 4), MAX_POLL_S)


class NodeFailed(Exception):  # noqa: N818 - reads well where it is caught
    """The node cannot go on; one line says why. Nothing that was committed is lost."""


class Swarming:
    """One swarm's rounds. `run` is a service; the rest is for the node around it."""

    def __init__(
        self,
        manifest: Manifest,
        rules: Rules,
        identity: Identity,
        network: Network,
        *,
        links: Links,
        runner: Runner,
        joiner: Joiner,
        holdings: Holdings,
        contributor: Contributor,
        metrics: Metrics,
        disk: Disk,
        role: Role = "full",
        on_head: Callable[[Certificate], None] = lambda _certificate: None,
    ) -> None:
        """Everything is open and verified; nothing runs yet. `on_head` hears of every new outer state."""
        self._on_head = on_head
        self.manifest = manifest
        self.rules = rules
        self.identity = identity
        self.network = network
        self.links = links
        self.runner = runner
        self.joiner = joiner
        self.holdings = holdings
        self.contributor = contributor
        self.metrics = metrics
        self._disk = disk
        self._held = False
        self._released = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self.role: Role = role
        self.view = SwarmView(identity.key, manifest.round)
        self.history = History()
        self.timing = Timing(
            form_s=manifest.round.form_s,
            exchange_s=manifest.round.exchange_s,
            certify_s=manifest.round.certify_s,
            floor_s=manifest.round.floor_s,
            slack_s=min(manifest.round.announce_s, manifest.round.form_s),
        )
        self.pace = Pace()
        self.recollection = Recollection(holdings.journal)
        self._aggregate = torch.empty(rules.numel)  # a round writes all of it; zeros take long
        self._recorder = Recorder(holdings)
        self._applying = asyncio.Lock()
        self._updating = asyncio.Lock()
        self._began, self._lasted_s = clock.now(), 0.0
        self._hold_off_until = 0.0
        self._retry_s = RETRY_S
        self._wanted: set[bytes] = set()
        self._want_update = asyncio.Event()
        self._committed = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._counts = RoundCounts(metrics, identity.key)

    # -- services ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow rounds until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self.runner.run())
            group.create_task(self._close_rounds())
            group.create_task(self._follow_frontier())
            group.create_task(self._come_back())
            self.begin_round()

    @property
    def ledger(self) -> Ledger:
        """The ledger before the running round."""
        return self.holdings.ledger

    @property
    def exchanging(self) -> bool:
        """Whether an attempt is under way."""
        machine = self.runner.round
        return machine is not None and machine.phase in ("forming", "exchanging", "certifying")

    @property
    def joins_rounds(self) -> bool:
        """Whether we take part in rounds. Who only observes does as one that may certify them."""
        return self.role != "observer" or self.may_certify(self.identity.key)

    def may_certify(self, peer: bytes) -> bool:
        """Whether this peer votes, or will once it is there again."""
        return peer in self.ledger.voters or peer in self.rules.founders

    def begin_round(self) -> None:
        """A new round from the outer state that we hold, if we take part in it and nothing holds us."""
        self._began = clock.now()
        self.history.begin(self.network.traffic.bytes_sent)
        self.metrics.round.set(self.ledger.round)
        self.runner.set_round(self._new_round() if self.joins_rounds and not self._held else None)

    # -- a pause -------------------------------------------------------------------------------------

    def hold(self, on: bool) -> None:
        """Take no part in rounds for now, and fetch nothing, or again; also before `run`. What is under way
        on the disk ends when it can."""
        if not on and self._hold_off_until == math.inf:
            self._hold_off_until = 0.0
        if on == self._held:
            return
        self._held = on
        if on:
            self._free.clear()
            self.runner.set_round(None)
            self._committed.set()
        else:
            self._free.set()
            self._released.set()

    async def _come_back(self) -> None:
        """After each time that we were held: look at the state on the disk, and begin a round."""
        while True:
            await self._released.wait()
            self._released.clear()
            async with self._updating, self._applying:
                if not await self._disk.run(self.holdings.is_whole):
                    raise DiskLost("the outer state on the disk has changed")
                if self.runner.round is None and not self._held:
                    self.begin_round()
            self.want_update(set(), at_once=True)

    def _new_round(self) -> Round:
        context = Context(
            ledger=self.ledger,
            prior=self.holdings.digest,
            rules=self.rules,
            timing=self.timing,
            signer=self.identity,
            verify=verify,
            memory=self.recollection.memory,
            door=door_rule(self.rules.swarm, self.rules.founders),
            pace=self.pace,
            counted=frozenset(item.key for item in self.holdings.head.value.cut),
            counted_until=self._began + 2 * self._lasted_s,
            verdict=partial(self.runner.verdict, self.holdings.digest),
            revoked=partial(self.runner.revoked, self.ledger),
            vouches=partial(vouches, voters=self.ledger.voters, seen=self.links.seen),
            **(auditor.distrusts() if (auditor := self.runner.auditor) is not None else Distrust()),
        )
        self.pace.round_trip_s = self.runner.pulse.round_trip_s()
        before = self.runner.round
        return Round(
            context,
            role=self.role,
            upload=self.links.upload.rate,
            earliest=self._began + self.manifest.round.min_interval_s,
            journal=self.holdings.voter_journal(),
            suspects=before.suspects if before is not None else frozenset(),
            yields=self.view.is_slow(self.links.upload.rate),
        )

    async def _close_rounds(self) -> None:
        """Watch the swarm's progress; close the round when it is due."""
        pause_s = POLL_S
        while True:
            await asyncio.sleep(pause_s)
            machine = await self.runner.idle_round()
            elapsed_s = clock.now() - self._began
            decision = self.view.decide(
                self.ledger, self.holdings.digest, self.rules, self.own_report(), elapsed_s
            )
            pause_s = until_next_look(decision, elapsed_s)
            machine.almost = decision.close or decision.steps >= ALMOST * decision.target
            if self._is_due(machine, decision, elapsed_s) and clock.now() >= self._hold_off_until:
                self._note_closing()
                self.runner.close()

    def _is_due(self, machine: Round, decision: Decision, elapsed_s: float) -> bool:
        """Whether we close the round. Who only observes has no steps, and leaves that to the others: it
        begins what it leads when one of them has joined, perhaps before we were ready."""
        if self.role != "observer":
            return decision.close
        return machine.almost and machine.asked and elapsed_s >= self.manifest.round.min_interval_s

    def own_report(self) -> Report | None:
        """Our own progress in the running round."""
        progress = self.contributor.progress
        if progress is None or not self.contributor.training:
            return None
        counts = steps_count(self.identity.key, self.ledger, self.rules)
        return Report(self.contributor.steps, 0.0, 0.0, counts)

    def _note_closing(self) -> None:
        if self.history.running.closed_at_s is None:
            self.history.running.closed_at_s = clock.now()

    async def hand_in(self) -> None:
        """Wait until a contribution that is under way has been settled, or a round that wants our vote is
        over; close no further round."""
        self._hold_off_until = math.inf
        ours = self.contributor
        while self.exchanging and (ours.pending or ours.encoding or self.role == "observer"):
            self._committed.clear()
            await self._committed.wait()

    # -- Workshop ------------------------------------------------------------------------------------

    def takes_part(self, peer: bytes) -> bool:
        """See `Workshop`."""
        seen = self.view.others.get(peer)
        if seen is None:
            return peer in self.ledger.voters
        held = seen.record.state == "paused" and seen.record.round > 0  # before it, all wait for enough peers
        trains = seen.record.role != "observer"
        return (trains or self.may_certify(peer)) and seen.record.state != "draining" and not held

    async def encode(self) -> LocalContribution | None:
        """See `Workshop`."""
        self._note_closing()
        local = await self.contributor.encode()
        if local is not None:
            self._counts.encoded(local.header, self.contributor.codec_error)
        return local

    def aggregate_vector(self) -> torch.Tensor:
        """See `Workshop`."""
        return self._aggregate

    async def apply(self, ledger: Ledger) -> bytes:
        """See `Workshop`."""
        async with self._applying:
            await self.contributor.followed.wait()
            return await self._disk.run(self.holdings.apply, self._aggregate, ledger)

    async def obtain(self, value: Value, ledger: Ledger, holders: tuple[bytes, ...]) -> bool:
        """See `Workshop`."""
        async with self._applying:
            await self.contributor.followed.wait()
            if self.runner.round is None or self.ledger.round != value.round:
                return False  # meanwhile the round is over
            return await self._disk.until_done(
                partial(self.joiner.obtain, holders, self.holdings, value.digest, ledger)
            )

    async def persist(self, entry: bytes) -> None:
        """See `Workshop`."""
        await self._disk.run(self.holdings.write_voter_journal, entry)

    async def commit(self, certificate: Certificate, ledger: Ledger) -> None:
        """See `Workshop`."""
        before, encoded, machine = self.ledger, self.runner.encoded, self.runner.round
        own = machine.local.header if machine is not None and machine.local is not None else None
        await self.contributor.begin_change()
        async with self._applying:
            await self._disk.run(self.holdings.commit, certificate, ledger)
        if self.recollection.committed(certificate, own):
            await self._disk.run(self.recollection.drop)
        await self._after(certificate, before, mode="rebase")
        if encoded is not None and self._group is not None:
            self._group.create_task(self._recorder.record(certificate.value, before, encoded))

    async def need_state(self, certificate: Certificate) -> None:
        """See `Workshop`."""
        self.want_update(set(certificate.value.present), at_once=True)

    async def _after(
        self, certificate: Certificate, before: Ledger, *, mode: Mode, choice: Choice | None = None
    ) -> None:
        """The outer state has moved on: settle our contribution, start the next round, move the trainer.

        `choice`: it was fetched, in this way.
        """
        self._on_head(certificate)
        self._lasted_s = clock.now() - self._began if choice is None else self._lasted_s
        machine = self.runner.round
        last = machine.last if machine is not None and choice is None else None
        ended = last if last is not None and last.number == certificate.attempt else None
        own = await self.contributor.settle(certificate.value.prior)
        progress = self.contributor.progress
        record = self.history.commit(
            certificate,
            self.ledger,
            before,
            own=own,
            attempt=ended,
            jobs=dict(self.runner.seconds),
            codec_error=self.contributor.codec_error if own is not None else None,
            bytes_sent=self.network.traffic.bytes_sent,
            fetched=choice is not None,
            catch_up=choice,
            loss=progress.loss if progress is not None else None,
        )
        self.runner.seconds.clear()
        self._counts.committed(record, certificate.value, self._began)
        self._committed.set()
        self._retry_s = RETRY_S
        if self._hold_off_until < math.inf:
            self._hold_off_until = 0.0
        log.info("round committed", extra=round_fields(record, certificate))
        self.begin_round()
        assert self._group is not None
        self._group.create_task(self._follow(mode, record.round))

    async def _follow(self, mode: Mode, round_number: int) -> None:
        adopted = await self.contributor.follow(mode, self.manifest.round.eval_windows)
        if adopted is not None and adopted.eval_loss is not None and math.isfinite(adopted.eval_loss):
            self.metrics.eval_loss.set(adopted.eval_loss)
            record = next((r for r in reversed(self.history.records) if r.round == round_number), None)
            if record is not None:
                record.eval_loss = adopted.eval_loss

    def behind(self, peer: bytes, round_number: int) -> None:
        """See `Workshop`."""
        if round_number > self.ledger.round:
            self.want_update({peer}, at_once=False)

    def answer_stale(self, peer: bytes, round_number: int) -> None:
        """See `Workshop`."""
        if number_of(self.holdings.head) == round_number + 1:
            message = Committed(
                round=round_number, attempt=self.holdings.head.attempt, certificate=self.holdings.head
            )
            self.runner.say(peer, message)

    def note(self, output: outputs.Output) -> None:
        """See `Workshop`."""
        match output:
            case outputs.AttemptOver(attempt=attempt, reason=reason):
                self.history.attempt_over(reason)
                self.metrics.round_attempts.inc()
                self.metrics.round_failures.inc(reason)
                log.info("round %d: attempt %d ended: %s", self.ledger.round, attempt, reason)
            case outputs.GaveUp(reason=reason):
                self._hold_off_until = max(self._hold_off_until, clock.now() + self._retry_s)
                self._committed.set()
                self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
                log.warning("round %d given up for now: %s%s", self.ledger.round, reason, self._nobody())
            case outputs.LeftOut(contributions=contributions, reason=reason):
                for contribution in contributions:
                    self.history.left_out(contribution.key, reason)
                    self.metrics.contributions_rejected.inc(reason)
            case outputs.Refused(sender=sender, reason=reason, detail=detail):
                self.metrics.messages_rejected.inc(reason)
                self.network.events.on_offence(sender, "round", reason)
                log.debug("refused from %s: %s", peer_id_of(sender)[-8:], detail or reason)
            case _:
                pass

    def _nobody(self) -> str:
        """Words for a swarm that has lost its voters: training goes on, but no round can be certified."""
        voters = self.ledger.voters
        if self.links.connected & set(voters) or self.identity.key in voters:
            return ""
        return f"; none of the {len(voters)} peers that may certify it is here"

    # -- catching up ---------------------------------------------------------------------------------

    def want_update(self, peers: set[bytes], *, at_once: bool) -> None:
        """Ask these peers soon whether their state is to be preferred to ours."""
        self._wanted |= peers
        if at_once:
            self._want_update.set()

    async def _follow_frontier(self) -> None:
        """Catch up when others are ahead for longer than an announcement may be late."""
        patience_s = 2 * self.manifest.round.announce_s + self.manifest.round.min_interval_s
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    await self._want_update.wait()
            except TimeoutError:
                pass
            self._want_update.clear()
            await self._disk.well()
            await self._free.wait()
            wanted, self._wanted = self._wanted, set()
            ahead = self.view.ahead_of(self.ledger.round)
            quiet = not self.exchanging or (
                self.runner.round is not None and self.runner.round.phase == "done"
            )
            elsewhere = self.view.elsewhere(self.holdings.unsettled_digest)
            far = self.view.frontier(0) > self.ledger.round + 1  # no certificate of ours is on its way
            if wanted or elsewhere or (ahead and (quiet or far)):
                await self.update([*sorted(wanted), *ahead, *elsewhere])

    async def update(self, peers: list[bytes]) -> bool:
        """Fetch a state that is to be preferred to ours; True when there was one."""
        async with self._updating:
            before = self.ledger
            stopped = False

            async def stop_round() -> None:
                nonlocal stopped
                stopped = True
                self.runner.set_round(None)
                await self.contributor.begin_change()

            await self.contributor.followed.wait()
            number = self.ledger.round
            fetch = partial(
                self.joiner.update,
                peers,
                self.holdings,
                self.rules.founders,
                before_download=stop_round,
                still_wanted=lambda: self.ledger.round == number and not self._applying.locked(),
            )
            installed = await self._disk.until_done(fetch)
            if installed is None:
                machine = self.runner.round
                if self._held and not stopped:
                    return False
                if stopped or machine is None or machine.phase == "done":
                    self.contributor.end_change()
                    if self.ledger.round == number:
                        self.begin_round()
                return False
            self.recollection.fetched()
            self.metrics.rounds_skipped.inc(max(0, self.ledger.round - number))
            self.metrics.caught_up(installed.choice)
            await self._after(installed.branch.head, before, mode=installed.mode, choice=installed.choice)
            if installed.choice.way == "snapshot":  # it took its time: replay what was committed meanwhile
                self.want_update(set(peers), at_once=True)
            return True
