"""What a round asks its driver to do. The round itself performs nothing.

Outputs are to be carried out in order; a `Persist` must be on disk before anything after it is sent. Jobs
(`Encode`, `AggregatePart`, `DecodePart`, `Combine`, `Apply`) may run in worker threads; their results come
back by the method of `Round` that each names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from talkoot.averaging.aggregate import Source
from talkoot.averaging.certificate import Certificate, Contribution, Value
from talkoot.averaging.claims import Claim
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.messages import BulkHeader, Message
from talkoot.averaging.parts import Part


@dataclass(frozen=True, slots=True)
class Send:
    """Send a control message."""

    to: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class SendBulk:
    """Send a bulk frame; frames to one peer arrive in order."""

    to: bytes
    header: BulkHeader
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Encode:
    """Snapshot and encode our contribution; answer with `Round.encoded`."""


@dataclass(frozen=True, slots=True)
class AggregatePart:
    """Run `aggregate.aggregate_part`; answer with `Round.aggregated`."""

    attempt: int
    part: Part
    sources: Sequence[Source]


@dataclass(frozen=True, slots=True)
class DecodePart:
    """Run `aggregate.decode_part` into the driver's aggregate vector; answer with `Round.decoded`, unless the
    part turns out larger than it can be (`loudness.is_louder`): such a part has not come."""

    attempt: int
    part: Part
    chunks: Sequence[bytes | memoryview]
    limit: float
    """Norm that it can have at most."""


@dataclass(frozen=True, slots=True)
class Combine:
    """Run `aggregate.combine` into the driver's aggregate vector; answer with `Round.decoded` and our key."""

    attempt: int
    sources: Sequence[Source]


@dataclass(frozen=True, slots=True)
class Apply:
    """Take the outer step into a staged state and hash it; answer with `Round.applied`."""

    attempt: int
    ledger: Ledger
    """The ledger after the round."""


@dataclass(frozen=True, slots=True)
class Obtain:
    """Fetch into the staged state the result of a value that a quorum prepared, from a peer that computed it.

    Answer with `Round.obtained`. No result may be staged until then.
    """

    value: Value
    ledger: Ledger
    """The ledger after the round."""
    holders: tuple[bytes, ...]
    """Whom to ask, those that voted for it first."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the voter's journal entry durably before the outputs that follow."""

    entry: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """The round is over: make the staged state the outer state."""

    certificate: Certificate
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class NeedState:
    """The round is committed, but its bytes are not here: fetch the state that this certifies."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class AttemptOver:
    """An attempt ended without a certificate."""

    attempt: int
    reason: str
    suspects: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class GaveUp:
    """No more attempts for now; the contribution is kept for the next `Round.close`."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The leader left contributions out of the cut."""

    contributions: tuple[Contribution, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A reducer signed what its part aggregates to, and is answerable for it (`talkoot.averaging.claims`)."""

    claim: Claim
    hashes: tuple[bytes, ...]
    """Of the chunks that it claims; their root is in the claim."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A message was refused without effect."""

    sender: bytes
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Behind:
    """A peer speaks of a later round than ours."""

    sender: bytes
    round: int


Output = (
    Send
    | SendBulk
    | Encode
    | AggregatePart
    | DecodePart
    | Combine
    | Apply
    | Obtain
    | Persist
    | Commit
    | NeedState
    | AttemptOver
    | GaveUp
    | LeftOut
    | Claimed
    | Refused
    | Behind
)
