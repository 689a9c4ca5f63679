"""What is held against a peer, and how much: a named penalty for each reason for which something is refused.

The measure is one question: can an honest peer of this version or the one before do it, whatever its clock,
its network, its disk, its restarts and its branch of history? If so it costs nothing. What only a broken
machine does is `low`; what no machine does by accident is more. Refusing is enough against all else.
"""

from collections.abc import Mapping
from typing import Literal

from talkoot.averaging.reasons import REASONS as ROUND_REASONS
from talkoot.dht.errors import REASONS as WIRE_REASONS
from talkoot.dht.network import Source

Penalty = Literal["none", "low", "mid", "high", "fatal"]

POINTS: Mapping[Penalty, float] = {"none": 0.0, "low": 1.0, "mid": 5.0, "high": 25.0, "fatal": 100.0}
"""How much each takes from a score: about 50, 10, 2 and 1 in a short time are a ban."""

MAX_POINTS = 100.0
"""No score is worse: so much is forgotten in half an hour."""

HALF_LIFE_S = 600.0
"""In this time half of what is held against a peer is forgotten. One `low` a minute, which is as often as a
peer with a rotten disk is asked for state, levels off at 15 points, below both limits."""

DISCONNECT_POINTS = 20.0
"""From here on each offence closes a peer's connections, and it has no place that is kept for those that we
chose. It may come again: who goes on is banned, who does not is forgiven."""

BAN_POINTS = 50.0
"""From here on it is refused: for `BAN_S`, over restarts, until somebody lifts it."""

BAN_S = 12 * 3600.0
"""Keys are free: who lies comes back with another one, and a longer ban would punish mistakes alone."""

PENALTIES: Mapping[tuple[Source, str], tuple[Penalty, str]] = {
    ("wire", "malformed"): ("mid", "both ends check frames, on an authenticated stream; versions have names"),
    ("wire", "oversized"): ("high", "the sending side refuses to send it, by the same published limits"),
    ("wire", "flood"): ("low", "more a second than any round needs; told at most once a second"),
    ("record", "malformed"): ("mid", "who stores a record has checked it, its own or another's"),
    ("record", "oversized"): ("mid", "the same"),
    ("record", "signature"): ("mid", "the same: a record is stored by who signed it or who verified it"),
    ("record", "foreign"): ("mid", "the same: each swarm has a place of its own in the directory"),
    ("state", "malformed"): ("mid", "an answer that does not parse; it is asked again after a minute"),
    ("state", "oversized"): ("mid", "an answer longer than what was asked for"),
    ("state", "foreign"): ("mid", "the manifest of another swarm under this one's name"),
    ("state", "signature"): ("mid", "a certificate is verified before it is kept"),
    ("state", "repeated_vote"): ("mid", "the same"),
    ("state", "wrong_hash"): ("low", "a disk may rot"),
    ("state", "wrong_index"): ("low", "the same"),
    ("state", "not_finite"): ("low", "the same"),
    ("metrics", "malformed"): ("mid", "an answer that does not parse, or counts what cannot be"),
    ("metrics", "oversized"): ("mid", "an answer longer than the protocol has"),
    ("round", "signature"): ("mid", "what is passed on was verified, what is signed needs nothing else"),
    ("round", "not_a_founder"): ("mid", "the manifest says who founded, and a ledger does not change it"),
    ("round", "not_issued"): ("mid", "who takes an invite back signed it"),
    ("round", "repeated_vote"): ("mid", "the same"),
    ("round", "wrong_hash"): ("low", "memory fails, too: a chunk that is not what its sender signed"),
    ("round", "wrong_index"): ("low", "the same"),
    ("round", "unproven"): ("high", "a proof is verified before it is passed on, and does not fade"),
    ("round", "not_finite"): ("low", "a training that diverged on a broken device"),
}
"""By where it happened and for what reason, with why so. Everything else costs nothing: late and early
messages, other rounds, attempts and branches, votes for something else, two statements (a copied disk), what
a restarted peer forgot, full queues, silence. `malformed` in a round contradicts what *we* remember."""

OPERATOR = "operator"
"""Whose ban it is if not our own score's; a label of the counter of bans."""

PROVEN = ("lied", "two_claims")
"""What a proof may show (`talkoot.peer.audits.proofs`); such a ban needs no points."""

REASONS = tuple(sorted({*PROVEN, *(reason for _, reason in PENALTIES)}))
"""Labels of the counters of penalties and bans."""


def penalty_of(source: Source, reason: str) -> Penalty:
    """Which penalty something carries; `none` for whatever is not on the list."""
    return PENALTIES.get((source, reason), ("none", ""))[0]


assert {reason for _, reason in PENALTIES} <= {*ROUND_REASONS, *WIRE_REASONS}
