"""Replaying committed rounds: which of them, at what price, and one of them piece by piece.

Rounds are replayed onto the staged generation, the first from the outer state, each later one in place, so
that nothing of the outer state changes before the last digest is known to be the certified one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from talkoot.averaging.certificate import Certificate, CertificateError
from talkoot.averaging.digest import CHUNK_BYTES, HASH_BYTES
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.outer import outer_step
from talkoot.averaging.record import RecordError, RecordLayout
from talkoot.averaging.replay import Replay
from talkoot.averaging.rules import Rules
from talkoot.averaging.succession import ledger_after
from talkoot.peer.assembly import NotFinite
from talkoot.peer.choice import Choice, Way
from talkoot.peer.generation import Generation
from talkoot.peer.holdings import Holdings
from talkoot.peer.record_writer import RecordWriter
from talkoot.peer.sync import Branch, ways_apart


@dataclass(frozen=True, slots=True)
class Step:
    """One round to be replayed."""

    certificate: Certificate
    before: Ledger
    """The ledger before it."""
    layout: RecordLayout

    @property
    def value_hash(self) -> bytes:
        """Names its record."""
        return self.certificate.value.hash


def snapshot_bytes(numel: int) -> int:
    """Bytes of a snapshot: both vectors and their leaf hashes."""
    return 2 * (4 * numel + HASH_BYTES * -(-4 * numel // CHUNK_BYTES))


def plan(holdings: Holdings, branch: Branch) -> tuple[list[Step], Choice]:
    """What would have to be replayed to come from our head to the branch's, and whether that is cheaper.

    Lengths follow from certificates and ledgers alone; whether anybody has the records is another question.
    """
    ours, theirs = ways_apart(holdings, branch)
    rules, whole = holdings.rules, snapshot_bytes(holdings.rules.numel)

    def choice(way: Way, reason: str, num_bytes: int | None) -> Choice:
        return Choice(
            way=way, reason=reason, rounds=len(theirs), replay_bytes=num_bytes, snapshot_bytes=whole
        )

    if ours or not theirs:
        return [], choice("snapshot", "left_branch", None)
    steps, cost = list[Step](), 0
    try:
        for step in _steps(theirs, holdings.ledger, rules):
            steps.append(step)
            here = holdings.records is not None and holdings.records.find(step.value_hash) is not None
            cost += 0 if here else step.layout.num_bytes
            if cost >= whole:
                return [], choice("snapshot", "dearer", cost if len(steps) == len(theirs) else None)
    except RecordError:
        return [], choice("snapshot", "no_record", None)
    return steps, choice("replay", "cheaper", cost)


def _steps(chain: list[Certificate], ledger: Ledger, rules: Rules) -> Iterator[Step]:
    for certificate in chain:
        value = certificate.value
        yield Step(certificate, ledger, RecordLayout(value, ledger, rules))
        try:
            ledger = ledger_after(value, ledger, rules)
        except CertificateError as error:
            raise RecordError(error.reason, str(error)) from error


class RoundInReplay:
    """One round, applied to the staged generation as its record comes. Calls compute for long."""

    def __init__(
        self, step: Step, holdings: Holdings, staged: Generation, *, first: bool, keep: RecordWriter | None
    ) -> None:
        """The first round of several starts from the outer state, others from what is staged. What is found
        right is written to `keep`. Raises RecordError where the certificate does not fit the ledger."""
        self.replay = Replay(step.certificate.value, step.before, holdings.rules)
        self._layout = step.layout
        self._rules = holdings.rules
        self._staged = staged
        self._theta, self._momentum = (
            (holdings.store.theta, holdings.store.momentum) if first else (staged.theta, staged.momentum)
        )
        self._keep = keep
        self._next = -1
        """The chunk that comes next; -1: the index."""
        self._delta = torch.empty(self._rules.chunk_size)

    @property
    def complete(self) -> bool:
        """Whether the whole round is applied."""
        return self._next == self._layout.num_chunks

    @property
    def done_bytes(self) -> int:
        """Bytes of the record that were right."""
        if self._next < 0:
            return 0
        return self._layout.num_bytes if self.complete else self._layout.span(self._next)[0]

    def wanted(self, max_bytes: int) -> tuple[int, int]:
        """Offset and length of what comes next: no more than `max_bytes`, but for what must come whole."""
        if self._next < 0:
            return 0, self._layout.index_bytes
        size = self._layout.span(self._next)[1]
        count = min(max(1, max_bytes // size), self._layout.num_chunks - self._next)
        return self._layout.span(self._next, count)

    def take(self, data: bytes | memoryview) -> None:
        """What was wanted. Raises RecordError; what was right before the fault stays applied, and is not
        wanted again. Raises NotFinite where a right record comes to a state that nobody can use."""
        view = memoryview(data)
        if self._next < 0:
            self.replay.take_index(view)
            self._kept(view)
            return
        at = 0
        while at < len(view):
            size = self._layout.span(self._next)[1]
            self._apply(view[at : at + size])
            at += size

    def _apply(self, data: memoryview) -> None:
        start = self._next * self._rules.chunk_size
        numel = self._rules.chunk_numel(self._next)
        piece, delta = slice(start, start + numel), self._delta[:numel]
        self.replay.chunk(self._next, data, delta)
        outer_step(
            self._theta[piece],
            self._momentum[piece],
            delta,
            learning_rate=self._rules.outer_learning_rate,
            momentum=self._rules.outer_momentum,
            theta_out_P=self._staged.theta[piece],
            momentum_out_P=self._staged.momentum[piece],
        )
        for vector in (self._staged.theta, self._staged.momentum):
            if not bool(torch.isfinite(vector[piece]).all()):
                raise NotFinite(f"chunk {self._next} of its result holds a number that is none")
        self._kept(data)

    def _kept(self, data: memoryview) -> None:
        self._next += 1
        if self._keep is not None:
            self._keep.write(data)
