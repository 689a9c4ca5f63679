"""A voter's two-phase votes and its lock, as in Tendermint and HotStuff-2.

A voter prepares at most one value in an attempt and commits at most one. When it sees a quorum of
prepares it locks on their value, and from then on prepares another value only if shown a prepare
certificate of a later attempt. Everything is journalled before it is said, so that a restart cannot make
it say something else. Weak votes are signed apart from final ones and never lock.
"""

from typing import Literal

import msgspec

from talkoot.averaging.certificate import Prepared, Signature, Value, vote_bytes
from talkoot.averaging.context import Context
from talkoot.averaging.messages import MessageError, Vote
from talkoot.averaging.quorum import quorum

PhaseName = Literal["prepare", "commit"]


class Said(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One vote that we gave."""

    attempt: int
    phase: PhaseName
    value_hash: bytes


class Journal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a voter must remember across a restart within one round."""

    round: int
    prior: bytes
    said: tuple[Said, ...] = ()
    lock: Prepared | None = None

    def encode(self) -> bytes:
        """Bytes for the disk."""
        return msgspec.msgpack.encode(self)


def decode_journal(data: bytes) -> Journal:
    """Parse a journal entry from our own disk. Raises ValueError (msgspec.DecodeError) when torn."""
    return msgspec.msgpack.decode(data, type=Journal)


class Voter:
    """One voter in one round."""

    def __init__(self, context: Context, journal: Journal | None) -> None:
        self._context = context
        mine = journal is not None and (journal.round, journal.prior) == (
            context.ledger.round,
            context.prior,
        )
        fresh = Journal(round=context.ledger.round, prior=context.prior)
        self.journal = journal if mine and journal is not None else fresh

    @property
    def lock(self) -> Prepared | None:
        """The highest prepare certificate that we saw."""
        return self.journal.lock

    @property
    def last_attempt(self) -> int:
        """The latest attempt in which we voted, -1 if none: earlier ones are over for us."""
        return max((said.attempt for said in self.journal.said), default=-1)

    def prepare(self, value: Value, attempt: int, weak: bool, shown: Prepared | None) -> Vote:
        """Our prepare vote for a value that we recomputed. Raises MessageError when the lock forbids it."""
        lock = self.journal.lock
        if lock is not None and lock.value.hash != value.hash:
            newer = shown is not None and shown.attempt > lock.attempt and shown.value.hash == value.hash
            if not newer:
                raise MessageError("locked", f"locked on another value since attempt {lock.attempt}")
        return self._vote(value, attempt, "prepare", weak)

    def commit(self, prepared: Prepared) -> Vote:
        """Lock on a prepare certificate of the running attempt and commit its value."""
        if not prepared.weak and (self.lock is None or prepared.attempt > self.lock.attempt):
            self.journal = msgspec.structs.replace(self.journal, lock=prepared)
        return self._vote(prepared.value, prepared.attempt, "commit", prepared.weak)

    def _vote(self, value: Value, attempt: int, phase: PhaseName, weak: bool) -> Vote:
        value_hash = value.hash
        for said in self.journal.said:
            if (said.attempt, said.phase) == (attempt, phase) and said.value_hash != value_hash:
                raise MessageError("already_voted", f"voted for another value in attempt {attempt}")
        said_now = Said(attempt, phase, value_hash)
        if said_now not in self.journal.said:
            self.journal = msgspec.structs.replace(self.journal, said=(*self.journal.said, said_now))
        message = vote_bytes(value, value_hash, attempt, phase, weak)
        signature = self._context.signer.sign(message)
        return Vote(
            round=self._context.ledger.round,
            attempt=attempt,
            value_hash=value_hash,
            phase=phase,
            voter=self._context.key,
            signature=signature,
        )


class Tally:
    """The leader's count of one phase's votes for one value."""

    def __init__(self, context: Context, value: Value, attempt: int, phase: PhaseName, weak: bool) -> None:
        self._context = context
        self._value = value
        self._hash = value.hash
        self._message = vote_bytes(value, self._hash, attempt, phase, weak)
        electorate = [v for v in context.ledger.voters if not weak or v in value.present]
        self._voters = set(electorate)
        self._needed = quorum(len(electorate))
        self._signatures: dict[bytes, bytes] = {}
        self.announced = False

    def add(self, vote: Vote) -> bool:
        """Count a vote; True when it just completed a quorum. Raises MessageError."""
        if vote.voter not in self._voters:
            raise MessageError("not_a_voter")
        if vote.value_hash != self._hash:
            raise MessageError("different_value", "a vote for another value")
        if not self._context.verify(vote.voter, self._message, vote.signature):
            raise MessageError("signature", "a vote not signed by its voter")
        self._signatures[vote.voter] = vote.signature
        if self.announced or len(self._signatures) < self._needed:
            return False
        self.announced = True
        return True

    @property
    def votes(self) -> tuple[Signature, ...]:
        """The signatures so far, ascending by voter."""
        return tuple(Signature(voter, self._signatures[voter]) for voter in sorted(self._signatures))
