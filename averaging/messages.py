"""What peers say to each other in a round, and how received bytes become these values.

Control messages are small and travel on one channel, bulk frames (chunks) on another. Everything is
msgpack, decoded strictly into declared types. What is forwarded or may serve as a proof is signed.
"""

from typing import Literal, TypeVar

import msgspec

from talkoot.averaging.certificate import Certificate, Contribution, Prepared, Value, check_value
from talkoot.averaging.digest import content_hash
from talkoot.averaging.ledger import MAX_VOTERS
from talkoot.averaging.parts import Part
from talkoot.averaging.signing import Signer, Verify

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
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the leader signs."""
        return b"talkoot cut\0" + msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b""))


class Aggregate(_Message, frozen=True, tag="aggregate"):
    """A reducer's statement about its part: the hashes of the encoded aggregate's chunks."""

    roster: bytes
    cut: tuple[bytes, ...]
    reducer: bytes
    hashes: tuple[bytes, ...]
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the reducer signs."""
        return b"talkoot aggregate\0" + msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b""))


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

_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A control message as bytes."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes) -> Message:
    """Parse a control message and check its sizes. Raises MessageError, never anything else."""
    if len(data) > MAX_CONTROL_BYTES:
        raise MessageError("oversized", f"control message of {len(data)} bytes")
    try:
        message = _decoder.decode(data)
    except (ValueError, RecursionError) as error:  # a string that is no UTF-8 is no msgspec.DecodeError
        raise MessageError("malformed", str(error)) from error
    problem = _problem(message)
    if problem:
        raise MessageError("malformed", problem)
    return message


def _problem(message: Message) -> str | None:
    """Why a decoded message is out of bounds, or None."""
    if not (0 <= message.round <= 2**53 and 0 <= message.attempt <= MAX_ATTEMPT):
        return "round or attempt out of range"
    match message:
        case Call(prior=prior, form_s=form_s):
            return _first(len(prior) != 32 and "prior digest is not 32 bytes", _not_a_time(form_s))
        case Ping(nonce=nonce) | Pong(nonce=nonce):
            return None if 0 <= nonce < 2**63 else "nonce out of range"
        case Join():
            return _join_problem(message)
        case Roster():
            return _roster_problem(message)
        case Proposal(value=value, prepared=prepared):
            return _first(_value_problem(value), _votes_problem(prepared))
        case Lock(prepared=prepared):
            return _votes_problem(prepared)
        case Committed(certificate=certificate):
            return _votes_problem(certificate)
        case Receipt(roster=roster, reducer=reducer, contributor=contributor, root=root):
            return _not_32_bytes(roster, reducer, contributor, root)
        case Vote(value_hash=value_hash, voter=voter):
            return _not_32_bytes(value_hash, voter)
        case Cut(roster=roster, contributors=keys, holdings=holdings, took_s=took_s):
            many = len(keys) > MAX_MEMBERS or len(holdings) > MAX_MEMBERS
            sizes = _not_32_bytes(roster, *keys)
            return _first(many and "too many peers", sizes, _not_a_time(took_s), *map(_problem, holdings))
        case Abort(suspects=keys):
            return "too many peers" if len(keys) > MAX_MEMBERS else _not_32_bytes(*keys)
        case Have() | Want() | Wait():
            return _fetching_problem(message)
        case Holding(roster=roster, voter=voter, blobs=blobs):
            sizes_ok = len(roster) == 32 and len(voter) == 32 and len(blobs) <= MAX_MEMBERS // 8
            return None if sizes_ok else "a holding with a field of the wrong size"
        case Aggregate(roster=roster, cut=cut, reducer=reducer, hashes=hashes):
            many = len(cut) > MAX_MEMBERS
            return "too many peers" if many else _not_32_bytes(roster, *cut, reducer, *hashes)
        case _:
            return None


def _first(*problems: str | Literal[False] | None) -> str | None:
    """The first problem that there is."""
    return next((problem for problem in problems if problem), None)


