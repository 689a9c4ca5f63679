"""What peers say to each other in a round.

Control messages are small and travel on one channel, bulk frames (chunks) on another. What is forwarded or
may serve as a proof is signed. How bytes become these values: `talkoot.averaging.wire`.
"""

from typing import Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from talkoot.averaging.certificate import Certificate, Contribution, Prepared, Value
from talkoot.averaging.claims import Claim
from talkoot.averaging.digest import content_hash
from talkoot.averaging.memory import Memory
from talkoot.averaging.parts import Part
from talkoot.averaging.revocations import Revocation
from talkoot.averaging.signing import Signer, Verify
from talkoot.averaging.verdicts import Verdict

MAX_CONTROL_BYTES = 512 * 1024
"""Longest control message that is accepted."""

MAX_BULK_HEADER_BYTES = 64 * 1024
"""Longest header of a bulk frame."""

MAX_ATTEMPT = 10**6
MAX_MEMBERS = 64
NUM_PHASES = 3
MAX_SECONDS = 7 * 86400.0

MAX_PIECES = 1 << 14
"""Most pieces that a blob of the sparse exchange is cut into."""

MAX_RUNS = 1024
"""Most runs of pieces in one message."""

MAX_ASKED = 8
"""Most pieces that a peer may ask of another at once."""

Role = Literal["full", "client", "observer"]


class MessageError(ValueError):
    """Bytes or a value that the protocol does not allow. `reason` is from a closed list."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="t", array_like=False
):
    """Base of control messages: each belongs to one round of one branch."""

    round: int
    attempt: int


class Call(_Message, frozen=True, tag="call"):
    """A leader opens an attempt: join me."""

    prior: bytes
    form_s: float
    """How long it will wait for joins."""


class Ahead(_Message, frozen=True, tag="ahead"):
    """To a leader whose attempt is over: we are at `attempt` by now."""


class Leave(_Message, frozen=True, tag="leave"):
    """The sender is about to stop: nobody should wait for it. Round and attempt say nothing."""


class Ping(_Message, frozen=True, tag="ping"):
    """Are you there? Round and attempt say nothing."""

    nonce: int


class Pong(_Message, frozen=True, tag="pong"):
    """Yes."""

    nonce: int


class Held(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Chunks of a contribution that a reducer holds from an earlier attempt."""

    contributor: bytes
    first_chunk: int
    num_chunks: int

    @property
    def chunks(self) -> range:
        """Their numbers."""
        return range(self.first_chunk, self.first_chunk + self.num_chunks)


class Join(_Message, frozen=True, tag="join"):
    """A peer takes part in an attempt, with a contribution or without."""

    key: bytes
    prior: bytes
    role: Role
    upload: float
    """Measured bytes a second, 0 when not measured."""
    contribution: Contribution | None
    lock: Prepared | None
    """The voter's highest prepare certificate of this round."""
    holds: tuple[Held, ...]
    """What need not be sent to it again, ascending by contributor."""
    expects_s: tuple[float, ...]
    """How long it expects each phase to take (`deadlines.PHASES`), 0 when it does not know."""
    memory: Memory
    """Whether it knows what it signed before in this round."""
    verdict: Verdict | UnsetType = UNSET
    """What the voter says of the contribution that it had to audit after the round before."""
    revoked: tuple[Revocation, ...] | UnsetType = UNSET
    """Invite keys that the founder takes back, ascending, where there are any."""
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the joining peer signs."""
        return b"talkoot join\0" + msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b""))


class Roster(_Message, frozen=True, tag="roster"):
    """The leader's list of who takes part, and who reduces which part."""

    leader: bytes
    prior: bytes
    members: tuple[Join, ...]
    """Ascending by key."""
    parts: tuple[Part, ...]
    weak: bool
    """True when the voters present are no quorum of all voters."""
    locked: Prepared | None
    """The highest lock among the members: its value is proposed again, nothing is exchanged."""
    took_s: float
    """From the call to the last join."""
    exchange_s: float
    """How long the leader waits from here to the cut."""
    certify_s: float
    """How long it waits from the cut (the proposal, where a value is locked) to the certificate."""
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the leader signs."""
        return b"talkoot roster\0" + msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b""))

    @property
    def hash(self) -> bytes:
        """Names this roster in later messages of the attempt."""
        return content_hash(self.unsigned())


class Receipt(_Message, frozen=True, tag="receipt"):
    """A reducer holds every chunk of its part of one contribution."""

    roster: bytes
    reducer: bytes
    contributor: bytes
    root: bytes
    """Root in the contribution's header."""
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the reducer signs."""
        return b"talkoot receipt\0" + msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b""))


class Run(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Consecutive pieces of one blob; blobs are numbered as the roster lists their contributors."""

    blob: int
    first: int
    count: int


