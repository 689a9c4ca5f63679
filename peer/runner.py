"""Drives one `Round` over the network: carries out its outputs, brings back what happened.

What a round needs from the node around it (encoding, staging, committing) comes from a `Workshop`, so the
same runner serves the daemon and the benchmark of a bare round.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import torch

from talkoot.averaging import aggregate, messages, outputs, wire
from talkoot.averaging.certificate import Certificate, Value
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.encoded import Encoded
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.loudness import is_louder
from talkoot.averaging.messages import (
    BulkHeader,
    Call,
    Committed,
    Fetching,
    Join,
    Leave,
    Message,
    MessageError,
    Ping,
    Pong,
    Proposal,
)
from talkoot.averaging.revocations import Revocation
from talkoot.averaging.round import Round
from talkoot.averaging.verdicts import Verdict
from talkoot.compression.codec import CodecError
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.network import Frame
from talkoot.peer import clock
from talkoot.peer.audits.auditor import Auditor
from talkoot.peer.issuing import Issuing
from talkoot.peer.judging.judge import Judge
from talkoot.peer.links import Links
from talkoot.peer.pulse import Pulse
from talkoot.peer.watcher import Watcher

log = logging.getLogger("talkoot.rounds")

LINGER_S = 30.0
"""How long a round that is over here goes on to serve blobs to those who still fetch them."""

BULK_WAIT_S = 30.0
"""How long a bulk frame may wait for its roster before it is dropped."""

GOODBYE_S = 2.0
"""How long a farewell may take to be sent."""


class Workshop(Protocol):
    """What the node does for a round."""

    def takes_part(self, peer: bytes) -> bool:
        """Whether a connected peer is one of the swarm, so that rounds wait for it."""

    async def encode(self) -> LocalContribution | None:
        """Snapshot and encode our contribution; None when there is too little to contribute."""

    def aggregate_vector(self) -> torch.Tensor:
        """Room for the decoded aggregate: flat fp32 of all parameters."""

    async def apply(self, ledger: Ledger) -> bytes:
        """Take the outer step into a staged state; returns its digest."""

    async def obtain(self, value: Value, ledger: Ledger, holders: tuple[bytes, ...]) -> bool:
        """Fetch the result of a prepared value into the staged state; False when nobody gives it."""

    async def persist(self, entry: bytes) -> None:
        """Write the voter's journal entry durably."""

    async def commit(self, certificate: Certificate, ledger: Ledger) -> None:
        """Make the staged state the outer state, and start the next round."""

    async def need_state(self, certificate: Certificate) -> None:
        """The round was committed without us: fetch its state, and start the next round."""

    def behind(self, peer: bytes, round_number: int) -> None:
        """A peer speaks of a later round."""

    def answer_stale(self, peer: bytes, round_number: int) -> None:
        """A peer speaks of a round that is over here: it may need the certificate."""

    def note(self, output: outputs.Output) -> None:
        """Something to log and count: AttemptOver, GaveUp, LeftOut, Refused."""


