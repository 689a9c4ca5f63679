"""The ledger: all that later rounds' arithmetic depends on besides parameters and momentum.

It is small, part of the digest, and changes only by `talkoot.averaging.succession`.
"""

import msgspec

from talkoot.averaging.digest import content_hash
from talkoot.compression import codec as codecs

MAX_LEDGER_BYTES = 256 * 1024
"""Longest encoded ledger that is accepted."""

MAX_VOTERS = 64
MAX_STANDINGS = 1024
MAX_TOKENS_USED = 1024
NORM_HISTORY = 16
"""Rounds whose median contribution norm is remembered."""


class LedgerError(ValueError):
    """Bytes that are not a valid ledger."""


class Standing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How a peer that is not (yet) a voter stands in an open swarm."""

    key: bytes
    rounds: int
    """Rounds in which its contribution was counted."""


class Used(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An invite key and the only peer that it admits."""

    token: bytes
    peer: bytes


class Ledger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """State of the swarm before round `round`."""

    swarm: bytes
    """Swarm id, 32 bytes."""
    arithmetic: int
    """Version of consensus arithmetic that the next round uses."""
    round: int
    """Number of the next round, which is also the number of committed rounds."""
    voters: tuple[bytes, ...]
    """E_r, ascending: who may lead, reduce and sign in the next round."""
    absent: tuple[int, ...]
    """For each voter, how many rounds in a row it was not in the roster."""
    global_step: int
    """Sum over rounds of the weighted mean of inner steps: the clock of the learning-rate schedule."""
    tokens: int
    """Tokens in all counted contributions so far."""
    reference_steps: int
    """h_ref: weighted mean of inner steps in the last round; contributions are scaled to it."""
    codec: str
    """Codec of contributions in the next round."""
    aggregate_codec: str
    """Codec of aggregates in the next round."""
    norms: tuple[float, ...] = ()
    """Median contribution norms of the last rounds, oldest first."""
    standings: tuple[Standing, ...] = ()
    """Peers on probation or past it, ascending by key; open swarms only."""
    used: tuple[Used, ...] = ()
    """Invite keys that were used, ascending."""

    def encode(self) -> bytes:
        """The one byte string that stands for this ledger."""
        return msgspec.msgpack.encode(self)

    @property
    def hash(self) -> bytes:
        """Content hash of the encoded ledger."""
        return content_hash(self.encode())


def decode_ledger(data: bytes) -> Ledger:
    """Parse a ledger. Raises LedgerError when it is too long, malformed or inconsistent."""
    if len(data) > MAX_LEDGER_BYTES:
        raise LedgerError(f"ledger of {len(data)} bytes; at most {MAX_LEDGER_BYTES} are accepted")
    try:
        ledger = msgspec.msgpack.decode(data, type=Ledger)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"malformed ledger: {error}") from error
    problem = _problem(ledger)
    if problem:
        raise LedgerError(problem)
    if ledger.encode() != data:
        raise LedgerError("ledger is not in its canonical form")
    return ledger


def _problem(ledger: Ledger) -> str | None:
    keys = (ledger.swarm, *ledger.voters, *(s.key for s in ledger.standings))
    if any(len(key) != 32 for key in keys):
        return "a key or id in the ledger is not 32 bytes long"
    if not 1 <= len(ledger.voters) <= MAX_VOTERS:
        return f"{len(ledger.voters)} voters; 1 to {MAX_VOTERS} are possible"
    if list(ledger.voters) != sorted(set(ledger.voters)):
        return "voters are not in ascending order or repeat"
    if len(ledger.absent) != len(ledger.voters):
        return "absences do not match the voters"
    if min(ledger.round, ledger.global_step, ledger.tokens, *ledger.absent) < 0:
        return "a count in the ledger is negative"
    if ledger.reference_steps < 1:
        return "reference_steps must be at least 1"
    if len(ledger.standings) > MAX_STANDINGS or len(ledger.used) > MAX_TOKENS_USED:
        return "the ledger lists too many peers"
    if len(ledger.norms) > NORM_HISTORY or any(not 0 <= norm < float("inf") for norm in ledger.norms):
        return "norms in the ledger are out of range"
    try:
        codecs.get(ledger.codec), codecs.get(ledger.aggregate_codec)
    except codecs.CodecError as error:
        return str(error)
    return None


def voters_hash(voters: tuple[bytes, ...]) -> bytes:
    """Hash that names a set of voters (ascending keys)."""
    return content_hash(b"".join(voters))
