"""The ledger: all that later rounds' arithmetic depends on besides parameters and momentum.

It is small, part of the digest, and changes only by `talkoot.averaging.succession`.
"""

import msgspec
from msgspec import UNSET, UnsetType

from talkoot.averaging.digest import content_hash
from talkoot.compression import codec as codecs
from talkoot.compression.arithmetic import KNOWN_VERSIONS

MAX_LEDGER_BYTES = 256 * 1024
"""Longest encoded ledger that is accepted."""

MAX_VOTERS = 64
MAX_STANDINGS = 1024
MAX_TOKENS_USED = 1024
MAX_KNOWN = 512
"""Contributors whose reputation is remembered."""

MAX_CUT = 64
MAX_OPINION = 30
"""Strongest opinion of one voter, of either sign: one byte in the ledger."""
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


class Repute(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What audits say of one contributor (`talkoot.averaging.reputation`)."""

    key: bytes
    passed: int
    """Audits passed, as far as they count."""
    opinions: tuple[int, ...]
    """Of each voter, in their order; 0: none."""
    seen: int
    """Last round in which it was counted."""
    banned_until: int = 0
    """First round in which it may take part again; 0: it was not banned."""


class Audited(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What audits of trainers have come to."""

    known: tuple[Repute, ...] = ()
    """Ascending by key."""
    cut: tuple[bytes, ...] = ()
    """Contributors of the last round, ascending: who is audited next."""
    promoted: int = 0
    """Contributors that became voters in the running epoch."""


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
    """Sum over rounds of `reference_steps`: the clock of the learning-rate schedule."""
    tokens: int
    """Tokens in all counted contributions so far."""
    reference_steps: int
    """h_ref: weighted median of inner steps in the last round (arithmetic version 1: mean); contributions are
    scaled to it."""
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
    audited: Audited | UnsetType = UNSET
    """Swarms whose trainers are audited."""

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
    if ledger.arithmetic not in KNOWN_VERSIONS:
        return f"arithmetic version {ledger.arithmetic} is not known here: another release computes it"
    if ledger.reference_steps < 1:
        return "reference_steps must be at least 1"
    if len(ledger.standings) > MAX_STANDINGS or len(ledger.used) > MAX_TOKENS_USED:
        return "the ledger lists too many peers"
    if len(ledger.norms) > NORM_HISTORY or any(not 0 <= norm < float("inf") for norm in ledger.norms):
        return "norms in the ledger are out of range"
    problem = _audited_problem(ledger.audited, len(ledger.voters)) if ledger.audited is not UNSET else None
    if problem is not None:
        return problem
    try:
        codecs.get(ledger.codec), codecs.get(ledger.aggregate_codec)
    except codecs.CodecError as error:
        return str(error)
    return None


def _audited_problem(audited: Audited, num_voters: int) -> str | None:
    keys = [repute.key for repute in audited.known]
    if any(len(key) != 32 for key in (*keys, *audited.cut)):
        return "a key or id in the ledger is not 32 bytes long"
    if len(keys) > MAX_KNOWN or len(audited.cut) > MAX_CUT:
        return "the ledger lists too many peers"
    if keys != sorted(set(keys)) or list(audited.cut) != sorted(set(audited.cut)):
        return "audited peers are not in ascending order or repeat"
    if any(len(repute.opinions) != num_voters for repute in audited.known):
        return "opinions do not match the voters"
    counts = (count for item in audited.known for count in (item.passed, item.seen, item.banned_until))
    if min((audited.promoted, *counts)) < 0:
        return "a count in the ledger is negative"
    if any(abs(opinion) > MAX_OPINION for repute in audited.known for opinion in repute.opinions):
        return "an opinion in the ledger is out of range"
    return None


def voters_hash(voters: tuple[bytes, ...]) -> bytes:
    """Hash that names a set of voters (ascending keys)."""
    return content_hash(b"".join(voters))