class Runner:
    """Performs the outputs of the current round, in order, in one task; jobs run in worker threads."""

    def __init__(self, now: Callable[[], float] = clock.now) -> None:
        self._late_workshop: Workshop | None = None
        self._clock = now
        self._outputs: asyncio.Queue[tuple[Round, outputs.Output]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._planned_tick: float | None = None
        self._group: asyncio.TaskGroup | None = None
        self._links: Links | None = None
        self._moved = asyncio.Event()
        self._idle = asyncio.Event()
        self.pulse = Pulse(self.say, self.links_changed, self._reconnect)
        self._decoding: Counter[tuple[int, int]] = Counter()
        self.auditor: Auditor | None = None
        """Hears what reducers answer for."""
        self.watcher: Watcher | None = None
        """Sees what the others contribute."""
        self.judge: Judge | None = None
        """Judges what others contributed."""
        self.issuing: Issuing | None = None
        """The invites that we made."""
        self.round: Round | None = None
        self.encoded: Encoded | None = None
        """What the aggregate of the current round was decoded from."""
        self.armed = math.nan
        """Share of the chunks of the part that was last reduced here in which the robust rule counted."""
        self._past: Round | None = None
        """The round before, as long as others may want blobs of it."""
        self.seconds: Counter[str] = Counter()
        """Time spent in each kind of job."""
        self.sent: Counter[str] = Counter()
        """Messages to other peers, by tag; `bulk` is what is none."""
        self.received: Counter[str] = Counter()
        """Messages of other peers, likewise."""

    def attach(self, links: Links) -> None:
        """Where messages go. Call first."""
        self._links = links
        links.on_reroute = self.pulse.rerouted

    def work_for(self, workshop: Workshop) -> None:
        """For whom rounds are run. Until then frames of other peers are dropped. Call before `run`."""
        self._late_workshop = workshop

    @property
    def _workshop(self) -> Workshop:
        assert self._late_workshop is not None
        return self._late_workshop

    def set_round(self, machine: Round | None) -> None:
        """Go on with another round (None: none for now); outputs of the one before are void."""
        if self.round is not None and self.round.lingers and self._group is not None:
            self._past = self.round
            self._group.create_task(self._linger(self.round))
        self.round = machine
        self.encoded = Encoded(machine.context.rules.num_chunks) if machine is not None else None
        self._idle.clear()
        if machine is not None:
            self.feed(machine, machine.reachable(self._partners(), self._clock()) if self._links else [])
        self._changed.set()
        self._move()

    async def _linger(self, machine: Round) -> None:
        await asyncio.sleep(LINGER_S)
        if self._past is machine:
            self._past = None

    async def idle_round(self) -> Round:
        """The current round, as soon as there is one in which no attempt is under way."""
        while self.round is None or self.round.phase != "idle":
            self._idle.clear()
            await self._idle.wait()
        return self.round

    def close(self) -> None:
        """The round is to close by our own reckoning."""
        if self.round is not None:
            self.feed(self.round, self.round.close(self._clock()))

    def links_changed(self, _peers: frozenset[bytes] = frozenset()) -> None:
        """For `Links.on_change`, and when it may have changed who takes part."""
        if self._links is not None:
            self.pulse.follow(self._links.connected)
        if self.round is not None:
            self.feed(self.round, self.round.reachable(self._partners(), self._clock()))

    def _partners(self) -> set[bytes]:
        """Connected peers that take part."""
        if self._links is None or self._late_workshop is None:
            return set()
        return {
            peer
            for peer in self._links.connected
            if self._workshop.takes_part(peer) and not self.pulse.absent(peer)
        }

    def say(self, peer: bytes, message: messages.Message) -> None:
        """Send a control message."""
        if self._links is not None:
            self.sent[_tag(message)] += 1
            self._links.send(peer, wire.encode(message))

    def _reconnect(self, peer: bytes) -> None:
        if self._links is not None:
            self._links.reconnect(peer)

    def verdict(self, digest: bytes) -> Verdict | None:
        """Ours for the round after the state `digest`, as soon as there is one."""
        return self.judge.verdict(digest) if self.judge is not None else None

    def revoked(self, ledger: Ledger) -> tuple[Revocation, ...]:
        """Invites that we take back in the round after this ledger."""
        return self.issuing.pending(ledger) if self.issuing is not None else ()

    async def say_goodbye(self) -> None:
        """Tell everybody not to wait for us; who does not take it in time will notice by itself."""
        assert self._links is not None
        self.pulse.left()
        for peer in sorted(self._links.connected):
            self.say(peer, Leave(round=0, attempt=0))
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._links.sent_control()

    @property
    def backlog(self) -> int:
        """Outputs that wait to be carried out."""
        return self._outputs.qsize()

    def feed(self, machine: Round, outs: list[outputs.Output]) -> None:
        """Queue what a call of the round returned."""
        for output in outs:
            self._outputs.put_nowait((machine, output))
        if machine is self.round:
            (self._idle.set if machine.phase == "idle" else self._idle.clear)()
        due = machine.next_tick
        if due is not None and (self._planned_tick is None or due < self._planned_tick):
            self._changed.set()
        self._move()

    async def run(self) -> None:
        """Perform and keep time until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._perform_all())
            group.create_task(self._keep_time())
            group.create_task(self.pulse.run())

    async def _keep_time(self) -> None:
        while True:
            machine = self.round
            self._planned_tick = due = machine.next_tick if machine is not None else None
            self._changed.clear()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                    await self._changed.wait()
            except TimeoutError:
                if machine is not None and due is not None and machine is self.round:
                    # Rounding may have woken us a hair too early: the timer has decided that it is due.
                    # Nothing was due if that has been put off meanwhile; the round knows.
                    self.feed(machine, machine.tick(max(due, self._clock())))

    async def _perform_all(self) -> None:
        while True:
            machine, output = await self._outputs.get()
            serving = machine is self._past and isinstance(output, outputs.Send | outputs.SendBulk)
            if machine is self.round or serving:
                await self._perform(machine, output)

    async def _perform(self, machine: Round, output: outputs.Output) -> None:
        assert self._links is not None
        assert self._group is not None
        match output:
            case outputs.Send(to=to, message=message):
                self.say(to, message)
            case outputs.SendBulk(to=to, header=header, payload=payload):
                self.sent["bulk"] += 1
                self._links.send_bulk(to, wire.encode_bulk_header(header), payload)
            case outputs.Persist(entry=entry):
                await self._workshop.persist(entry)
            case outputs.Commit(certificate=certificate, ledger=ledger):
                if self.auditor is not None:
                    self.auditor.ending(machine, certificate.value)
                if self.watcher is not None:
                    aggregate_P = self._workshop.aggregate_vector()
                    self.watcher.ending(machine, certificate.value, self.encoded, aggregate_P)
                if self.judge is not None:
                    self.judge.ending(machine, self.encoded, certificate.value, ledger)
                await self._workshop.commit(certificate, ledger)
            case outputs.NeedState(certificate=certificate):
                await self._workshop.need_state(certificate)
            case outputs.Claimed(claim=claim, hashes=hashes):
                if self.auditor is not None:
                    self.auditor.claimed(claim, hashes)
            case outputs.Behind(sender=sender, round=number):
                self._workshop.behind(sender, number)
            case outputs.AttemptOver() | outputs.GaveUp() | outputs.LeftOut() | outputs.Refused():
                if isinstance(output, outputs.AttemptOver):
                    self._links.drop_bulk()
                    if self.auditor is not None:
                        self.auditor.attempt_over(output.reason)
                self._workshop.note(output)
            case _:
                self._group.create_task(self._job(machine, output))

    async def _job(self, machine: Round, output: outputs.Output) -> None:
        """A piece of work whose result goes back into the round."""
        began = self._clock()
        match output:
            case outputs.Encode():
                local = await self._workshop.encode()
                outs = machine.encoded(local, self._clock())
            case outputs.AggregatePart(attempt=attempt, part=part, sources=sources):
                encoded = await asyncio.to_thread(
                    aggregate.aggregate_part,
                    part,
                    sources,
                    codec=machine.context.aggregate_codec(machine.context.key),
                    rules=machine.context.rules,
                    seed=machine.context.prior,
                )
                self.armed = encoded.armed / len(encoded.chunks)
                outs = machine.aggregated(attempt, encoded, self._clock())
            case outputs.DecodePart():
                outs = await self._decode(machine, output)
            case outputs.Combine(attempt=attempt, sources=sources):
                outs = await self._combine(machine, attempt, sources)
            case outputs.Apply(attempt=attempt, ledger=ledger):
                digest = await self._workshop.apply(ledger)
                outs = machine.applied(attempt, digest, ledger, self._clock())
            case outputs.Obtain(value=value, ledger=ledger, holders=holders):
                success = await self._workshop.obtain(value, ledger, holders)
                outs = machine.obtained(output, success, self._clock())
            case _:
                raise AssertionError(f"nobody performs {type(output).__name__}")
        self.seconds[type(output).__name__] += self._clock() - began  # type: ignore[assignment]
        self.feed(machine, outs)

    async def _decode(self, machine: Round, job: outputs.DecodePart) -> list[outputs.Output]:
        part, rules, vector = job.part, machine.context.rules, self._workshop.aggregate_vector()
        try:
            async with self._writing(machine, job.attempt):
                await asyncio.to_thread(
                    aggregate.decode_part,
                    part,
                    job.chunks,
                    codec=machine.context.aggregate_codec(part.reducer),
                    rules=rules,
                    out_P=vector,
                )
                louder = await asyncio.to_thread(is_louder, vector, part, rules, job.limit)
        except CodecError as error:
            log.warning("aggregate of %s does not decode: %s", peer_id_of(part.reducer), error)
            return []
        if louder:
            log.warning("aggregate of %s is larger than its cut can make it", peer_id_of(part.reducer))
            if self.auditor is not None:
                self.auditor.impossible(part.reducer)
            return []
        if machine is self.round and self.encoded is not None:
            self.encoded.decoded(job.attempt, part, job.chunks)
        return machine.decoded(job.attempt, part.reducer, self._clock())

    async def _combine(
        self, machine: Round, attempt: int, sources: Sequence[aggregate.Source]
    ) -> list[outputs.Output]:
        async with self._writing(machine, attempt):
            await asyncio.to_thread(
                aggregate.combine,
                sources,
                rules=machine.context.rules,
                out_P=self._workshop.aggregate_vector(),
            )
        if machine is self.round and self.encoded is not None:
            self.encoded.combined(attempt, sources)
        return machine.decoded(attempt, machine.context.key, self._clock())

    @asynccontextmanager
    async def _writing(self, machine: Round, attempt: int) -> AsyncIterator[None]:
        """Write into the aggregate vector, once no attempt before does so any more."""
        this = (machine.context.ledger.round, attempt)
        while any(count for other, count in self._decoding.items() if other != this):
            await self._moved.wait()
        self._decoding[this] += 1
        try:
            yield
        finally:
            self._decoding[this] -= 1
            self._move()

    # -- from the links --------------------------------------------------------------------------------

    async def on_control(self, peer: bytes, frame: Frame) -> None:
        """A control frame. Raises RemoteError when it is not what the protocol allows."""
        try:
            message = wire.decode(frame.header)
        except MessageError as error:
            raise RemoteError(peer, error.reason, str(error)) from error
        machine = self.round
        self.received[_tag(message)] += 1
        self.pulse.heard(peer)
        if isinstance(message, Ping | Pong | Leave):
            self.pulse.receive(peer, message)
            return
        if self._late_workshop is None:
            return
        if self._serve_past(peer, message):
            return
        if machine is None:
            self._workshop.behind(peer, message.round)
        elif message.round < machine.context.ledger.round:
            if isinstance(message, Call | Join):  # never an answer to an answer
                self._workshop.answer_stale(peer, message.round)
            self._workshop.note(outputs.Refused(peer, "stale", f"round {message.round}"))
        else:
            self.feed(machine, machine.receive(peer, message, self._clock()))
            if self.auditor is not None and isinstance(message, Proposal | Committed):
                said = message.value if isinstance(message, Proposal) else message.certificate.value
                self.auditor.heard(said)

    def _serve_past(self, peer: bytes, message: Message) -> bool:
        """Whether the message is one about blobs of the round before, which has taken it."""
        past = self._past
        if past is None or not isinstance(message, Fetching) or message.round != past.context.ledger.round:
            return False
        self.feed(past, past.receive(peer, message, self._clock()))
        return True

    async def on_bulk(self, peer: bytes, frame: Frame) -> None:
        """A bulk frame: waits until its roster is known here; meanwhile its sender is not read."""
        try:
            header = wire.decode_bulk_header(frame.header)
        except MessageError as error:
            raise RemoteError(peer, error.reason, str(error)) from error
        self.received["bulk"] += 1
        self.pulse.heard(peer)
        machine = await self._machine_for(header)
        if machine is not None:
            self.feed(machine, machine.receive_bulk(peer, header, frame.payload, self._clock()))
        elif self._late_workshop is not None:
            detail = f"{header.kind} of round {header.round}, attempt {header.attempt}"
            self._workshop.note(outputs.Refused(peer, "stale", detail))

    async def _machine_for(self, header: BulkHeader) -> Round | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(BULK_WAIT_S):
                while True:
                    machine = self.round
                    expects = machine.expects(header) if machine is not None else "later"
                    if expects != "later":
                        return machine if expects == "now" else None
                    await self._moved.wait()
        return None

    def _move(self) -> None:
        """Wake whoever waits for the round to move; later waiters wait for the next move."""
        self._moved.set()
        self._moved = asyncio.Event()


def _tag(message: Message) -> str:
    return str(message.__struct_config__.tag)
