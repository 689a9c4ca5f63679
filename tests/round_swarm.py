"""A swarm of `Round` machines in one process on a virtual clock: real codecs and arithmetic, toy signatures.

Deterministic for a seed. Messages take `latency_s` (plus jitter); a killed peer neither speaks nor hears,
and the others notice after `notice_s`.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import torch
from blake3 import blake3

from talkoot.averaging import aggregate, outputs
from talkoot.averaging.audits import Audits
from talkoot.averaging.certificate import Certificate
from talkoot.averaging.context import Context
from talkoot.averaging.contribution import (
    LocalContribution,
    encode_delta,
    settle,
    sign_contribution,
    step_scale,
)
from talkoot.averaging.digest import state_tree
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.loudness import is_louder
from talkoot.averaging.messages import BulkHeader, Message, Role
from talkoot.averaging.outer import outer_step
from talkoot.averaging.reputation import subject_of
from talkoot.averaging.revocations import Revocation
from talkoot.averaging.robustness import Robustness
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.round import Round
from talkoot.averaging.rules import CHUNK_NUMEL, Adaptive, Feedback, Rules, Timing
from talkoot.averaging.verdicts import Verdict, sign_verdict
from talkoot.averaging.voting import Journal, decode_journal
from talkoot.averaging.wire import decode, decode_bulk_header, encode, encode_bulk_header
from talkoot.compression.arithmetic import ARITHMETIC_VERSION


class ToySigner:
    """Signs with a hash keyed by the public key: for tests of the protocol, not of cryptography."""

    def __init__(self, number: int) -> None:
        self.key = blake3(b"peer" + number.to_bytes(4, "little")).digest()

    def sign(self, message: bytes) -> bytes:
        return blake3(message, key=self.key).digest() * 2


def toy_verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Counterpart of `ToySigner.sign`."""
    return signature == blake3(message, key=key).digest() * 2


@dataclass
class Node:
    """One simulated peer: the state that a daemon keeps around its `Round`."""

    signer: ToySigner
    theta: torch.Tensor
    momentum: torch.Tensor
    ledger: Ledger
    digest: bytes
    local: torch.Tensor
    carry: torch.Tensor
    aggregate: torch.Tensor
    steps: int = 30
    role: Role = "full"
    upload: float = 0.0
    round: Round | None = None
    alive: bool = True
    frozen: bool = False
    staged: tuple[torch.Tensor, torch.Tensor] | None = None
    journal: Journal | None = None
    commits: list[Certificate] = field(default_factory=list)
    notes: list[outputs.Output] = field(default_factory=list)
    bytes_sent: int = 0

    @property
    def key(self) -> bytes:
        return self.signer.key

    @property
    def machine(self) -> Round:
        """The running round."""
        assert self.round is not None
        return self.round