def _not_32_bytes(*names: bytes) -> str | None:
    return "a key or hash is not 32 bytes long" if any(len(name) != 32 for name in names) else None


def _not_a_time(seconds: float) -> str | None:
    return None if 0 <= seconds <= MAX_SECONDS else "not a length of time"


def _join_problem(join: Join) -> str | None:
    names = join.contribution.names if join.contribution else ()
    if problem := _not_32_bytes(join.key, join.prior, *names, *(held.contributor for held in join.holds)):
        return problem
    if not 0 <= join.upload < float("inf"):
        return "bandwidth is no number"
    holders = [held.contributor for held in join.holds]
    if len(holders) > MAX_MEMBERS or holders != sorted(set(holders)):
        return "what a reducer holds is out of order"
    if len(join.expects_s) != NUM_PHASES or any(_not_a_time(seconds) for seconds in join.expects_s):
        return "what it expects is no length of time"
    if any(not 0 <= held.first_chunk <= held.first_chunk + held.num_chunks < 2**32 for held in join.holds):
        return "what a reducer holds is out of range"
    return _votes_problem(join.lock)


def _roster_problem(roster: Roster) -> str | None:
    if not 1 <= len(roster.members) <= MAX_MEMBERS or len(roster.parts) > MAX_MEMBERS:
        return "roster of the wrong size"
    times = (roster.took_s, roster.exchange_s, roster.certify_s)
    return _first(
        _not_32_bytes(roster.leader, roster.prior, *(part.reducer for part in roster.parts)),
        *map(_not_a_time, times),
        *map(_join_problem, roster.members),
        _votes_problem(roster.locked),
    )


def _fetching_problem(message: Fetching) -> str | None:
    match message:
        case Have(runs=runs):
            if len(runs) > MAX_RUNS:
                return "too many runs"
            sound = all(_is_piece(run.blob, run.first + run.count - 1) for run in runs)
            sound = sound and all(run.first >= 0 and run.count >= 1 for run in runs)
        case Want(pieces=pieces):
            sound = len(pieces) <= MAX_ASKED and all(_is_piece(item.blob, item.piece) for item in pieces)
        case Wait(blob=blob, piece=piece):
            sound = _is_piece(blob, piece)
    return None if sound else "a piece that there cannot be"


def _is_piece(blob: int, piece: int) -> bool:
    return 0 <= blob < MAX_MEMBERS and 0 <= piece < MAX_PIECES


def _votes_problem(voted: Prepared | Certificate | None) -> str | None:
    if voted is None:
        return None
    names = [vote.voter for vote in voted.votes]
    many = len(names) > MAX_VOTERS and "too many votes"
    return _first(many, _not_32_bytes(*names), _value_problem(voted.value))


def _value_problem(value: Value) -> str | None:
    try:
        check_value(value)
    except ValueError as error:
        return str(error)
    return None


SignedT = TypeVar("SignedT", Join, Roster, Receipt, Holding, Cut, Aggregate)


def sign(message: SignedT, signer: Signer) -> SignedT:
    """The same message with our signature."""
    return msgspec.structs.replace(message, signature=signer.sign(message.unsigned()))


def signed_by(
    message: Join | Roster | Receipt | Holding | Cut | Aggregate, key: bytes, verify: Verify
) -> bool:
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


def decode_bulk_header(data: bytes) -> BulkHeader:
    """Parse the header of a bulk frame. Raises MessageError."""
    try:
        header = msgspec.msgpack.decode(data, type=BulkHeader)
    except (ValueError, RecursionError) as error:
        raise MessageError("malformed", str(error)) from error
    if len(header.owner) != 32 or not 0 <= header.chunk < 2**32:
        raise MessageError("malformed", "owner or chunk out of range")
    if not (0 <= header.round <= 2**53 and 0 <= header.attempt <= MAX_ATTEMPT):
        raise MessageError("malformed", "round or attempt out of range")
    return header


def encode_bulk_header(header: BulkHeader) -> bytes:
    """Header of a bulk frame as bytes."""
    return msgspec.msgpack.encode(header)