class Have(_Message, frozen=True, tag="have"):
    """To all members: the sender is in the attempt and holds these pieces, beside those named before."""

    runs: tuple[Run, ...]


class Asked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One piece that is asked for."""

    blob: int
    piece: int
    index: bool
    """Whether the blob's index is lacking, too."""


class Want(_Message, frozen=True, tag="want"):
    """Send me these pieces, in this order. Replaces what was asked for before and is not under way."""

    pieces: tuple[Asked, ...]


class Wait(_Message, frozen=True, tag="wait"):
    """The answer to a `Want` that is not served at once: look elsewhere, or wait."""

    blob: int
    piece: int


class Holding(_Message, frozen=True, tag="holding"):
    """A voter's statement, to the leader: which contributions of the roster it holds whole."""

    roster: bytes
    voter: bytes
    blobs: bytes
    """Bit i of byte j: contribution 8 j + i in the roster's order."""
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the voter signs."""
        return b"talkoot holding\0" + msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b""))


class Cut(_Message, frozen=True, tag="cut"):
    """The contributions that count, fixed by the leader before anything is aggregated."""

    roster: bytes
    contributors: tuple[bytes, ...]
    """Ascending."""
    took_s: float
    """From the roster to the last receipt."""
    holdings: tuple[Holding, ...]
    """Sparse exchange: the statements that it follows from, ascending by voter."""
    promoted: tuple[bytes, ...] | UnsetType = UNSET
    """Contributors that are to become voters by what they earned, ascending; where there are audits."""
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the leader signs."""
        return b"talkoot cut\0" + msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b""))


class Aggregate(_Message, frozen=True, tag="aggregate"):
    """A reducer's statement about its part: the hashes of the encoded aggregate's chunks."""

    roster: bytes
    cut: tuple[bytes, ...]
    hashes: tuple[bytes, ...]
    claim: Claim
    """What the reducer signs; it stands without the roster."""


class Proposal(_Message, frozen=True, tag="proposal"):
    """The leader proposes what the round consists of."""

    value: Value
    weak: bool
    prepared: Prepared | None
    """Given when the value was locked in an earlier attempt."""


class Vote(_Message, frozen=True, tag="vote"):
    """A voter's signature in one phase of one attempt."""

    value_hash: bytes
    phase: Literal["prepare", "commit"]
    voter: bytes
    signature: bytes


class Lock(_Message, frozen=True, tag="lock"):
    """The leader shows the prepare certificate: voters lock on it and commit."""

    prepared: Prepared


class Committed(_Message, frozen=True, tag="committed"):
    """The certificate of a round, to whoever needs it."""

    certificate: Certificate


class Abort(_Message, frozen=True, tag="abort"):
    """The leader ends its attempt: go on to the next."""

    reason: str
    suspects: tuple[bytes, ...]
    """Peers that should not reduce in the next attempt."""


Fetching = Have | Want | Wait
"""What members of a sparse exchange say to each other."""

Message = (
    Call
    | Ahead
    | Leave
    | Ping
    | Pong
    | Join
    | Roster
    | Receipt
    | Have
    | Want
    | Wait
    | Holding
    | Cut
    | Aggregate
    | Proposal
    | Vote
    | Lock
    | Committed
    | Abort
)

SignedT = TypeVar("SignedT", Join, Roster, Receipt, Holding, Cut)


def sign(message: SignedT, signer: Signer) -> SignedT:
    """The same message with our signature."""
    return msgspec.structs.replace(message, signature=signer.sign(message.unsigned()))


def signed_by(message: Join | Roster | Receipt | Holding | Cut, key: bytes, verify: Verify) -> bool:
    """Whether `key` signed this message."""
    return verify(key, message.unsigned(), message.signature)


BulkKind = Literal["index", "slice", "statement", "aggregate", "piece"]


class BulkHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Header of a bulk frame; its payload is an index, an `Aggregate` message, or one encoded chunk."""

    kind: BulkKind
    round: int
    attempt: int
    owner: bytes
    """Contributor of an index, slice or piece; reducer of a statement or aggregate."""
    chunk: int
    """Number of a chunk, or of a piece of the sparse exchange."""
