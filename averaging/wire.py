"""How bytes from others become messages: msgpack, decoded strictly into declared types, all sizes checked."""

from typing import Literal

import msgspec

from talkoot.averaging.certificate import Certificate, Prepared, Value, check_value
from talkoot.averaging.ledger import MAX_VOTERS
from talkoot.averaging.messages import (
    MAX_ASKED,
    MAX_ATTEMPT,
    MAX_CONTROL_BYTES,
    MAX_MEMBERS,
    MAX_PIECES,
    MAX_RUNS,
    MAX_SECONDS,
    NUM_PHASES,
    Abort,
    Aggregate,
    BulkHeader,
    Call,
    Committed,
    Cut,
    Fetching,
    Have,
    Holding,
    Join,
    Lock,
    Message,
    MessageError,
    Ping,
    Pong,
    Proposal,
    Receipt,
    Roster,
    Vote,
    Wait,
    Want,
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
        case Aggregate(roster=roster, cut=cut, hashes=hashes, claim=claim):
            sizes_ok = len(cut) <= MAX_MEMBERS and claim.sizes_ok
            sizes = _not_32_bytes(roster, *cut, *hashes)
            return sizes if sizes_ok else "an aggregate with too many peers or a claim out of range"
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