class Swarm:
    """N nodes that start from the same state with different local parameters."""

    def __init__(
        self,
        num_peers: int,
        *,
        numel: int = 3 * 2**18 - 1000,
        chunk_size: int = CHUNK_NUMEL,
        num_voters: int | None = None,
        seed: int = 0,
        codec: str = "int8",
        aggregate_codec: str | None = None,
        error_feedback: Feedback = False,
        adaptive: Adaptive | None = None,
        timing: Timing | None = None,
        exchange: Literal["dense", "sparse"] = "dense",
        robustness: Robustness | None = None,
        audits: Audits | None = None,
    ) -> None:
        self.random = Random(seed)
        generator = torch.Generator().manual_seed(seed)
        signers = [ToySigner(number) for number in range(num_peers)]
        voters = tuple(sorted(signer.key for signer in signers[: num_voters or num_peers]))
        self.rules = Rules(
            swarm=bytes(32),
            numel=numel,
            founders=voters[:1],
            invited_vote=audits is None,
            admit=lambda peer, proof: proof if proof == b"token-" + peer[:8] else None,
            inner_steps=30,
            outer_learning_rate=0.7,
            outer_momentum=0.5,
            error_feedback=error_feedback,
            adaptive=adaptive,
            max_absent_rounds=2,
            chunk_size=chunk_size,
            exchange=exchange,
            robustness=robustness or Robustness(),
            audits=audits,
        )
        self.timing = timing or Timing(form_s=2.0, exchange_s=4.0, certify_s=2.0)
        theta = torch.randn(numel, generator=generator)
        ledger = Ledger(
            swarm=bytes(32),
            arithmetic=ARITHMETIC_VERSION,
            round=0,
            voters=voters,
            absent=(0,) * len(voters),
            global_step=0,
            tokens=0,
            reference_steps=30,
            codec=codec,
            aggregate_codec=aggregate_codec or codec,
        )
        digest = state_tree(theta, torch.zeros(numel), ledger.encode()).digest
        self.nodes = {
            signer.key: Node(
                signer,
                theta.clone(),
                torch.zeros(numel),
                ledger,
                digest,
                theta + 0.01 * torch.randn(numel, generator=generator),
                torch.zeros(numel),
                torch.zeros(numel),
            )
            for signer in signers
        }
        self.latency_s = 0.01
        self.notice_s = 0.05
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._arrivals: dict[tuple[bytes, bytes, str], float] = {}
        self._waiting: dict[tuple[bytes, bytes], deque[tuple[BulkHeader, bytes]]] = {}
        self.slow_jobs: dict[bytes, float] = {}
        """Seconds that each job of a node takes, where it is not the usual millisecond."""
        self.slow_links: dict[bytes, float] = {}
        """Seconds between two bulk frames that a node receives, where they come as fast as they are sent."""
        self.num_obtained = 0
        self.delivered = 0
        self.on_delivery: Callable[[int], None] = lambda count: None
        self.counted: Counter[str] = Counter()
        self.judge: Callable[[bytes, bytes], int | None] = lambda auditor, subject: None
        """(auditor, subject) -> score, or None: no verdict."""
        self.revoked: Callable[[bytes, Ledger], tuple[Revocation, ...]] = lambda key, ledger: ()
        """(peer, its ledger) -> the invites that it takes back."""
        self.vouches: Callable[[bytes, bytes], bool] = lambda voter, candidate: True

    # -- the virtual world ---------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at a virtual time."""
        self._sequence += 1
        heapq.heappush(self._queue, (when, self._sequence, action))

    def run(self, until: float) -> None:
        """Let virtual time pass, as long as something happens."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = until

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Let virtual time pass until something is so."""
        while not condition():
            assert self._queue, "it never comes to that"
            self.now, _, action = heapq.heappop(self._queue)
            action()

    def start_round(self) -> None:
        """Give every living node a fresh round and the connections to the others."""
        for node in self.nodes.values():
            self.give_round(node)
        self.connect()

    def give_round(self, node: Node) -> None:
        context = Context(
            ledger=node.ledger,
            prior=node.digest,
            rules=self.rules,
            timing=self.timing,
            signer=node.signer,
            verify=toy_verify,
            verdict=lambda: self._verdict(node),
            revoked=lambda: self.revoked(node.key, node.ledger),
            vouches=lambda key: self.vouches(node.key, key),
        )
        node.round = Round(context, role=node.role, upload=0.0, earliest=self.now, journal=node.journal)

    def _verdict(self, node: Node) -> Verdict | None:
        subject = subject_of(node.key, node.ledger, node.digest, self.rules)
        score = self.judge(node.key, subject) if subject is not None else None
        if subject is None or score is None:
            return None
        number, prior = node.ledger.round, node.digest
        return sign_verdict(
            node.signer,
            swarm=self.rules.swarm,
            round_number=number,
            prior=prior,
            subject=subject,
            score=score,
        )

    def connect(self) -> None:
        """Tell every living node who can be reached now."""
        living = {key for key, node in self.nodes.items() if node.alive}
        for key in sorted(living):
            node = self.nodes[key]
            if node.round is not None:
                self.perform(node, node.round.reachable(living - {key}, self.now))

    def close(self, *keys: bytes) -> None:
        """These nodes (all by default) find that the round is to close."""
        for key in keys or tuple(self.nodes):
            node = self.nodes[key]
            if node.alive and node.round is not None:
                self.perform(node, node.round.close(self.now))
                self._schedule_tick(node)

    def kill(self, key: bytes) -> None:
        """SIGKILL: silent from now on; the others notice a little later."""
        self.nodes[key].alive = False
        self.at(self.now + self.notice_s, self.connect)

    def _schedule_tick(self, node: Node) -> None:
        if node.round is not None and node.round.next_tick is not None:
            self.at(max(node.round.next_tick, self.now) + 1e-9, lambda: self._tick(node, node.round))

    def _tick(self, node: Node, machine: Round | None) -> None:
        if node.alive and machine is not None and machine is node.round:
            due = machine.next_tick
            if due is not None and self.now >= due:
                self.perform(node, machine.tick(self.now))

    # -- outputs -------------------------------------------------------------------------------------

    def perform(self, node: Node, outs: list[outputs.Output]) -> None:
        """Carry out what a round asks for."""
        for out in outs:
            self._perform(node, out)
        self._schedule_tick(node)

    def _perform(self, node: Node, out: outputs.Output) -> None:
        machine = node.round
        assert machine is not None
        match out:
            case outputs.Send(to=to, message=message):
                data = encode(message)
                node.bytes_sent += len(data)
                self._deliver(node.key, to, "control", lambda: self._receive(to, node.key, decode(data)))
            case outputs.SendBulk(to=to, header=header, payload=payload):
                head = encode_bulk_header(header)
                node.bytes_sent += len(head) + len(payload)
                body = bytes(payload)
                self._deliver(
                    node.key, to, "bulk", lambda: self._bulk(to, node.key, decode_bulk_header(head), body)
                )
            case outputs.Encode():
                self._job(node, lambda: machine.encoded(self._encode(node), self.now))
            case outputs.AggregatePart(attempt=attempt, part=part, sources=sources):
                done = aggregate.aggregate_part(
                    part,
                    sources,
                    codec=machine.context.aggregate_codec(node.key),
                    rules=self.rules,
                    seed=machine.context.prior,
                )
                self._job(node, lambda: machine.aggregated(attempt, done, self.now))
            case outputs.DecodePart(attempt=attempt, part=part, chunks=chunks, limit=limit):
                aggregate.decode_part(
                    part,
                    chunks,
                    codec=machine.context.aggregate_codec(part.reducer),
                    rules=self.rules,
                    out_P=node.aggregate,
                )
                assert not is_louder(node.aggregate, part, self.rules, limit)
                self._job(node, lambda: machine.decoded(attempt, part.reducer, self.now))
            case outputs.Combine(attempt=attempt, sources=sources):
                aggregate.combine(sources, rules=self.rules, out_P=node.aggregate)
                self._job(node, lambda: machine.decoded(attempt, node.key, self.now))
            case outputs.Apply(attempt=attempt, ledger=ledger):
                digest = self._apply(node, ledger)
                self._job(node, lambda: machine.applied(attempt, digest, ledger, self.now))
            case outputs.Obtain():
                self._job(node, lambda: machine.obtained(out, self._obtain(node, out), self.now))
            case outputs.Persist(entry=entry):
                node.journal = decode_journal(entry)
            case outputs.Commit(certificate=certificate, ledger=ledger):
                self._commit(node, certificate, ledger)
            case outputs.Refused(reason=reason):
                self.counted[reason] += 1
                node.notes.append(out)
            case _:
                node.notes.append(out)

    def _job(self, node: Node, done: Callable[[], list[outputs.Output]]) -> None:
        machine = node.round

        def finish() -> None:
            if node.alive and node.round is machine:
                self.perform(node, done())

        self.at(self.now + self.slow_jobs.get(node.key, 0.001), finish)

    def _encode(self, node: Node) -> LocalContribution | None:
        if node.steps * 8 < self.rules.inner_steps:
            return None
        index, chunks = encode_delta(
            node.theta,
            node.local,
            node.carry,
            scale=step_scale(node.steps, node.ledger.reference_steps),
            codec=codec_of(node.ledger.codec, node.digest, node.key),
            rules=self.rules,
        )
        header = sign_contribution(
            index,
            ledger=node.ledger,
            prior=node.digest,
            steps=node.steps,
            tokens=node.steps * 100,
            carried=0,
            carried_tokens=0,
            admission=b"" if node.key in node.ledger.voters else b"token-" + node.key[:8],
            rules=self.rules,
            signer=node.signer,
            upload=node.upload,
            seconds=1.0,
        )
        return LocalContribution(header, index, chunks)

    def _apply(self, node: Node, ledger: Ledger) -> bytes:
        theta, momentum = torch.empty_like(node.theta), torch.empty_like(node.momentum)
        outer_step(
            node.theta,
            node.momentum,
            node.aggregate,
            learning_rate=self.rules.outer_learning_rate,
            momentum=self.rules.outer_momentum,
            theta_out_P=theta,
            momentum_out_P=momentum,
        )
        node.staged = (theta, momentum)
        return state_tree(theta, momentum, ledger.encode()).digest

    def _obtain(self, node: Node, job: outputs.Obtain) -> bool:
        """Take what is staged, or committed, at a living holder."""
        for key in job.holders:
            other = self.nodes[key]
            for state in (other.staged, (other.theta, other.momentum)) if other.alive else ():
                if state and state_tree(*state, job.ledger.encode()).digest == job.value.digest:
                    node.staged = (state[0].clone(), state[1].clone())
                    self.num_obtained += 1
                    return True
        return False

    def restart(self, key: bytes) -> None:
        """Back from a SIGKILL with what was on disk: its state and its journal, no contribution."""
        node = self.nodes[key]
        node.alive, node.staged, node.steps = True, None, 0
        self.give_round(node)
        self.connect()
        self.close(key)

    def _commit(self, node: Node, certificate: Certificate, ledger: Ledger) -> None:
        assert node.staged is not None
        assert node.round is not None
        node.theta, node.momentum = node.staged
        node.ledger, node.digest = ledger, certificate.value.digest
        node.commits.append(certificate)
        if node.round.local is not None:
            counted = node.key in {item.key for item in certificate.value.cut}
            settle(
                node.carry,
                node.round.local.chunks,
                counted=counted,
                rules=self.rules,
            )

    # -- messages ------------------------------------------------------------------------------------

    def _deliver(self, sender: bytes, to: bytes, lane: str, action: Callable[[], None]) -> None:
        """In order on each lane between two peers, like a stream."""
        when = self.now + self.latency_s * (0.5 + self.random.random())
        gap_s = self.slow_links.get(to, 0.0) if lane == "bulk" else 0.0
        when = max(when, self._arrivals.get((sender, to, lane), 0.0) + max(gap_s, 1e-9))
        self._arrivals[sender, to, lane] = when

        def arrive() -> None:
            if self.nodes[to].alive and self.nodes[sender].alive:
                self.delivered += 1
                self.on_delivery(self.delivered)
                if self.nodes[to].alive:
                    action()

        self.at(when, arrive)

    def _receive(self, to: bytes, sender: bytes, message: Message) -> None:
        node = self.nodes[to]
        if node.round is not None:
            self.perform(node, node.round.receive(sender, message, self.now))

    def _bulk(self, to: bytes, sender: bytes, header: BulkHeader, payload: bytes) -> None:
        """Bulk frames wait in order until their roster is known, as behind a reader that stops reading."""
        self._waiting.setdefault((sender, to), deque()).append((header, payload))
        if len(self._waiting[sender, to]) == 1:
            self._drain(sender, to, 0)

    def _drain(self, sender: bytes, to: bytes, tries: int) -> None:
        node, waiting = self.nodes[to], self._waiting[sender, to]
        while waiting and node.round is not None and node.alive:
            expects = node.round.expects(waiting[0][0])
            if expects == "later" and tries < 1000:
                self.at(self.now + 0.005, lambda: self._drain(sender, to, tries + 1))
                return
            header, payload = waiting.popleft()
            if expects == "now":
                self.perform(node, node.round.receive_bulk(sender, header, payload, self.now))
